"""Tiny models of many families, as transformers makes them from its configurations, against its own passes of one prompt.

`make models` writes what came of each family into docs/models.md.
"""

import functools
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from prefprobe import LocalEngine, choose, extract_activations, load_model
from prefprobe.activations.checks import check_model
from prefprobe.activations.extraction import extract
from prefprobe.activations.masks import DistanceRules
from prefprobe.activations.model import LoadedModel
from prefprobe.choices.stimulus import STIMULUS
from prefprobe.errors import BadConfig
from prefprobe.progress import Progress
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore

pytestmark = pytest.mark.model

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
VOCABULARY = 264
WINDOWS = (64, 1024)
"""Prompts of a single task are shorter and longer than the first, and choices shorter than the second."""
SHORT = ["Sing.", "Add 2 and 5.", "Sum 2 and 3, then name it."]
LONG = "Tell me of the sea, and of all that the ships which cross it carry from one land to another, " * 3
TEXTS = {"a": SHORT[0], "b": SHORT[2], "c": LONG, "d": "Add 2 and 5, then 3."}
SYSTEMS = [None, "You hate sums."]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "head_dim": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 256,
    "bos_token_id": 257,
    "eos_token_id": 258,
}
_OLDER = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
_MOE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_DELTA: dict[str, Any] = {
    f"linear_{name}": n for name, n in [("num_key_heads", 2), ("num_value_heads", 2), ("key_head_dim", 8)]
} | {"linear_value_head_dim": 8}
_VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_DEEPSEEK: dict[str, Any] = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
}
_LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "rope_theta": 1e4}


@dataclass(frozen=True)
class Family:
    """How transformers' configuration of a tiny model is made; `windowed` also takes the window."""

    config: str
    settings: Mapping[str, Any]
    windowed: bool = False

    def make(self, window: int) -> Any:
        """The configuration."""
        given = {"sliding_window": window} if self.windowed else {}
        return getattr(transformers, self.config)(**self.settings, **given)


def _family(config: str, windowed: bool = False, /, **settings: Any) -> Family:
    return Family(config, {**_SHAPE, **settings}, windowed)


def _multimodal(config: str, text: str, **vision: Any) -> Family:
    """A wrapper for images and text; its text model has the window."""
    inner = getattr(transformers, text)(**_SHAPE, sliding_window=WINDOWS[0]).to_dict()
    return Family(
        config, {"text_config": inner, "vision_config": {**_VISION, "image_size": 28, "patch_size": 14, **vision}}
    )


