"""An adapter is merged as peft itself applies it, or refused with one sentence that names what does not fit."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.model

torch = pytest.importorskip("torch")

from peft import (  # noqa: E402
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config  # noqa: E402

from prefprobe.activations.adapters import merged  # noqa: E402
from prefprobe.errors import BadConfig  # noqa: E402

TINY = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
CONFIGS: dict[str, Callable[..., Any]] = {
    "llama": lambda **other: LlamaConfig(**TINY | other),
    "tied": lambda **other: LlamaConfig(**TINY | {"tie_word_embeddings": True} | other),
    "qwen": lambda **other: Qwen2Config(**TINY | other),
    "gpt2": lambda **other: GPT2Config(**{"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2} | other),
}
TOKENS = torch.arange(1, 13).reshape(2, 6)


def model_of(kind: str, **other: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[kind](**other)).eval()


def adapter_of(folder: Path, kind: str, config: Any, **other: Any) -> PeftModel:
    """An adapter of a model of that kind, in `folder`, all of its weights drawn at random."""
    tuned = get_peft_model(model_of(kind, **other), config)
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.copy_(0.3 * torch.randn(weight.shape) + 0.5)
    tuned.save_pretrained(folder)
    return tuned.eval()


def lora(*names: str, **other: Any) -> Any:
    return LoraConfig(**{"r": 2, "target_modules": list(names), "task_type": "CAUSAL_LM"} | other)


def change(folder: Path, weights: Callable[[dict[str, Any]], Any] | None = None, **config: Any) -> None:
    """Change the files of an adapter: its weights in place, keys of its configuration."""
    tensors = load_file(folder / "adapter_model.safetensors")
    if weights is not None:
        weights(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    about = folder / "adapter_config.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | config))


def refused(kind: str, folder: Path, **other: Any) -> str:
    with pytest.raises(BadConfig) as caught:
        merged(model_of(kind, **other), str(folder), "")
    sentence = str(caught.value)
    assert re.fullmatch(rf"{re.escape(str(folder))}: the adapter [^\n;]+; give a LoRA adapter [^\n;]+\.", sentence)
    return sentence


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", lora("q_proj", "v_proj")),
        ("llama", lora("q_proj", task_type=None)),
        ("llama", lora(target_modules="all-linear")),
        ("llama", lora(target_modules=r".*layers\.1\..*_proj")),
        ("llama", lora("q_proj", layers_to_transform=[1], use_rslora=True)),
        ("llama", lora("q_proj", use_dora=True)),
        ("llama", lora("q_proj", "lm_head", "embed_tokens")),
        ("llama", lora("q_proj", modules_to_save=["lm_head"])),
        ("llama", IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])),
        ("tied", lora(target_modules="all-linear")),
        ("tied", lora("q_proj", modules_to_save=["lm_head"])),
        ("qwen", lora("k_proj", bias="all")),
        ("gpt2", lora("c_attn", fan_in_fan_out=True)),
        ("gpt2", lora("attn.c_proj", "mlp.c_fc", fan_in_fan_out=True)),
    ],
)
def test_merged_is_what_peft_applies(kind: str, config: Any, tmp_path: Path) -> None:
    adapter_of(tmp_path, kind, config)
    with torch.inference_mode():
        applied = PeftModel.from_pretrained(model_of(kind), str(tmp_path)).eval()(TOKENS).logits
        ours = merged(model_of(kind), str(tmp_path), "").eval()(TOKENS).logits
        plain = model_of(kind)(TOKENS).logits
    torch.testing.assert_close(ours, applied, atol=1e-5, rtol=1e-4)
    assert (ours - plain).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("config", "other", "found"),
    [
        (lora("q_proj"), {"num_hidden_layers": 3}, r"weights without a place: .*layers\.2\..*lora_A"),
        (lora("q_proj"), {"hidden_size": 32}, r"size mismatch for .*q_proj\.lora_A"),
        (lora("q_proj", modules_to_save=["lm_head"]), {"vocab_size": 50}, r"size mismatch for .*lm_head"),
    ],
)
def test_an_adapter_of_another_size_is_refused(config: Any, other: dict[str, int], found: str, tmp_path: Path) -> None:
    adapter_of(tmp_path, "llama", config, **other)
    assert re.search(found, refused("llama", tmp_path))


@pytest.mark.parametrize(("of", "name", "on"), [("llama", "q_proj", "gpt2"), ("gpt2", "c_attn", "llama")])
def test_an_adapter_of_another_family_is_refused(of: str, name: str, on: str, tmp_path: Path) -> None:
    adapter_of(tmp_path, of, lora(name))
    assert re.search(rf"Target modules .*{name}.* not found", refused(on, tmp_path))


def rename(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def edit(tensors: dict[str, Any]) -> None:
        for key in sorted(tensors):
            tensors[key.replace(old, new)] = tensors.pop(key)

    return edit


def without(part: str) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.pop(next(key for key in sorted(tensors) if part in key))


@pytest.mark.parametrize(
    ("weights", "config", "found"),
    [
        (
            rename("base_model.model.model.", "base_model.model."),
            {},
            r"no weights for: base_model\.model\.model\.layers\.0",
        ),
        (rename("q_proj", "query"), {}, r"no weights for: .*layers\.0\.self_attn\.q_proj\.lora_A\.weight"),
        (without("lora_B"), {}, r"no weights for: .*layers\.0\.self_attn\.q_proj\.lora_B\.weight"),
        (None, {"layers_to_transform": [0]}, r"weights without a place: .*layers\.1\."),
        (None, {"target_modules": ["q_proj", "query"]}, r"changes query, which this model does not have"),
        (None, {"target_modules": ["q_proj", "k_proj"]}, r"no weights for: .*k_proj"),
        (None, {"target_modules": ["nothing"]}, r"Target modules .*nothing.* not found"),
        (None, {"r": 3}, r"size mismatch for .*q_proj"),
        (None, {"task_type": "SEQ_CLS"}, r"task SEQ_CLS, expected CAUSAL_LM"),
        (None, {"modules_to_save": ["lm_head"]}, r"lacks base_model\.model\.lm_head\.weight"),
        (None, {"peft_type": "UNHEARD_OF"}, r"UNHEARD_OF"),
    ],
)
def test_files_that_contradict_each_other_are_refused(
    weights: Callable[[dict[str, Any]], Any] | None, config: dict[str, Any], found: str, tmp_path: Path
) -> None:
    adapter_of(tmp_path, "llama", lora("q_proj"))
    change(tmp_path, weights, **config)
    assert re.search(found, refused("llama", tmp_path))


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    ],
)
def test_what_has_no_weights_to_merge_is_refused(config: Any, tmp_path: Path) -> None:
    adapter_of(tmp_path, "llama", config)
    assert "has no weights to merge" in refused("llama", tmp_path)


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_a_weight_that_serves_twice_is_not_changed_in_one_place(name: str, tmp_path: Path) -> None:
    adapter_of(tmp_path, "tied", lora("q_proj", name))
    assert re.search(rf"changes .*{name}, whose weights serve as embedding and as head", refused("tied", tmp_path))


def test_broken_files_are_refused(tmp_path: Path) -> None:
    adapter_of(tmp_path, "llama", lora("q_proj"))
    whole = (tmp_path / "adapter_model.safetensors").read_bytes()
    (tmp_path / "adapter_model.safetensors").write_bytes(whole[:-7])
    refused("llama", tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    refused("llama", tmp_path)
