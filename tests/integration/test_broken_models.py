"""Folders that are no whole model: refused in one sentence, and never filled up with random weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from prefprobe import extract_activations, load_model
from prefprobe.activations.checks import check_model
from prefprobe.errors import BadConfig
from tests.integration.test_zoo import ZOO, save

pytestmark = pytest.mark.model
Weights = dict[str, torch.Tensor]
NAME = "model.layers.2.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(ZOO["Llama"].make(0), tmp_path)
    return tmp_path


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: values for name, values in weights.items() if part not in name}


def bias(module: str) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {f"{module}.bias": torch.ones(32)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(NAME), f"the model lacks the weights {NAME} (1 such)"),
        (without("lm_head"), "the model lacks the weights lm_head.weight (1 such)"),
        (
            lambda w: {f"other.{name}": values for name, values in w.items()},
            "the model lacks the weights lm_head.weight",
        ),
        (bias("model.layers.1.self_attn.q_proj"), "q_proj.bias, for which LlamaForCausalLM has no place (1 such)"),
        (lambda w: w | {NAME: w[NAME].T.contiguous()}, f"has the weights {NAME} in another shape (1 such)"),
        (lambda w: w | {"model.norm.weight": torch.full((32,), torch.nan)}, "is not finite"),
    ],
)
def test_a_model_is_loaded_whole_or_not_at_all(folder: Path, change: Callable[[Weights], Weights], said: str) -> None:
    rewrite(folder, change)
    with pytest.raises(BadConfig) as refused:
        check_model(load_model(str(folder), device="cpu"))
    assert said in str(refused.value)
    assert str(refused.value).count(". ") == 0


@pytest.mark.parametrize(
    "change",
    [bias("model.layers.4.self_attn.q_proj"), bias("vision_tower.layers.1.q_proj"), bias("model.mtp.layers.1")],
)
def test_what_is_beyond_its_blocks_is_not_of_the_model(folder: Path, change: Callable[[Weights], Weights]) -> None:
    before = load_model(str(folder), device="cpu").model.state_dict()
    rewrite(folder, change)
    after = load_model(str(folder), device="cpu").model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "[]"),
        ("config.json", "{"),
        ("model.safetensors", "torn"),
        ("tokenizer.json", "{}"),
        ("chat_template.jinja", "{{ messages | no_such_filter }}"),
        ("chat_template.jinja", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"),
    ],
)
def test_files_that_cannot_be_read_are_refused(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(BadConfig):
        load_model(str(folder), device="cpu")


def test_a_token_that_the_model_has_not_is_refused(folder: Path) -> None:
    """Of a tokenizer that was given a token which the model was not: in the template, or in a text alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["ode", "novel"])
    tokenizer.save_pretrained(folder)
    loaded = load_model(str(folder), device="cpu")
    assert extract_activations(loaded, ["a poem"], layers=[1])[1].shape == (1, 32)
    with pytest.raises(BadConfig, match=r"as token 264, and the model has embeddings of 264 tokens"):
        extract_activations(loaded, ["a novel"], layers=[1])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}novel"
    tokenizer.save_pretrained(folder)
    with pytest.raises(BadConfig, match=r"as token 264"):
        check_model(load_model(str(folder), device="cpu"))


def test_a_vocabulary_that_the_configuration_has_not_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 200}))
    with pytest.raises(BadConfig):
        load_model(str(folder), device="cpu")