ZOO: dict[str, Family] = {
    "Llama": _family("LlamaConfig"),
    "Llama 4": _family(
        "Llama4TextConfig", num_local_experts=2, intermediate_size_mlp=48, attention_chunk_size=64, no_rope_layers=[1, 1, 1, 0]
    ),
    "Qwen2": _family("Qwen2Config"),
    "Qwen2, windows in some layers": _family("Qwen2Config", True, use_sliding_window=True, max_window_layers=2),
    "Qwen3": _family("Qwen3Config"),
    "Qwen3-MoE": _family("Qwen3MoeConfig", **_MOE),
    "Qwen3-Next": _family("Qwen3NextConfig", **_MOE, shared_expert_intermediate_size=16, **_DELTA),
    "Mistral": _family("MistralConfig", True),
    "Ministral": _family("MinistralConfig", True),
    "Mixtral": _family("MixtralConfig", True, num_local_experts=4),
    "Phi": _family("PhiConfig"),
    "Phi-3": _family("Phi3Config", True),
    "Phi-3, longrope": _family("Phi3Config", original_max_position_embeddings=128, rope_parameters=_LONGROPE),
    "PhiMoE": _family("PhimoeConfig", True, num_local_experts=4),
    "Gemma": _family("GemmaConfig"),
    "Gemma 2": _family("Gemma2Config", True, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    "Gemma 3, text": _family("Gemma3TextConfig", True),
    "Gemma 3, images and text": _multimodal("Gemma3Config", "Gemma3TextConfig"),
    "Gemma 3n": _family(
        "Gemma3nTextConfig", True, vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=8, num_kv_shared_layers=1,
        laurel_rank=4, altup_num_inputs=2, activation_sparsity_pattern=[0.0] * 4, intermediate_size=[48] * 4,
    ),
    "Gemma 4, text": _family("Gemma4TextConfig", True, vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=8),
    "gpt-oss": _family("GptOssConfig", True, num_local_experts=4, num_experts_per_tok=2),
    "OLMo 2": _family("Olmo2Config"),
    "OLMo 3": _family("Olmo3Config", True),
    "Granite": _family("GraniteConfig", logits_scaling=8.0, residual_multiplier=0.5, attention_multiplier=0.3),
    "Cohere": _family("CohereConfig", logit_scale=0.25),
    "Cohere 2": _family("Cohere2Config", True, logit_scale=0.25),
    "SmolLM3": _family("SmolLM3Config"),
    "GLM-4": _family("Glm4Config"),
    "DeepSeek-V3": _family("DeepseekV3Config", **_DEEPSEEK),
    "StableLM": _family("StableLmConfig"),
    "StarCoder 2": _family("Starcoder2Config", True),
    "Nemotron": _family("NemotronConfig"),
    "GPT-2": Family("GPT2Config", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 2048}),
    "GPT-J": Family("GPTJConfig", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 4, "n_head": 4, "rotary_dim": 4}),
    "GPT-NeoX": Family("GPTNeoXConfig", {**_OLDER, "intermediate_size": 48}),
    "Falcon": Family("FalconConfig", _OLDER),
    "Falcon, ALiBi": Family("FalconConfig", {**_OLDER, "alibi": True}),
    "BLOOM": Family("BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 4, "n_head": 4}),
    "MPT": Family("MptConfig", {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 4, "n_heads": 4}),
    "OPT": Family("OPTConfig", {**_OLDER, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "OPT, embeddings of another width": Family(
        "OPTConfig", {**_OLDER, "ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False}
    ),
    "LFM2": _family("Lfm2Config", layer_types=["conv", "full_attention"] * 2),
    "Falcon-H1": _family("FalconH1Config", mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=8),
    "Mamba": Family("MambaConfig", {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 4, "state_size": 8}),
    "BERT": Family("BertConfig", {**_OLDER, "intermediate_size": 48}),
    "T5": Family("T5Config", {"vocab_size": VOCABULARY, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48}),
}  # fmt: skip
REFUSED = {"Gemma 3n", "Mamba", "BERT", "T5"}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Products this small take longer on two threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tokenizer() -> Any:
    """One token a byte, and the turns of TEMPLATE."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    built = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    built.add_special_tokens([AddedToken(name, special=True) for name in special])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token="<pad>", bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = TEMPLATE
    return fast


def save(config: Any, folder: Path) -> None:
    """Weights drawn wide enough that attention and logits are far from even."""
    torch.manual_seed(0)
    auto: Any = next(
        cls
        for cls in (
            transformers.AutoModelForCausalLM,
            transformers.AutoModelForImageTextToText,
            transformers.AutoModelForSeq2SeqLM,
        )
        if type(config) in cls._model_mapping
    )
    model = auto.from_config(config, dtype=torch.float32)
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.2)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


@dataclass(frozen=True)
class Outcome:
    """What came of a family."""

    refusal: str = ""
    alone: str = ""
    """Why prompts go through one at a time, if they do."""
    streams: float = 0.0
    """The largest relative difference of an activation."""
    logits: float = 0.0
    """The largest absolute difference of log P(A)/P(B)."""
    mass: float = 0.0


def measure(family: Family, window: int) -> Outcome:
    """Every layer and every choice, with and without a system prompt, beside the model's own passes."""
    with tempfile.TemporaryDirectory() as folder:
        save(family.make(window), Path(folder))
        try:
            loaded = load_model(folder, device="cpu")
            check_model(loaded)
        except BadConfig as refusal:
            return Outcome(refusal=str(refusal).replace(folder, "the model"))
    own = loaded.model
    streams = logits = mass = 0.0
    layers = list(range(loaded.n_layers))
    for system in SYSTEMS:
        texts = [*SHORT, LONG]
        got = extract_activations(loaded, texts, system=system, layers=layers)
        for row, text in enumerate(texts):
            states = one_pass(own, prompt(loaded, text, system)).hidden_states
            for layer in layers[:-1]:  # transformers reports the last one after the final norm
                right = states[layer + 1][0, -1].numpy()
                streams = max(streams, float(np.linalg.norm(got[layer][row] - right) / np.linalg.norm(right)))
        last = got[layers[-1]]
        assert np.isfinite(last).all()
        assert len({vector.tobytes() for vector in last}) == len(texts)
    pairs = [("a", "b"), ("b", "c"), ("d", "b")]
    prompts = {"": None} | {f"p{i}": s for i, s in enumerate(SYSTEMS) if s}
    engine = LocalEngine(loaded)
    tables = [
        choose(engine, TEXTS, pairs),
        choose(engine, TEXTS, pairs, prompts={k: v for k, v in prompts.items() if v}),
    ]
    for choice in (row for table in tables for row in table.to_pylist()):
        message = STIMULUS.message(TEXTS[choice["task_a"]], TEXTS[choice["task_b"]])
        asked = prompt(loaded, message, prompts[choice["prompt_id"]])
        right_logit, right_mass = by_hand(own, loaded.tokenizer, asked)
        logits = max(logits, abs(choice["logit"] - right_logit))
        mass = max(mass, abs(choice["label_mass"] - right_mass))
    return Outcome("", loaded.packing.why, streams, logits, mass)


def prompt(loaded: LoadedModel, text: str, system: str | None) -> list[int]:
    turns = [{"role": "system", "content": system}] * (system is not None) + [{"role": "user", "content": text}]
    rendered = loaded.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return list(loaded.tokenizer(rendered, add_special_tokens=False)["input_ids"])


def one_pass(model: Any, tokens: list[int]) -> Any:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens]), use_cache=False, output_hidden_states=True)


