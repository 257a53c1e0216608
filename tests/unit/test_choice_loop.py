"""The choice log and the active-learning loop, with an engine whose answers are known."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from prefprobe.choices.log import Answer, ChoiceLog, Request
from prefprobe.choices.loop import measure_utilities
from prefprobe.choices.stimulus import Stimulus
from prefprobe.config import ActiveLearningSettings
from prefprobe.errors import BadConfig
from prefprobe.progress import Progress
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore


class PlantedEngine:
    """Prefers by a known utility, with a position bias and a noise that belongs to the pair; may die on the way."""

    name = "planted"

    def __init__(
        self, mu: dict[str, float], bias: float = 1.5, noise: float = 0.0, dies_after: int | None = None
    ) -> None:
        self.mu, self.bias, self.noise, self.dies_after = mu, bias, noise, dies_after
        self.identity = {"engine": "planted"}
        self.asked: list[tuple[str | None, str, str]] = []

    def measure(self, requests: Sequence[tuple[str | None, str, str]]) -> list[Answer]:
        if self.dies_after is not None and len(self.asked) + len(requests) > self.dies_after:
            raise KeyboardInterrupt
        self.asked += requests
        return [self._answer(a, b) for _, a, b in requests]

    def _answer(self, a: str, b: str) -> Answer:
        low, high = sorted((a, b))
        noise = self.noise * np.random.default_rng([*low.encode(), 0, *high.encode()]).normal()
        logit = self.mu[a] - self.mu[b] + self.bias + (noise if a == low else -noise)
        return Answer(logit, 1 / (1 + np.exp(-logit)), 0.9)


def planted(n: int, seed: int = 0) -> dict[str, float]:
    return {f"t{i:03d}": float(m) for i, m in enumerate(np.random.default_rng(seed).normal(size=n))}


def make_log(folder: Path, engine: PlantedEngine, part: int = 16) -> ChoiceLog:
    store = StepStore(ObjectStore.open(str(folder)), "measure", "k" * 64, {})
    return ChoiceLog(store, engine, {i: i for i in engine.mu}, {}, part, Progress())


SETTINGS = ActiveLearningSettings(batch=60, max_rounds=4)


def test_planted_utilities_are_recovered_through_a_position_bias(tmp_path: Path) -> None:
    mu = planted(60)
    got = measure_utilities(list(mu), SETTINGS, make_log(tmp_path, PlantedEngine(mu, noise=0.2)), seed=0)
    truth = [mu[i] for i in got.utilities.task_ids]
    assert spearmanr(got.utilities.mu, truth).statistic > 0.95
    assert np.corrcoef(got.utilities.mu, truth)[0, 1] > 0.95
    assert got.summary["position_bias"]["mean_logit"] == pytest.approx(1.5)  # both orders of every pair were shown
    assert got.summary["additive_r2"] > 0.85


def test_tasks_in_any_order_give_the_same(tmp_path: Path) -> None:
    mu = planted(30)
    one = measure_utilities(list(mu), SETTINGS, make_log(tmp_path / "a", PlantedEngine(mu)), seed=0)
    two = measure_utilities(list(mu)[::-1], SETTINGS, make_log(tmp_path / "b", PlantedEngine(mu)), seed=0)
    assert one.choices.equals(two.choices)
    assert np.array_equal(one.utilities.mu, two.utilities.mu)


def test_killed_anywhere_it_ends_the_same_with_no_choice_lost_or_twice(tmp_path: Path) -> None:
    mu = planted(40)
    whole = PlantedEngine(mu)
    expected = measure_utilities(list(mu), SETTINGS, make_log(tmp_path / "whole", whole), seed=0)
    for dies_after in (0, 5, 16, 100, 260):
        folder = tmp_path / f"dies-{dies_after}"
        first, second = PlantedEngine(mu, dies_after=dies_after), PlantedEngine(mu)
        with pytest.raises(KeyboardInterrupt):
            measure_utilities(list(mu), SETTINGS, make_log(folder, first), seed=0)
        got = measure_utilities(list(mu), SETTINGS, make_log(folder, second), seed=0)
        assert got.choices.equals(expected.choices)
        assert got.summary == expected.summary
        repeated = len(first.asked) + len(second.asked) - len(whole.asked)
        assert repeated == 0  # a part is asked for whole or not at all
    ids = expected.choices.column("choice_id").to_pylist()
    assert len(set(ids)) == len(ids) == expected.summary["n_choices"]


def test_convergence_needs_new_information(tmp_path: Path) -> None:
    mu = planted(12)  # 66 pairs: the third round finds too few that are new
    settings = ActiveLearningSettings(batch=500, max_rounds=6, rank_threshold=0.5, reliability_threshold=0.5)
    got = measure_utilities(list(mu), settings, make_log(tmp_path, PlantedEngine(mu)), seed=0)
    assert got.summary["stopped"] == "no pairs left"
    assert got.summary["converged"] is False
    assert got.summary["n_pairs"] == 66
    easy = ActiveLearningSettings(batch=20, max_rounds=6, rank_threshold=0.5, reliability_threshold=0.5)
    got = measure_utilities(list(mu), easy, make_log(tmp_path / "easy", PlantedEngine(mu)), seed=0)
    assert got.summary["stopped"] == "converged"
    assert got.summary["rounds"][0]["rank_correlation"] is None


def test_a_request_asked_twice_is_measured_once(tmp_path: Path) -> None:
    engine = PlantedEngine(planted(4))
    requests = [Request("", "t000", "t001"), Request("", "t001", "t000")]
    assert make_log(tmp_path, engine).measure(requests + requests, 0).num_rows == 2
    assert len(engine.asked) == 2


def test_braces_in_a_task_stay_as_they_are() -> None:
    message = Stimulus("Task A:", "Task B:").message("fill {a} and {0}", "use {name}")
    assert message.count("{a}") == 1
    assert message.endswith("Task A: fill {a} and {0}\n\nTask B: use {name}")


def test_labels_must_differ() -> None:
    with pytest.raises(BadConfig, match="two different texts"):
        Stimulus("X", "X")
