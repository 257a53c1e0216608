"""A BERT (Devlin et al. 2019) with mean pooling, in numpy, since CPU nodes have no torch."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from scipy.special import erf
from threadpoolctl import threadpool_info, threadpool_limits
from tokenizers import Tokenizer

from prefprobe.errors import BadConfig
from prefprobe.features.encoder_files import Encoder

Tensors = dict[str, np.ndarray]
_BLOCK = 64
"""Texts that are begun before whoever counts them may stop."""
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def embed_bert(
    folder: Path, source: str, encoder: Encoder, texts: Sequence[str], advance: Callable[[int], object]
) -> np.ndarray:
    """Unit-length means over the last hidden states (n, d) float32, of an `encoder` with nothing beyond that.

    Raises BadConfig for weights that are not a BERT's of this config.json.
    """
    config = encoder.config
    tensors = _load_tensors(folder, source)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()  # a file may ask for padding, and for another length
    tokenizer.enable_truncation(max_length=encoder.longest)
    out = np.empty((len(texts), config["hidden_size"]), dtype=np.float32)

    def embedded(text: str) -> np.ndarray:
        mean = _hidden(tensors, config, tokenizer.encode(text).ids).mean(0)
        return np.asarray(mean / np.linalg.norm(mean))

    threads = max((int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    try:
        # One text at a time: no padding, and a text's vector has the same bits whatever other texts there are. Products
        # as small as these take longer on several threads than on one, so it is texts that the threads share.
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(texts), _BLOCK):
                for i, vector in enumerate(pool.map(embedded, texts[start : start + _BLOCK]), start):
                    out[i] = vector
                    advance(1)
    except KeyError as error:
        raise BadConfig(f"{source}: its weights lack {error}, which a BERT has; save the encoder again.") from error
    except (IndexError, ValueError) as error:
        raise BadConfig(
            f"{source}: its weights have other shapes than its config.json and tokenizer say ({error}); "
            "save the encoder again."
        ) from error
    return out


def _hidden(tensors: Tensors, config: dict[str, Any], tokens: Sequence[int]) -> np.ndarray:
    """The last hidden state (len(tokens), d) of one text, without dropout."""

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled: np.ndarray = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(tokens), config["num_attention_heads"], -1).transpose(1, 0, 2)

    x = tensors["embeddings.word_embeddings.weight"][list(tokens)]
    x = x + tensors["embeddings.position_embeddings.weight"][: len(tokens)]
    x = normed(x + tensors["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        query, key, value = (heads(dense(x, f"{at}.attention.self.{name}")) for name in ("query", "key", "value"))
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ value
        mixed = mixed.transpose(1, 0, 2).reshape(x.shape)
        x = normed(x + dense(mixed, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = dense(x, f"{at}.intermediate.dense")
        inner = 0.5 * inner * (1 + erf(inner / math.sqrt(2)))  # GELU, exact
        x = normed(x + dense(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return x


def _load_tensors(folder: Path, source: str) -> Tensors:
    """Float32, named as in a bare BERT, whether or not the file says `bert.` before each name."""
    try:
        stored = dict(deserialize((folder / "model.safetensors").read_bytes()))
    except (OSError, SafetensorError) as error:
        raise BadConfig(f"{source}: model.safetensors cannot be read ({error}); download the encoder again.") from error
    return {
        name.removeprefix("bert."): _float32(tensor).reshape(tensor["shape"])
        for name, tensor in stored.items()
        if tensor["dtype"] in (*_FLOATS, "BF16")
    }


def _float32(tensor: dict[str, Any]) -> np.ndarray:
    """The values of a stored tensor, flat; a bfloat16, which numpy has not, is the upper half of a float32."""
    if tensor["dtype"] == "BF16":
        return (np.frombuffer(tensor["data"], "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(tensor["data"], _FLOATS[tensor["dtype"]]).astype(np.float32, copy=False)
