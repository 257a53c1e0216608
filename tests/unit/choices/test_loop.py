"""The answer log, the choice log and the active-learning loop, with an engine whose answers are known."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr

from prefprobe.choices.answers import AnswerLog
from prefprobe.choices.engine import Answer, Outcome, Question, Reading, Save, Spend
from prefprobe.choices.log import ChoiceLog, choose, comparisons
from prefprobe.choices.loop import Measured, measure_utilities
from prefprobe.choices.stimulus import Stimulus
from prefprobe.errors import BadConfig
from prefprobe.progress import Progress
from prefprobe.settings import ActiveLearningSettings
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore
from tests.questions import question


class PlantedEngine:
    """Prefers by a known utility, with a position bias and a noise that belongs to the pair.

    It may die on the way, or have a budget; sampled, it refuses what has a task of `refuses` in it.
    """

    name = "planted"

    def __init__(
        self,
        mu: dict[str, float],
        bias: float = 1.5,
        noise: float = 0.0,
        *,
        exact: bool = True,
        part: int = 16,
        dies_after: int | None = None,
        budget: int | None = None,
        refuses: frozenset[str] = frozenset(),
    ) -> None:
        self.mu, self.bias, self.noise, self.exact, self.part = mu, bias, noise, exact, part
        self.dies_after, self.budget, self.refuses = dies_after, budget, refuses
        self.identity: dict[str, Any] = {"engine": "planted", "exact": exact}
        self.about: dict[str, Any] = {}
        self.asked: list[Question] = []

    def answer(self, questions: Sequence[Question], save: Save) -> None:
        if self.budget is not None:
            questions = questions[: max(0, self.budget - len(self.asked))]
        for start in range(0, len(questions), self.part):
            part = questions[start : start + self.part]
            if self.dies_after is not None and len(self.asked) + len(part) > self.dies_after:
                raise KeyboardInterrupt
            self.asked += part
            save(
                [Answer(q.id, json.dumps(self.raw(q)), prompt_tokens=100, completion_tokens=1, cost=0.5) for q in part]
            )

    def read(self, answer: Answer) -> Reading:
        raw = json.loads(answer.raw)
        return Reading("exact", raw, 0.9) if isinstance(raw, float) else Reading(raw)

    def raw(self, q: Question) -> float | Outcome:
        low, high = sorted((q.first, q.second))
        noise = self.noise * np.random.default_rng([*low.encode(), 0, *high.encode()]).normal()
        logit = self.mu[q.first] - self.mu[q.second] + self.bias + (noise if q.first == low else -noise)
        if self.exact:
            return float(logit)
        if {q.first, q.second} & self.refuses:
            return "refusal"
        rng = np.random.default_rng([*q.first.encode(), 0, *q.second.encode(), 0, q.repeat])
        return "a" if rng.random() < 1 / (1 + np.exp(-logit)) else "b"


def planted(n: int, seed: int = 0) -> dict[str, float]:
    return {f"t{i:03d}": float(m) for i, m in enumerate(np.random.default_rng(seed).normal(size=n))}


def step_store(folder: Path, step: str = "measure") -> StepStore:
    return StepStore(ObjectStore.open(str(folder)), step, "k" * 64, {})


def make_log(folder: Path, engine: PlantedEngine, tasks: list[str] | None = None) -> ChoiceLog:
    answers = AnswerLog(step_store(folder, "answers"), "me")
    return ChoiceLog(engine, {i: i for i in (tasks or engine.mu)}, answers=answers)


def measure(
    folder: Path, engine: PlantedEngine, settings: ActiveLearningSettings, tasks: list[str] | None = None
) -> Measured:
    return measure_utilities(make_log(folder, engine, tasks), settings, store=step_store(folder))


SETTINGS = ActiveLearningSettings(batch=60, max_rounds=4)


def test_planted_utilities_are_recovered_through_a_position_bias(tmp_path: Path) -> None:
    mu = planted(60)
    got = measure(tmp_path, PlantedEngine(mu, noise=0.2), SETTINGS)
    truth = [mu[i] for i in got.utilities.task_ids]
    assert spearmanr(got.utilities.mu, truth).statistic > 0.95
    assert np.corrcoef(got.utilities.mu, truth)[0, 1] > 0.95
    assert got.summary["position_bias"]["mean_logit"] == pytest.approx(1.5)  # both orders of every pair were shown
    assert got.summary["additive_r2"] > 0.85


def test_sampled_answers_recover_them_too_and_a_refusal_is_no_win(tmp_path: Path) -> None:
    mu = planted(40)
    settings = replace_settings(samples=3, max_rounds=5)
    refuses = frozenset(["t007"])
    got = measure(tmp_path, PlantedEngine(mu, exact=False, refuses=refuses), settings)
    others = [i for i, name in enumerate(got.utilities.task_ids) if name not in refuses]
    truth = np.array([mu[i] for i in got.utilities.task_ids])
    assert spearmanr(got.utilities.mu[others], truth[others]).statistic > 0.9
    outcomes = got.choices.column("outcome").to_pylist()
    named = [(a, b) for a, b in zip(*(got.choices.column(c).to_pylist() for c in ("task_a", "task_b")), strict=True)]
    assert got.summary["refusals"] == outcomes.count("refusal") == sum(bool(refuses & {*pair}) for pair in named) > 0
    (position,) = [i for i, name in enumerate(got.utilities.task_ids) if name in refuses]
    assert got.utilities.comparisons[position] == 0
    assert got.summary["label_mass"]["mean"] is got.summary["additive_r2"] is None
    assert set(Counter(zip(named, got.choices.column("repeat").to_pylist(), strict=True)).values()) == {1}
    orders = Counter(named)
    assert all(orders[a, b] == orders[b, a] == 3 for a, b in named)


def replace_settings(**other: Any) -> ActiveLearningSettings:
    return SETTINGS.model_copy(update=other)


def test_tasks_in_any_order_give_the_same(tmp_path: Path) -> None:
    mu = planted(30)
    one = measure(tmp_path / "a", PlantedEngine(mu), SETTINGS)
    two = measure(tmp_path / "b", PlantedEngine(mu), SETTINGS, list(mu)[::-1])
    assert one.choices.equals(two.choices)
    assert np.array_equal(one.utilities.mu, two.utilities.mu)


@pytest.mark.parametrize("exact", [True, False])
def test_killed_anywhere_it_ends_the_same_with_no_choice_lost_or_twice(tmp_path: Path, exact: bool) -> None:
    mu = planted(40)
    whole = PlantedEngine(mu, exact=exact)
    expected = measure(tmp_path / "whole", whole, SETTINGS)
    for dies_after in (0, 5, 16, 100, 200, 260, 300):
        folder = tmp_path / f"dies-{dies_after}"
        first, second = PlantedEngine(mu, exact=exact, dies_after=dies_after), PlantedEngine(mu, exact=exact)
        with pytest.raises(KeyboardInterrupt):
            measure(folder, first, SETTINGS)
        got = measure(folder, second, SETTINGS)
        assert got.choices.equals(expected.choices)
        assert got.summary == expected.summary
        assert np.array_equal(got.utilities.mu, expected.utilities.mu)
        assert len(first.asked) + len(second.asked) == len(whole.asked)  # a part is asked for whole or not at all
    ids = expected.choices.column("choice_id").to_pylist()
    assert len(set(ids)) == len(ids) == expected.summary["n_choices"]


def test_what_is_known_is_not_asked_again_under_other_settings(tmp_path: Path) -> None:
    mu = planted(30)
    first, second = PlantedEngine(mu), PlantedEngine(mu)
    few = measure(tmp_path, first, replace_settings(max_rounds=1))
    log = make_log(tmp_path, second)
    other = StepStore(ObjectStore.open(str(tmp_path)), "measure", "l" * 64, {})
    more = measure_utilities(log, SETTINGS, store=other)
    assert len(first.asked) + len(second.asked) == more.choices.num_rows > few.choices.num_rows
    assert more.choices.equals(measure(tmp_path / "alone", PlantedEngine(mu), SETTINGS).choices)


def test_a_budget_ends_the_loop_with_what_there_is(tmp_path: Path) -> None:
    mu = planted(30)
    whole = measure(tmp_path / "whole", PlantedEngine(mu), SETTINGS)
    got = measure(tmp_path / "cut", PlantedEngine(mu, budget=200), SETTINGS)
    assert got.summary["stopped"] == "budget"
    assert got.summary["converged"] is False
    assert got.choices.num_rows == 200 < whole.choices.num_rows
    assert got.summary["spend"] == {"requests": 200, "prompt_tokens": 20000, "completion_tokens": 200, "dollars": 100.0}
    shown = set(zip(*(whole.choices.column(c).to_pylist() for c in ("task_a", "task_b")), strict=True))
    assert set(zip(*(got.choices.column(c).to_pylist() for c in ("task_a", "task_b")), strict=True)) < shown
    with pytest.raises(BadConfig, match="the budget covers no choice"):
        measure(tmp_path / "none", PlantedEngine(mu, budget=0), SETTINGS)
    raised = measure(
        tmp_path / "cut", PlantedEngine(mu), SETTINGS
    )  # the same step with more to spend goes on from there
    assert raised.choices.equals(whole.choices)
    assert raised.summary["spend"]["requests"] == whole.choices.num_rows


def test_convergence_needs_new_information(tmp_path: Path) -> None:
    mu = planted(12)  # 66 pairs: the third round finds too few that are new
    settings = ActiveLearningSettings(batch=500, max_rounds=6, rank_threshold=0.5, reliability_threshold=0.5)
    got = measure(tmp_path, PlantedEngine(mu), settings)
    assert got.summary["stopped"] == "no pairs left"
    assert got.summary["converged"] is False
    assert got.summary["n_pairs"] == 66
    easy = ActiveLearningSettings(batch=20, max_rounds=6, rank_threshold=0.5, reliability_threshold=0.5)
    got = measure(tmp_path / "easy", PlantedEngine(mu), easy)
    assert got.summary["stopped"] == "converged"
    assert got.summary["rounds"][0]["rank_correlation"] is None


@pytest.mark.parametrize("exact", [True, False])
def test_a_pair_is_asked_in_both_orders_and_once_however_often_it_is_named(tmp_path: Path, exact: bool) -> None:
    engine = PlantedEngine(planted(4), exact=exact)
    log = make_log(tmp_path, engine)
    questions = log.questions([("", "t001", "t000"), ("", "t000", "t001"), ("", "t001", "t000")], samples=3)
    choices = log.measure(questions, 0)
    shown = list(zip(*(choices.column(c).to_pylist() for c in ("task_a", "task_b", "repeat")), strict=True))
    orders = [("t000", "t001"), ("t001", "t000")]
    assert shown == [(*order, k) for order in orders for k in range(1 if exact else 3)]
    assert len(engine.asked) == len(shown)


def test_tasks_of_the_same_words_are_one_question(tmp_path: Path) -> None:
    engine = PlantedEngine(planted(2))
    log = make_log(tmp_path, engine)
    log.texts = {"one": "t000", "two": "t001", "twin": "t001"}
    choices = log.measure(log.questions([("", "one", "two"), ("", "one", "twin")], samples=1), 0)
    assert choices.column("task_b").to_pylist() == ["twin", "two", "one", "one"]
    ids = choices.column("choice_id").to_pylist()
    assert (ids[0], ids[2]) == (ids[1], ids[3])
    assert [q.id for q in engine.asked] == list(dict.fromkeys(ids))
    assert log.spend.requests == 2


def test_what_is_written_has_the_columns_it_always_had(tmp_path: Path) -> None:
    log = make_log(tmp_path, PlantedEngine(planted(2)))
    choices = log.measure(log.questions([("", "t000", "t001")], samples=1), 0)
    of_answers = "id raw finish model provider prompt_tokens completion_tokens cost losses estimated payer"
    of_choices = "choice_id round prompt_id task_a task_b repeat outcome p_a logit label_mass judged bounded"
    assert " ".join(log.raw_answers().column_names) == of_answers
    assert " ".join(choices.column_names) == of_choices


def test_identities_are_those_of_every_log_written_so_far(tmp_path: Path) -> None:
    """A digest that changes would have every answer that is kept asked, and paid, again."""
    log = make_log(tmp_path, PlantedEngine({"a": 0.0, "b": 0.0}, exact=False))
    log.texts, log.prompts = {"x": "Sing {a} song.", "y": "Zähle bis 3."}, {"p": "You hate math."}
    ids = [q.id for q in log.questions([("", "x", "y"), ("p", "y", "x")], samples=2)]
    assert ids == [
        "92a08adbb153c7c9705934ac53c741fd",
        "8c9c914fd8a2dad212d94931c69b9cad",
        "6b1e6d0f055c16732ae6baa0692b1b52",
        "c5030bc074f6086374d7b648d17a96ed",
        "5e5924b87e287918cb2fa0b92bdf8e3d",
        "839b5b38660ebd88ab6c00a7b48e9474",
        "1726436ef00cdfac8ef99cf9d51c3cdf",
        "4b3a469ccd84262b7f03115b8947c067",
    ]


def test_another_parser_reads_the_same_answers_without_asking(tmp_path: Path) -> None:
    class Other(PlantedEngine):
        def read(self, answer: Answer) -> Reading:
            return Reading("refusal")

        def answer(self, questions: Sequence[Question], save: Save) -> None:
            raise AssertionError("asked again")

    mu = planted(4)
    log = make_log(tmp_path, PlantedEngine(mu))
    log.measure(log.questions([("", "t000", "t001")], samples=1), 0)
    other = make_log(tmp_path, Other(mu))
    again = other.measure(other.questions([("", "t000", "t001")], samples=1), 0)
    assert again.column("outcome").to_pylist() == ["refusal", "refusal"]
    assert again.column("p_a").null_count == 2


def answers(*ids: str, raw: str = "1.0") -> list[Answer]:
    return [Answer(i, raw, cost=1.0) for i in ids]


class Fixed:
    """Answers with what it was given."""

    name, exact = "fixed", True

    def __init__(self, *parts: list[Answer]) -> None:
        self.parts = parts
        self.identity: dict[str, Any] = {}
        self.about: dict[str, Any] = {}

    def answer(self, questions: Sequence[Question], save: Save) -> None:
        for part in self.parts:
            save(part)

    def read(self, answer: Answer) -> Reading:
        return Reading("a")


def questions(*ids: str) -> list[Question]:
    return [question(i, "x", "y") for i in ids]


def test_two_writers_of_one_log_agree_and_the_first_answer_counts(tmp_path: Path) -> None:
    one, two = AnswerLog(step_store(tmp_path), "one"), AnswerLog(step_store(tmp_path), "two")
    one.ask(Fixed(answers("a", "b")).answer, questions("a", "b"), Progress(), "answers")
    got = two.ask(
        Fixed(answers("b", "c", raw="2.0"), answers("d")).answer, questions("b", "c", "d"), Progress(), "answers"
    )
    assert {i: a.raw for i, a in got.items()} == {"b": "1.0", "c": "2.0", "d": "1.0"}
    one.ask(Fixed(answers("c", "e", raw="3.0")).answer, questions("c", "e"), Progress(), "answers")
    fresh = AnswerLog(step_store(tmp_path), "one")
    all_ids = questions("a", "b", "c", "d", "e")
    raws = {i: a.raw for i, a in fresh.ask(Fixed().answer, all_ids, Progress(), "answers").items()}
    assert raws == {"a": "1.0", "b": "1.0", "c": "2.0", "d": "1.0", "e": "3.0"}
    assert {i: a.raw for i, a in one.ask(Fixed().answer, all_ids, Progress(), "answers").items()} == raws
    assert one.spend == fresh.spend == Spend(3, 0, 0, 3.0)
    assert two.spend == Spend(2, 0, 0, 2.0)


def test_an_append_costs_what_is_appended(tmp_path: Path) -> None:
    store = step_store(tmp_path)
    log = AnswerLog(store, "me")
    engine = Fixed(*(answers(*(f"{k}-{i}" for i in range(50))) for k in range(40)))
    log.ask(engine.answer, questions("0-0"), Progress(), "answers")
    sizes = [store.parts()[name].size for name in sorted(store.parts())]
    assert len(sizes) == 40
    assert max(sizes) < 1.2 * min(sizes)
    assert AnswerLog(store, "me").spend.requests == 2000


def test_an_exact_choice_needs_its_other_order(tmp_path: Path) -> None:
    rows = [("a", "b", "exact", 2.0), ("b", "a", "exact", 0.0), ("a", "c", "exact", 5.0), ("c", "a", "unparsed", None)]
    columns = dict(zip(("task_a", "task_b", "outcome", "logit"), map(list, zip(*rows, strict=True)), strict=True))
    table = pa.table(columns | {"p_a": pa.array([None] * 4, pa.float64()), "prompt_id": [""] * 4})
    found = comparisons(table, ["a", "b", "c"])
    assert (found.i.tolist(), found.j.tolist()) == ([0], [1])
    assert found.wins[0] / found.count[0] == pytest.approx(1 / (1 + np.exp(-1.0)))


def test_braces_in_a_task_stay_as_they_are() -> None:
    message = Stimulus("Task A:", "Task B:").message("fill {a} and {0}", "use {name}")
    assert message.count("{a}") == 1
    assert message.endswith("Task A: fill {a} and {0}\n\nTask B: use {name}")


@pytest.mark.parametrize("labels", [("X", "X"), ("Task", "Task B:"), ("1 0", " 1"), ("X", " ")])
def test_labels_must_be_told_apart(labels: tuple[str, str]) -> None:
    with pytest.raises(BadConfig, match="two texts of which neither begins with the other"):
        Stimulus(*labels)


def test_choose_asks_each_pair_under_each_prompt_and_keeps_them_apart() -> None:
    engine = PlantedEngine(planted(4))
    texts = {id_: id_ for id_ in engine.mu}
    a, b, c, d = texts
    table = choose(engine, texts, [(a, b), (c, d)], prompts={"one": "You hate math.", "two": "You love it."})
    assert table.num_rows == 8
    assert set(table.column("prompt_id").to_pylist()) == {"one", "two"}
    with pytest.raises(BadConfig, match="under 2 system prompts"):
        comparisons(table)
    assert set(choose(engine, texts, [(a, b)]).column("prompt_id").to_pylist()) == {""}


@pytest.mark.parametrize("pair", [("t000", "t000"), ("t000", "x"), "t0", ("t000",), ("t000", "t001", "t002")])
def test_choose_asks_nothing_if_a_pair_is_none(pair: tuple[str, str]) -> None:
    engine = PlantedEngine(planted(4))
    with pytest.raises(BadConfig, match="is not two different ids"):
        choose(engine, {id_: id_ for id_ in engine.mu}, [("t000", "t001"), pair])
    assert not engine.asked


def test_exact_and_sampled_choices_are_not_compared_in_one_table() -> None:
    engine = PlantedEngine(planted(2))
    table = choose(engine, {id_: id_ for id_ in engine.mu}, [("t000", "t001")])
    outcome = [
        "exact" if "exact" not in table.column("outcome").to_pylist() else "a",
        *table.column("outcome").to_pylist()[1:],
    ]
    mixed = table.set_column(table.schema.get_field_index("outcome"), "outcome", pa.array(outcome))
    with pytest.raises(BadConfig, match="some exact and some sampled"):
        comparisons(mixed)


@pytest.mark.parametrize("n", [0, 1])
def test_a_choice_takes_two_tasks(n: int) -> None:
    with pytest.raises(BadConfig, match=f"there are {n} tasks to compare"):
        measure_utilities(ChoiceLog(PlantedEngine(planted(2)), dict(list({"a": "a"}.items())[:n])), SETTINGS)
