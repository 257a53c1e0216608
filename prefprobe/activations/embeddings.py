"""Sentence encoders: what a text embedding alone knows of a task."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from prefprobe.activations.sources import fetch
from prefprobe.errors import BadConfig

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

_BATCH = 64


def embed(source: str, revision: str, texts: Sequence[str]) -> np.ndarray:
    """Unit-length sentence embeddings (n, d) float32: the mean over tokens of a sentence-transformers encoder.

    Raises BadConfig for an encoder that pools in another way.
    """
    folder = fetch(source, revision)
    _check_pooling(folder, source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        raise BadConfig(f"{source}: transformers cannot load this encoder: {str(error).splitlines()[0]}") from error
    longest = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), texts[i], i))
    out = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for at in range(0, len(order), _BATCH):
            rows = order[at : at + _BATCH]
            batch = tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            out[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return out


def _check_pooling(folder: Path, source: str) -> None:
    try:
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    except FileNotFoundError as error:
        raise BadConfig(f"{source}: not a sentence-transformers encoder (no 1_Pooling/config.json).") from error
    mode = pooling.get("pooling_mode")  # newer encoders name the mode, older ones have a switch for each
    if not (mode == "mean" or pooling.get("pooling_mode_mean_tokens")) or pooling.get("pooling_mode_cls_token"):
        raise BadConfig(f"{source}: only encoders with mean pooling are supported, this one pools in another way.")
