"""A model that hardly ever answers with a label: every step that reads choices off stops, soon, and as soon again."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from prefprobe.choices.engine import Question
from prefprobe.choices.log import ChoiceLog, choose
from prefprobe.errors import BadConfig
from prefprobe.progress import Progress
from prefprobe.study.run import Run
from tests.planted_study import PART, PlantedEngine, execute, planted_study, prefers


class Masses:
    """A label mass for every question, and how many were asked."""

    def __init__(self, of: Callable[[Question], float]) -> None:
        self.of, self.asked = of, 0

    def __call__(self, question: Question) -> float:
        self.asked += 1
        return self.of(question)


def study(folder: Path, monkeypatch: pytest.MonkeyPatch, mass: Callable[[Question], float], least: float) -> Run:
    """A planted study whose tasks are there, and whose model is not changed by what lies in its store."""
    weights = folder / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    (weights / "weights.safetensors").write_bytes(b"")
    blocks = {"model": {"source": str(weights)}, "choices": {"min_label_mass": least}}
    run = planted_study(folder / "study", monkeypatch, prefers, mass=mass, blocks=blocks)
    run.execute(run.nodes["tasks"], Progress())
    run.execute(run.nodes["topics"], Progress())
    return run


def stopped(run: Run, node: str) -> str:
    with pytest.raises(BadConfig) as caught:
        run.execute(run.nodes[node], Progress())
    sentence = str(caught.value)
    assert re.fullmatch(r"[^\n;]+ choices\.min_label_mass = [^\n;]+; [^\n;]+\.", sentence)
    return sentence


def until(run: Run, node: str) -> None:
    """Execute everything before `node`."""
    for before in run.nodes.values():
        if before.id == node:
            return
        run.execute(before, Progress())


@pytest.mark.parametrize("tasks", ["measure.train", "measure.eval"])
def test_a_set_stops_at_its_first_part_and_at_once_when_it_goes_on(
    tasks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    low, whole = Masses(lambda _: 0.04), Masses(lambda _: 0.04)
    run = study(tmp_path, monkeypatch, low, 0.05)
    expected = r"is 0\.04 after \d+ choices, expected choices\.min_label_mass = 0\.05 or more; .*choices\.engine: api"
    assert re.search(expected, stopped(run, tasks))
    asked = low.asked
    assert asked == {"measure.train": 2 * PART, "measure.eval": 96}[tasks]  # a hundred, or all
    # its answers are there: it asks nothing, and where it may go on no more than is left
    assert re.search(expected, stopped(run, tasks))
    assert low.asked == asked
    lower = study(tmp_path, monkeypatch, low, 0.03)
    lower.execute(lower.nodes[tasks], Progress())
    free = study(tmp_path / "free", monkeypatch, whole, 0.0)
    free.execute(free.nodes[tasks], Progress())
    assert low.asked == whole.asked > asked


def test_the_default_lets_half_of_the_answers_begin_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planted_study(tmp_path, monkeypatch, prefers, mass=lambda q: 0.02 if len(q.first) % 2 else 0.5)
    until(run, "report")
    low = planted_study(tmp_path / "low", monkeypatch, prefers, mass=lambda _: 0.09)
    until(low, "measure.train")
    assert "choices.min_label_mass = 0.1 or more" in stopped(low, "measure.train")


def test_a_system_prompt_that_silences_the_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low = Masses(lambda q: {"You hate math": 0.03, "You love math": 0.02}.get(q.system or "", 0.9))
    run = planted_study(tmp_path, monkeypatch, prefers, mass=low)
    until(run, "shift-measure.0")
    before = low.asked
    assert re.search(r"is 0\.03 under the system prompt 'hate-math' after 48", stopped(run, "shift-measure.0"))
    # the prompts are asked one after the other, and those that come later are not asked any more
    assert 48 * 3 < low.asked - before <= 48 * 4 + PART


def test_sampled_answers_that_are_labels_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = {"choices": {"min_label_mass": 1.0}}
    execute(planted_study(tmp_path, monkeypatch, lambda q: "ab"[prefers(q) < 0], exact=False, blocks=blocks))


def test_the_library_leaves_it_to_its_caller() -> None:
    engine = PlantedEngine(prefers, exact=True, mass=lambda _: 0.001)
    texts = {name: name for name in "abcd"}
    assert choose(engine, texts, [("a", "b"), ("c", "d")]).column("label_mass").to_pylist() == [0.001] * 4
    log = ChoiceLog(engine, texts)
    assert log.measure(log.questions([("", "a", "b")], 1), 0).num_rows == 2


def test_a_few_answers_are_not_judged_before_the_last() -> None:
    # the first forty answers are all of tasks that the model will not choose
    asked = Masses(lambda q: 0.0 if q.first < "b" else 0.5)
    log = ChoiceLog(
        PlantedEngine(prefers, exact=True, mass=asked),
        {f"{c}{k}": f"{c}{k}" for c in "abc" for k in range(20)},
        min_label_mass=0.1,
    )
    pairs = [("", f"a{k}", f"{c}{k}") for c in "bc" for k in range(20)]
    assert log.measure(log.questions(pairs, 1), 0).num_rows == 80
    fresh = ChoiceLog(log.engine, log.texts, min_label_mass=0.1)
    with pytest.raises(BadConfig, match=r"is 0 after 2 choices"):
        fresh.measure(fresh.questions([("", "a1", "a2")], 1), 0)


def test_rounds_are_judged_by_all_that_was_asked() -> None:
    log = ChoiceLog(
        PlantedEngine(prefers, exact=True, mass=lambda q: 0.0 if q.first[0] == q.second[0] == "a" else 0.5),
        {f"{c}{k}": f"{c}{k}" for c in "ab" for k in range(20)},
        min_label_mass=0.1,
    )
    log.measure(log.questions([("", f"a{k}", f"b{k}") for k in range(20)], 1), 0)
    assert log.measure(log.questions([("", "a1", "a2")], 1), 1).column("label_mass").to_pylist() == [0.0, 0.0]