def by_hand(model: Any, tokenizer: Any, asked: list[int]) -> tuple[float, float]:
    """log P(A)/P(B), and the mass of both labels, from the model's own logits: "Task " is common, A and B differ."""
    common, a, b = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Task ", "A", "B"))
    log_p = one_pass(model, asked + common).logits[0].double().log_softmax(-1)
    at = len(asked) - 1
    shared = sum(float(log_p[at + i, token]) for i, token in enumerate(common))
    ends = log_p[at + len(common), [a[0], b[0]]]
    return float(ends[0] - ends[1]), float((shared + ends.logsumexp(0)).exp())


@functools.cache
def outcomes(name: str) -> tuple[Outcome, ...]:
    """What came of a family, at each window if it has any."""
    family = ZOO[name]
    return tuple(measure(family, window) for window in (WINDOWS if family.windowed else WINDOWS[:1]))


@pytest.mark.parametrize("name", ZOO)
def test_a_family_is_measured_as_its_own_passes_are_or_refused(name: str) -> None:
    for outcome in outcomes(name):
        assert bool(outcome.refusal) == (name in REFUSED), outcome
        assert outcome.streams <= 1e-4, outcome
        assert outcome.logits <= 1e-3, outcome
        assert outcome.mass <= 1e-5, outcome
        assert not outcome.refusal or outcome.refusal.count(". ") == 0, outcome


