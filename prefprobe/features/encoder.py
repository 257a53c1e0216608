"""Sentence encoders: what a text embedding alone knows of a task. In numpy, since CPU nodes have no torch."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy.special import erf
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer

from prefprobe.errors import BadConfig
from prefprobe.sources import fetch

Tensors = dict[str, np.ndarray]


def embed(source: str, revision: str, texts: Sequence[str]) -> np.ndarray:
    """Unit-length sentence embeddings (n, d) float32: the mean over tokens of a sentence-transformers encoder.

    Raises BadConfig for an encoder that pools in another way or is not a BERT (Devlin et al. 2019).
    """
    folder = fetch(source, revision)
    _check_pooling(folder, source)
    config = _read(folder, "config.json", source)
    kind = (config.get("model_type"), config.get("hidden_act"), config.get("position_embedding_type", "absolute"))
    if kind != ("bert", "gelu", "absolute"):
        raise BadConfig(
            f"{source}: only a BERT with GELU and absolute positions can be read (bert, gelu, absolute), "
            f"this encoder is {', '.join(map(str, kind))}; name another one."
        )
    tensors = _load_tensors(folder, source)
    tokenizer = _load_tokenizer(folder, source, config)
    try:
        out = np.empty((len(texts), config["hidden_size"]), dtype=np.float32)
        # One text at a time: no padding, and a text's vector has the same bits whatever other texts there are. Products
        # as small as these take longer on several threads than on one, four times as long where others use the cores.
        with threadpool_limits(1, user_api="blas"):
            for i, text in enumerate(texts):
                mean = _hidden(tensors, config, tokenizer.encode(text).ids).mean(0)
                out[i] = mean / np.linalg.norm(mean)
    except KeyError as error:
        raise BadConfig(f"{source}: its config.json or its weights lack {error}, which a BERT has.") from error
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
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError, TypeError, KeyError) as error:  # the last two: a type that numpy has not
        raise BadConfig(f"{source}: model.safetensors cannot be read as numpy arrays ({error}).") from error
    return {name.removeprefix("bert."): t.astype(np.float32) for name, t in tensors.items() if t.dtype.kind == "f"}


def _load_tokenizer(folder: Path, source: str, config: dict[str, Any]) -> Tokenizer:
    if not (folder / "tokenizer.json").is_file():
        raise BadConfig(f"{source}: the encoder has no tokenizer.json; save its tokenizer as a fast one.")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()  # a file may ask for padding, and for another length
    longest = _read(folder, "sentence_bert_config.json", source).get("max_seq_length")
    tokenizer.enable_truncation(max_length=longest or config["max_position_embeddings"])
    return tokenizer


def _check_pooling(folder: Path, source: str) -> None:
    pooling = _read(folder, "1_Pooling/config.json", source)
    mode = pooling.get("pooling_mode")  # newer encoders name the mode, older ones have a switch for each
    if not (mode == "mean" or pooling.get("pooling_mode_mean_tokens")) or pooling.get("pooling_mode_cls_token"):
        raise BadConfig(f"{source}: only encoders with mean pooling are supported, this one pools in another way.")


def _read(folder: Path, name: str, source: str) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads((folder / name).read_text())
    except (OSError, ValueError) as error:
        raise BadConfig(f"{source}: not a sentence-transformers encoder (no readable {name}).") from error
    return read