_LAYOUTS = {
    # frequencies are those of the longest prompt in a pass: one prompt alone, then a long one beside a short one
    "frequencies by length": (ZOO["Phi-3, longrope"], [["x" * 200], ["a" * 90, "z" * 150]]),
    # windows are counted in places of the pack: few prompts, then many that share a beginning
    "windows by place": (
        Family(
            "GPTNeoConfig",
            {
                **_OLDER,
                "num_layers": 4,
                "num_heads": 4,
                "attention_types": [[["global", "local"], 2]],
                "window_size": 64,
            },
        ),
        [["a" * 50 + "b", "a" * 50 + "c", "d"], [f"{a}{b}" + "e" * 30 for a in "abcdef" for b in "abcdef"]],
    ),
    # queries are scaled by their place in the pack: few prompts stay below the first step, then as long ones reach it
    "scales by place": (
        _family(
            "Llama4TextConfig", num_local_experts=2, intermediate_size_mlp=48, no_rope_layers=[1, 0, 1, 1], floor_scale=200,
            attn_scale=1.0,
        ),
        [["s" * 100 + letter * 20 for letter in letters] for letters in ("abc", "abcdefgh")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _LAYOUTS)
def test_prompts_that_are_laid_out_otherwise_than_those_before_are_right_too(name: str, tmp_path: Path) -> None:
    family, calls = _LAYOUTS[name]
    save(family.make(WINDOWS[0]), tmp_path)
    loaded = load_model(str(tmp_path), device="cpu")
    for texts in calls:
        got = extract_activations(loaded, texts, layers=[2])[2]
        own = [one_pass(loaded.model, prompt(loaded, text, None)).hidden_states[3][0, -1].numpy() for text in texts]
        np.testing.assert_array_less(np.linalg.norm(got - own, axis=1), 1e-4 * np.linalg.norm(own, axis=1))


@pytest.mark.parametrize("name", ["Gemma 3, text", "Phi-3, longrope", "Falcon, ALiBi"])
def test_a_mean_over_a_task_is_that_of_its_own_pass_in_packs_and_alone(name: str, tmp_path: Path) -> None:
    save(ZOO[name].make(WINDOWS[0]), tmp_path)
    loaded = load_model(str(tmp_path), device="cpu")
    for system in SYSTEMS:
        texts = [*SHORT, LONG]
        got = extract_activations(loaded, texts, system=system, layers=[1], position="mean")[1]
        for row, text in enumerate(texts):
            start, stop = loaded.prompts.located(text, system)
            tokens = prompt(loaded, text, system)
            assert loaded.tokenizer.decode(tokens[start:stop]) == text.strip()
            own = one_pass(loaded.model, tokens).hidden_states[2][0, start:stop].numpy().mean(0)
            assert np.linalg.norm(got[row] - own) < 1e-4 * np.linalg.norm(own)


def test_a_task_beyond_the_context_is_named_before_any_pass(tmp_path: Path) -> None:
    """Of a model whose config.json does not say what its context is: the step `tasks` did not know."""
    save(_family("LlamaConfig", max_position_embeddings=100).make(0), tmp_path / "model")
    loaded = load_model(str(tmp_path / "model"), device="cpu")
    parts = StepStore(ObjectStore.open(str(tmp_path / "store")), "extract", "0" * 64, {})
    rows = [("short", "a", None), ("long", "a" * 200, None)]
    with pytest.raises(BadConfig, match=r"^task long: its prompt takes 203 tokens, and the model's context is 100;"):
        extract(loaded, rows, [1], parts, 1, Progress())
    assert not parts.parts()


def test_the_page_says_what_came_of_each_family() -> None:
    head, mark, _ = PAGE.read_text("utf-8").partition("<!-- written by `make models` -->\n")
    page = head + mark + table()
    if os.environ.get("PREFPROBE_WRITE_MODELS"):
        PAGE.write_text(page, "utf-8")
    assert PAGE.read_text("utf-8") == page, "docs/models.md is not what the families give; run `make models`"


def table() -> str:
    rows = ["", "| family | configuration | passes | |", "|---|---|---|---|"]
    for name, family in ZOO.items():
        last = outcomes(name)[0]
        how = "**refused**" if last.refusal else "exact, slower" if last.alone else "exact"
        rows.append(f"| {name} | `{family.config}` | {how} | {last.refusal or last.alone} |")
    return "\n".join(rows) + "\n"


def test_a_mask_that_forgets_the_window_is_found_out_as_soon_as_prompts_are_longer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save(ZOO["Mistral"].make(WINDOWS[0]), tmp_path)
    loaded = load_model(str(tmp_path), device="cpu")
    monkeypatch.setattr(DistanceRules, "of", lambda *_: None)
    texts = ["x" * n for n in (20, 40, 44)]
    assert [len(loaded.prompt_tokens(text)) for text in texts] == [23, 43, 47]
    extract_activations(loaded, texts)
    assert not loaded.packing.why  # the window is not reached
    longer = [f"{text} and {text}"[:63] for text in texts]
    assert max(len(loaded.prompt_tokens(text)) for text in longer) < 1.25 * 64
    got = extract_activations(loaded, longer, layers=[2])[2]
    assert loaded.packing.why.startswith("prompts of 66 tokens and more")
    for row, text in enumerate(longer):
        right = one_pass(loaded.model, loaded.prompt_tokens(text)).hidden_states[3][0, -1].numpy()
        np.testing.assert_allclose(got[row], right, rtol=1e-4, atol=1e-5)
