"""The API engine and the judge against a server whose preferences, accents and faults are known."""

import asyncio
import logging
import re
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from math import exp
from pathlib import Path
from typing import Any

import pytest

from prefprobe.choices.answers import AnswerLog
from prefprobe.choices.api import pacing
from prefprobe.choices.api.dialect import PREFILLS, Dialect
from prefprobe.choices.api.endpoint import Budget
from prefprobe.choices.api.engine import ApiEngine
from prefprobe.choices.api.judge import Judge
from prefprobe.choices.engine import Answer, Engine, Question, Spend
from prefprobe.choices.log import ChoiceLog
from prefprobe.choices.stimulus import Stimulus
from prefprobe.errors import BadConfig, PrefprobeError, TemporaryFailure
from prefprobe.progress import Progress, Stopped
from prefprobe.settings.api import ApiSettings, JudgeSettings
from prefprobe.settings.endpoint import Prices, TransportSettings
from prefprobe.store.keys import canonical_json, sha256
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore
from tests.fault_server import LISTINGS, Behaviour, FaultServer
from tests.questions import Saved, question

STIMULUS = Stimulus()
TASKS = [f"Do {name} {{0}} u={worth:+.2f}" for name, worth in (("a", -1.0), ("b", 0.0), ("c", 0.5), ("d", 2.0))]
TEXTS = dict(zip("abcd", TASKS, strict=True))
PRICES = Prices(prompt=100.0, completion=1000.0)
Script = Callable[[dict[str, Any], int], str | None]


def questions(repeats: int = 1, system: str | None = None) -> list[Question]:
    pairs = [(a, b) for a in TASKS for b in TASKS if a != b]
    return [question(f"{a[3]}{b[3]}{k}", a, b, system, k) for k in range(repeats) for a, b in pairs]


def settings_for(server: FaultServer, **given: Any) -> ApiSettings:
    transport = TransportSettings(concurrency=4, attempt_timeout=10.0, total_timeout=given.pop("patience", 30.0))
    return ApiSettings(base_url=server.url, model="planted", transport=transport, **given)


def engine_for(
    server: FaultServer,
    temperature: float = 1.0,
    spent: Spend | None = None,
    dialect: Dialect | None = None,
    **given: Any,
) -> ApiEngine:
    settings = settings_for(server, **given)
    return ApiEngine(
        settings, STIMULUS, temperature, part=1000, budget=Budget(settings, spent or Spend()), dialect=dialect
    )


def answers(engine: Engine, asked: Sequence[Question]) -> dict[str, Answer]:
    got = Saved()
    engine.answer(asked, got)
    assert len({a.id for a in got}) == len(got)
    return {a.id: a for a in got}


def bodies(server: FaultServer) -> list[dict[str, Any]]:
    """Of the questions, without those of the interview."""
    return [body for _, body in server.arrivals if "u=" in body["messages"][-1]["content"]]


def planted(q: Question, bias: float = 0.4) -> float:
    """log P(A)/P(B) that the server has."""
    first, second = (float(text.split("u=")[1]) for text in (q.first, q.second))
    return first - second + bias


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_auto_reads_log_probabilities_where_they_come(temperature: float) -> None:
    with FaultServer(Behaviour(lists=True)) as server:
        engine = engine_for(server, temperature)
        got = answers(engine, questions())
    assert (engine.name, engine.exact) == ("exact-api", True)
    for q in questions():
        reading = engine.read(got[q.id])
        assert reading.outcome == "exact"
        assert reading.logit == pytest.approx(planted(q) / temperature, abs=1e-4)
        assert reading.label_mass == pytest.approx(0.98, abs=1e-4)
    assert engine.about["why"].startswith("exact: answers begin with a label")
    assert all("seed" not in body and body["temperature"] == 0 for body in bodies(server))


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (Behaviour(), "sampled: the endpoint returned no log-probabilities"),
        (Behaviour(rejects=("logprobs",)), "sampled: the endpoint turned log-probabilities down (400: Unsupported"),
        (Behaviour(lists=True, label_mass=0.6), "sampled: answers begin with a label with a probability of 0.60"),
    ],
)
def test_auto_samples_where_it_must_and_says_why(behaviour: Behaviour, why: str) -> None:
    with FaultServer(behaviour) as server:
        engine = engine_for(server)
        got = answers(engine, questions(repeats=40))
    assert (engine.name, engine.exact) == ("sampled-api", False)
    assert engine.about["why"].startswith(why)
    share = {q.id[:2]: 0.0 for q in questions()}
    for id_, answer in got.items():
        share[id_[:2]] += (engine.read(answer).outcome == "a") / 40
    for q in questions():
        p = 1 / (1 + exp(-planted(q)))
        assert abs(share[q.id[:2]] - p) < 4 * (p * (1 - p) / 40) ** 0.5


@pytest.mark.parametrize("how", PREFILLS)
@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize(
    ("label_mass", "listing"), [(0.6, ""), (0.05, ""), (0.6, "stripped"), (0.6, "twice"), (0.6, "columns")]
)
def test_probabilities_are_exact_at_any_label_mass_where_a_beginning_may_be_given(
    how: str, repeats: bool, label_mass: float, listing: str
) -> None:
    behaviour = Behaviour(lists=True, label_mass=label_mass, listing=listing, goes_on=(how,), repeats=repeats)
    with FaultServer(behaviour) as server:
        engine = engine_for(server, 0.5)
        got = answers(engine, questions(system="Be brief."))
    assert engine.about["why"].startswith(
        f"exact: answers begin with a label with a probability of {label_mass:.2f}, so 'T"
    )
    assert (engine.about["prefill"], engine.about["prefill_by"], engine.identity["given"]) == ("Task", how, "Task")
    assert engine.about["label_mass"] == pytest.approx(label_mass, abs=1e-6)
    for q in questions(system="Be brief."):
        reading = engine.read(got[q.id])
        assert reading.outcome == "exact"
        assert reading.logit == pytest.approx(planted(q) / 0.5, abs=1e-4)
        assert reading.label_mass == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize(
    ("other", "stimulus"),
    [
        ({}, STIMULUS),  # the answer begins anew
        ({"rejects": ("prefill",)}, STIMULUS),
        ({"goes_on": tuple(PREFILLS), "turned": 3.0}, STIMULUS),  # it goes on, but not as it would of itself
        ({"goes_on": tuple(PREFILLS), "listing": "one-hot -9999"}, STIMULUS),
        ({"goes_on": tuple(PREFILLS)}, Stimulus("First:", "Second:")),  # nothing to be given
    ],
)
def test_a_beginning_that_is_not_gone_on_from_is_not_given(other: dict[str, Any], stimulus: Stimulus) -> None:
    with FaultServer(Behaviour(lists=True, label_mass=0.6, **other)) as server:
        engine = ApiEngine(settings_for(server), stimulus)
    assert (engine.name, engine.about["prefill"]) == ("sampled-api", "")
    assert "given" not in engine.identity


def test_a_beginning_is_not_given_where_answers_begin_with_a_label() -> None:
    with FaultServer(Behaviour(lists=True, goes_on=tuple(PREFILLS))) as server:
        engine = engine_for(server)
    assert (engine.exact, engine.about["prefill"]) == (True, "")


def test_log_probabilities_that_turn_unreadable_in_the_study_are_counted() -> None:
    with FaultServer(Behaviour(lists=True)) as server:
        engine = engine_for(server)
        server.behaviour = Behaviour(lists=True, listing="zeros")
        log = ChoiceLog(engine, TEXTS)
        choices = log.measure(log.questions([("", "a", "b"), ("", "c", "d")], 1), 0)
    assert set(choices.column("outcome").to_pylist()) == {"unparsed"}
    assert log.account(choices)["unread"] == {"the probabilities listed for one token add up to more than 1": 4}


PAIRS = [(a, b) for i, a in enumerate(TASKS) for b in TASKS[i + 1 :]]


def test_samples_of_a_study_that_are_turned_down_are_left_out_of_the_interview() -> None:
    with FaultServer(Behaviour(lists=True, blocked=0.5)) as server:
        engine = ApiEngine(settings_for(server), samples=PAIRS)
        asked = [body for body in bodies(server) if body.get("top_logprobs")]
        got = answers(engine, questions())
    turned_down = sum(answer.finish.startswith("failed") for answer in got.values())
    assert 0 < turned_down < len(got)
    assert len(asked) >= len(PAIRS)
    assert (engine.exact, engine.about["refused"]) == (True, {})


def test_an_interview_whose_samples_are_all_turned_down_says_so() -> None:
    with (
        FaultServer(Behaviour(blocked=1.0)) as server,
        pytest.raises(BadConfig, match="turned down all 6 sample questions"),
    ):
        ApiEngine(settings_for(server), samples=PAIRS)


READ = ("twice", "leading", "stripped", "columns")
UNREAD = {
    "one-hot -9999": "4 of 4 sample answers list one label alone",
    "one-hot -100": "4 of 4 sample answers list one label alone",
    "one-hot -inf": "4 of 4 sample answers list one label alone",
    "probabilities": "the probabilities listed for one token add up to ",
    "log10": "the probabilities listed for one token add up to ",
    "zeros": "the probabilities listed for one token add up to ",
    "thought": "the listed tokens are not the answer ('<think>Both are fine</th' for 'Task ",
    "ids": "the listed tokens are not the answer ('token_id:",
    "alone": "the endpoint listed the answer's own tokens alone",
    "own": "the endpoint returned log-probabilities in a form that is not read (fields: steps)",
}


def test_every_way_to_miswrite_log_probabilities_is_tried() -> None:
    assert set(LISTINGS) == {*READ, *UNREAD}


@pytest.mark.parametrize("listing", READ)
def test_log_probabilities_written_otherwise_are_read_where_that_is_unambiguous(listing: str) -> None:
    with FaultServer(Behaviour(lists=True, listing=listing)) as server:
        engine = engine_for(server)
        got = answers(engine, questions())
    assert engine.exact
    for q in questions():
        reading = engine.read(got[q.id])
        assert (reading.outcome, reading.bounded) == ("exact", False)
        assert reading.logit == pytest.approx(planted(q), abs=1e-4)
        assert reading.label_mass == pytest.approx(0.98, abs=1e-4)


@pytest.mark.parametrize("listing", UNREAD)
def test_log_probabilities_that_are_not_the_models_are_not_read_and_why(listing: str) -> None:
    with FaultServer(Behaviour(lists=True, listing=listing)) as server:
        engine = engine_for(server)
        got = answers(engine, questions())
        assert engine.about["why"].startswith(f"sampled: {UNREAD[listing]}")
        assert {engine.read(a).outcome for a in got.values()} <= {"a", "b"}
        with pytest.raises(BadConfig, match="mode is exact, but " + re.escape(UNREAD[listing])):
            engine_for(server, mode="exact")


@pytest.mark.parametrize(("listing", "outcome"), [("one-hot -inf", "exact"), ("log10", "unparsed")])
def test_an_endpoint_that_miswrites_them_later_is_seen_in_every_answer(listing: str, outcome: str) -> None:
    with FaultServer(Behaviour(lists=True)) as server:
        engine = engine_for(server)
        server.behaviour = replace(server.behaviour, listing=listing)
        readings = [engine.read(a) for a in answers(engine, questions()).values()]
    assert {(reading.outcome, reading.bounded) for reading in readings} == {(outcome, outcome == "exact")}


@pytest.mark.parametrize("mass", [0.2, 0.4])
def test_the_label_mass_of_a_sample_that_begins_otherwise_is_what_was_listed(mass: float) -> None:
    with FaultServer(Behaviour(lists=True, label_mass=mass)) as server:
        engine = engine_for(server)
        assert engine.dialect.label_mass == pytest.approx(mass)
        assert engine.about["why"] == (
            f"sampled: answers begin with a label with a probability of {mass:.2f}, less than 0.9"
        )
        with pytest.raises(BadConfig, match="mode is exact, but answers begin with a label with a probability of 0"):
            engine_for(server, mode="exact")


def test_probabilities_that_hardly_ever_are_of_a_label_stop_a_step_that_reads_them() -> None:
    texts = dict(zip("abcd", TASKS, strict=True))
    with FaultServer(Behaviour(lists=True, label_mass=0.6)) as server:
        log = ChoiceLog(engine_for(server, mode="exact"), texts, min_label_mass=0.7)
        with pytest.raises(BadConfig, match=r"is 0\.6 after 12 choices.*; set choices\.api\.mode to sampled"):
            log.measure(log.questions([("", a, b) for a, b in combinations(texts, 2)], 1), 0)
        assert log.spend.requests == 12 + log.interview.requests
        log = ChoiceLog(engine_for(server, mode="exact"), texts)
        assert log.measure(log.questions([("", "a", "b")], 1), 0).column("label_mass")[0].as_py() < 0.7


@pytest.mark.parametrize("rejected", ["seed", "system", "temperature", "max_tokens", "logprobs"])
@pytest.mark.parametrize("lists", [True, False])
def test_what_an_endpoint_rejects_is_left_out(rejected: str, lists: bool) -> None:
    with FaultServer(Behaviour(rejects=(rejected,), lists=lists)) as server:
        engine = engine_for(server)
        got = answers(engine, questions(system="You hate math."))
        assert engine.exact == (lists and rejected != "logprobs")
        assert {engine.read(a).outcome for a in got.values()} <= ({"exact"} if engine.exact else {"a", "b"})
        if rejected == "temperature" and not engine.exact:
            with pytest.raises(BadConfig, match=r"takes no temperature.*set choices\.temperature to 1 instead of 0\.5"):
                engine_for(server, temperature=0.5, dialect=replace(engine.dialect, temperature=False))
    asked = bodies(server)
    assert len(asked) == len(questions())
    if rejected == "system":
        whole = {f"You hate math.\n\n{STIMULUS.message(q.first, q.second)}" for q in questions()}
        assert {body["messages"][0]["content"] for body in asked} == whole
        assert engine.identity["folded"]
    else:
        assert not any(rejected in body for body in asked) or (rejected == "temperature" and not engine.exact)
        assert {body["messages"][0]["content"] for body in asked} == {"You hate math."}


@pytest.fixture
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "FIRST_BACKOFF", 0.005)


@pytest.mark.usefixtures("_short_waits")
@pytest.mark.parametrize("status", [200, 400, 403, 404, 422, 500, 501])
@pytest.mark.parametrize("says", ["", "No endpoint supports what was asked for."])
@pytest.mark.parametrize("rejects", [("logprobs",), ("seed",), ("max_tokens", "max_completion_tokens", "system")])
def test_a_field_is_left_out_whatever_the_status_and_words_of_its_refusal(
    status: int, says: str, rejects: tuple[str, ...]
) -> None:
    with FaultServer(Behaviour(rejects=rejects, rejects_with=status, says=says, lists=True)) as server:
        dialect = engine_for(server).dialect
        got = answers(engine_for(server, dialect=dialect), questions(system="You hate math."))
    assert len(got) == len(questions())
    left_out = {"limit" if "max" in name else name for name in rejects} - {"logprobs"}
    assert dialect.refused.keys() == left_out
    words = f"{400 if status == 200 else status}: {says}"  # a body may say which status it would have had
    assert all(said.startswith(words) for said in dialect.refused.values())
    taken = {"seed": dialect.seed, "system": dialect.system, "limit": bool(dialect.limit), "temperature": True}
    assert {name for name, takes in taken.items() if not takes} == left_out
    assert dialect.temperature
    assert dialect.exact == ("logprobs" not in rejects)
    if not dialect.exact:
        assert dialect.why.startswith(f"sampled: the endpoint turned log-probabilities down ({words}")


@pytest.mark.usefixtures("_short_waits")
@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_fewer_log_probabilities_are_asked_for_whatever_the_status(status: int) -> None:
    behaviour = Behaviour(lists=True, most_listed=5, rejects_with=status, says="Something is wrong.")
    with FaultServer(behaviour) as server:
        engine = engine_for(server)
    assert engine.dialect.top_logprobs == 5
    assert engine.about["refused"] == {"top_logprobs": f"{status}: Something is wrong."}


@pytest.mark.usefixtures("_short_waits")
@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("404", BadConfig, r"has no such model or address \(404: The server had an error\.\)"),
        ("403", BadConfig, r"refuses the key, or this to its owner \(403: "),
        ("500", TemporaryFailure, r"answers nothing but an error \(500: The server had an error\.\); run again later"),
        ('says {"error": "The model planted does not exist"}', BadConfig, "no such model .*planted does not exist"),
        ('says {"error": {"message": "Out of sorts"}}', TemporaryFailure, "Out of sorts"),
    ],
)
def test_what_the_plainest_question_is_refused_with_is_what_is_wrong(
    fault: str, kind: type[PrefprobeError], words: str
) -> None:
    with FaultServer(script=lambda *_: fault) as server, pytest.raises(kind, match=words):
        engine_for(server)


@pytest.mark.usefixtures("_short_waits")
def test_errors_that_pass_leave_nothing_out() -> None:
    with FaultServer(Behaviour(lists=True), lambda _, attempt: "500" if attempt < 3 else None) as server:
        dialect = engine_for(server).dialect
    assert (dialect.refused, dialect.top_logprobs, dialect.limit) == ({}, 20, "max_tokens")


def test_exact_where_it_cannot_be_is_refused() -> None:
    with (
        FaultServer() as server,
        pytest.raises(BadConfig, match="mode is exact, but the endpoint returned no log-prob"),
    ):
        engine_for(server, mode="exact")


@pytest.mark.parametrize("thinks", ["field", "tags"])
def test_a_model_that_thinks_is_sampled_with_room_for_it(thinks: str) -> None:
    with FaultServer(Behaviour(thinks=thinks, thought=200, lists=True)) as server:
        engine = engine_for(server)
        got = answers(engine, questions())
    assert engine.dialect.max_tokens == 256
    assert engine.about["why"] == "sampled: the model thinks before it answers"
    assert {engine.read(a).outcome for a in got.values()} <= {"a", "b"}
    assert all(a.raw.startswith("<think>") == (thinks == "tags") for a in got.values())


def test_seeds_differ_by_repeat_and_by_question_and_come_again() -> None:
    with FaultServer() as server:
        engine = engine_for(server)
        answers(engine, questions(repeats=5))
        first = bodies(server)
        answers(engine_for(server, dialect=engine.dialect), questions(repeats=5))
        assert {body["seed"] for body in bodies(server)[len(first) :]} == {body["seed"] for body in first}
        answers(engine_for(server, dialect=engine.dialect, seed=None), questions())
    assert len({body["seed"] for body in first}) == len(first) == 60
    assert all(0 <= body["seed"] < 2**31 for body in first)
    assert not any("seed" in body for body in bodies(server)[120:])
    with FaultServer(Behaviour(rejects=("seed",))) as server:
        engine = engine_for(server, seed=None)
        assert (engine.identity["seed"], engine.about["refused"]) == (None, {})
        assert not any("seed" in body for _, body in server.arrivals)


def test_faults_change_nothing_but_the_losses() -> None:
    faults = ("429", "500", "cut", "no choices", "null content", "garbage", "other model", "duplicate")
    with FaultServer() as calm, FaultServer(Behaviour(fault_rate=0.3, faults=faults)) as rough:
        plain, faulty = engine_for(calm), engine_for(rough)
        one, two = answers(plain, questions(repeats=4)), answers(faulty, questions(repeats=4))
    assert {i: a.raw for i, a in one.items()} == {i: a.raw for i, a in two.items()}
    assert plain.identity == faulty.identity
    assert not any(a.losses for a in one.values())
    lost = {cause for answer in two.values() for cause in answer.losses}
    assert {"no answer", "empty answer", "wrong model (planted-mini)", "duplicate"} <= lost
    assert {a.model for a in two.values()} == {"planted"}


def test_a_repeated_id_is_a_duplicate() -> None:
    def again(body: dict[str, Any], attempt: int) -> str | None:
        asked = body["messages"][-1]["content"]
        return "duplicate" if asked.count("Do a") and asked.count("Do b") and attempt == 0 else None

    with FaultServer(script=again) as server:
        engine = engine_for(server)
        got = answers(engine, questions())
    assert {id_ for id_, a in got.items() if a.losses} == {"ab0", "ba0"}
    assert {a.losses for a in got.values()} == {("duplicate",), ()}


def test_refusals_and_what_is_turned_down() -> None:
    with FaultServer(Behaviour(refusals=0.3, unlabelled=0.2, blocked=0.2)) as server:
        engine = engine_for(server)
        got = answers(engine, questions(repeats=5))
    found = Counter(engine.read(a).outcome for a in got.values())
    assert set(found) == {"a", "b", "refusal", "unparsed", "failed"}
    failed = [a for a in got.values() if engine.read(a).outcome == "failed"]
    assert {a.finish for a in failed} == {"failed: 400: The request was rejected by our content policy."}
    assert {(a.raw, a.cost, a.prompt_tokens) for a in failed} == {("", 0.0, 0)}


def test_what_an_answer_costs() -> None:
    with FaultServer() as server:
        engine = engine_for(server, prices=PRICES)
        got = answers(engine, questions())
    for answer in got.values():
        assert answer.completion_tokens == 16
        assert answer.cost == pytest.approx((answer.prompt_tokens * 100 + 16 * 1000) / 1e6)
        assert answer.provider == "loopback"
    assert engine.dialect.prompt_tokens > 0
    assert engine.dialect.cost > 0


def test_a_lost_attempt_that_may_have_been_worked_on_counts_like_the_one_that_came() -> None:
    def fails(body: dict[str, Any], attempt: int) -> str | None:
        return ("429", "cut", "500")[attempt] if attempt < 3 and "u=" in body["messages"][-1]["content"] else None

    with FaultServer(script=fails) as server:
        got = answers(engine_for(server, prices=PRICES), questions()[:3])
    assert {a.losses for a in got.values()} == {("429", "cut body", "500")}
    assert {a.completion_tokens for a in got.values()} == {2 * 16}


@pytest.mark.parametrize("unit", ["dollars", "tokens"])
def test_a_budget_holds_within_what_is_on_its_way_and_over_restarts(unit: str) -> None:
    with FaultServer(Behaviour(delay=0.01)) as server:
        free = engine_for(server, prices=PRICES)
        one = answers(free, questions())["ab0"]
        each = one.cost if unit == "dollars" else one.prompt_tokens + one.completion_tokens
        limit = {"budget_usd": 20.5 * each} if unit == "dollars" else {"budget_tokens": int(20.5 * each)}
        got: dict[str, Answer] = {}
        for some in (
            questions(repeats=1),
            questions(repeats=4),
            questions(repeats=4),
        ):  # three processes, one after another
            engine = engine_for(server, spent=Spend.of(got.values()), dialect=free.dialect, prices=PRICES, **limit)
            got |= answers(engine, [q for q in some if q.id not in got])
        assert 21 <= len(got) <= 20 + 4
        sent = len(server.arrivals)
        engine = engine_for(server, spent=Spend.of(got.values()), dialect=free.dialect, prices=PRICES, **limit)
        assert answers(engine, questions(repeats=4)) == {}
        assert len(server.arrivals) == sent


def test_a_budget_in_dollars_needs_prices() -> None:
    with FaultServer() as server, pytest.raises(BadConfig, match="reports no cost: give `prices` for planted"):
        engine_for(server, budget_usd=1.0)


@pytest.mark.parametrize("stops", [0, 1, 2])
def test_a_stop_from_save_drains_and_hands_everything_over_once(stops: int) -> None:
    calls = 0

    def stop(_: Sequence[Answer]) -> None:
        nonlocal calls
        calls += 1
        if calls > stops:
            raise Stopped(f"stop {calls}")

    with FaultServer(Behaviour(delay=0.03)) as server:
        settings = settings_for(server)
        engine = ApiEngine(settings, part=5)
        before, got = len(server.arrivals), Saved(stop)
        with pytest.raises(Stopped, match=f"stop {stops + 1}$"):
            engine.answer(questions(repeats=4), got)
        sent = len(server.arrivals) - before
    assert len(got) == len({a.id for a in got}) == sent < 48


def test_save_is_called_while_nothing_comes() -> None:
    calls: list[int] = []
    with FaultServer(Behaviour(delay=0.0)) as server:
        engine = engine_for(server)
        server.behaviour = replace(server.behaviour, delay=2.5)
        engine.answer(questions()[:1], Saved(lambda some: calls.append(len(some))))
    assert calls.count(0) >= 2
    assert sum(calls) == 1


def test_the_identity_says_what_an_answer_depends_on() -> None:
    with FaultServer() as server:
        engine = engine_for(server, extra={"top_p": 0.9})
        assert engine.identity == {
            "engine": "sampled-api",
            "model": "planted",
            "served": "planted",
            "mode": "sampled",
            "temperature": 1.0,
            "wording": 1,
            "labels": ["Task A:", "Task B:"],
            "max_tokens": 16,
            "folded": False,
            "top_logprobs": 0,
            "seed": 0,
            "extra": {"top_p": 0.9},
        }
        same = engine_for(server, extra={"top_p": 0.9}, key="OTHER", budget_tokens=10**6, prices=PRICES)
        assert same.identity == engine.identity
        assert engine_for(server).identity != engine.identity


def test_what_an_answer_is_kept_under_and_asked_with_stays_as_it_was() -> None:
    """Digests and a seed of logs written so far: with others every answer would be asked, and paid, again."""
    settings = ApiSettings(base_url="http://127.0.0.1:1/v1", model="m", judge=JudgeSettings(model="judging"))
    budget, dialect = Budget(settings, Spend()), Dialect(model="planted")
    engine = ApiEngine(settings, STIMULUS, 0.7, part=10, budget=budget, dialect=dialect)
    judge = Judge(settings, STIMULUS, 10, budget, dialect)
    digests = [sha256(canonical_json(dict(each.identity)))[:16] for each in (engine, judge)]
    assert digests == ["72f43be2360f946c", "cbdba36be009684f"]
    assert judge.unclear(Answer("q", "<think>x</think> Hmm, ü.")).id == "713de5ebcece82dcef4098125f66ac40"
    call = engine._call(question("q", "one", "two", "sys", 3))
    assert (call.id, call.body["seed"], call.tokens) == (
        "q",
        658375303,
        len(STIMULUS.message("one", "two") + "sys") // 4 + 16,
    )


SECRET = "sk-a-very-secret-key"


def test_the_key_stays_where_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SOME_KEY", SECRET)
    with FaultServer(Behaviour(key=SECRET)) as right, FaultServer(Behaviour(key="another")) as wrong:
        engine = engine_for(right, key="SOME_KEY")
        got = answers(engine, questions())
        with pytest.raises(BadConfig, match="refuses the key") as refused:
            engine_for(wrong, key="SOME_KEY")
        with pytest.raises(BadConfig, match="refuses the key"):
            engine_for(right, key="NO_SUCH_VARIABLE")
    said = [repr(engine), repr(vars(engine)), repr(vars(engine._endpoint)), str(engine.identity), str(engine.about)]
    said += [caplog.text, *map(repr, got.values()), settings_for(right, key="SOME_KEY").model_dump_json()]
    said += ["".join(traceback.format_exception(refused.value))]
    assert len(got) == len(questions())
    assert not any(SECRET in text for text in said)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"key": SECRET}, "the name of an environment variable"),
        ({"base_url": "https://user:word@host/v1"}, "do not belong in an address"),
        ({"base_url": "host/v1"}, "begins with http"),
        ({"base_url": "https://host/v1?api-version=1"}, r"an address ends before \?; /chat/completions follows it"),
        ({"base_url": "https://host/v1#top"}, "an address ends before #"),
        ({"extra": {"temperature": 1, "stream": True}}, "the engine sets stream, temperature itself"),
        ({"judge": {"model": "j", "base_url": "https://elsewhere/v1"}}, "`key` must be given with another base_url"),
        ({"retries": 1}, "Extra inputs"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        ApiSettings(**{"base_url": "http://h/v1", "model": "m", **given})


def test_the_judge_reads_what_the_parser_cannot(tmp_path: Path) -> None:
    with FaultServer() as server:
        settings = settings_for(server, judge=JudgeSettings(model="judging"), budget_tokens=10**6)
        budget = Budget(settings, Spend())
        judge = Judge(settings, STIMULUS, 1000, budget)
        probed = budget.spent
        some = [Answer(f"q{i}", text) for i, text in enumerate(["I'd take {0} it.\u2028\"], B", "Hm.", "Hm."])]
        asked = [judge.unclear(answer) for answer in some]
        log = AnswerLog(StepStore(ObjectStore.open(str(tmp_path)), "answers", "k" * 64, {}), "me")
        got = log.ask(judge.answer, asked, Progress(), "answers")
    assert [text for _, text in asked] == [answer.raw for answer in some]
    assert asked[1].id == asked[2].id != asked[0].id
    assert got.keys() == {text.id for text in asked}
    assert (judge.identity["model"], judge.identity["served"]) == ("judging", "planted")
    assert budget.spent.requests == probed.requests + 2
    shown = server.arrivals[-1][1]["messages"][-1]["content"] + server.arrivals[-2][1]["messages"][-1]["content"]
    assert '"I\'d take {0} it.\u2028\\"], B"' in shown  # as data that cannot end early
    assert all(body["model"] == "judging" and body["temperature"] == 0 for _, body in server.arrivals)
    assert all("seed" not in body for _, body in server.arrivals[-2:])


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        ("A", "a"),
        ("**B**.", "b"),
        (" b\n", "b"),
        ("Task A", "a"),
        ("Refusal", "refusal"),
        ("unclear", "unparsed"),
        ("A refusal, I think", "unparsed"),
        ("<think>A? No.</think>B", "b"),
        ("", "unparsed"),
    ],
)
def test_verdicts(verdict: str, outcome: str) -> None:
    with FaultServer() as server:
        settings = settings_for(server, judge=JudgeSettings(model="judging"))
        judge = Judge(settings, STIMULUS, 10, Budget(settings, Spend()), Dialect(model="planted"))
    assert judge.read(Answer("q", verdict)).outcome == outcome
    assert judge.read(Answer("q", "", "failed: 400: no")).outcome == "failed"


def test_a_judge_elsewhere_has_its_own_address_key_and_prices() -> None:
    judge = JudgeSettings(model="j", base_url="https://judge/v1", key="JUDGE_KEY", prices=PRICES, max_tokens=99)
    settings = ApiSettings(base_url="http://h/v1", model="m", mode="exact", extra={"top_p": 0.1}, judge=judge)
    own = settings.for_judge()
    assert (own.base_url, own.key, own.prices, own.max_tokens) == ("https://judge/v1", "JUDGE_KEY", PRICES, 99)
    assert (own.mode, own.extra, own.model) == ("sampled", {}, "j")
    same = ApiSettings(base_url="http://h/v1", model="m", key="K", judge=JudgeSettings(model="j")).for_judge()
    assert (same.base_url, same.key) == ("http://h/v1", "K")


def test_an_endpoint_that_is_not_there() -> None:
    with FaultServer() as server:
        settings = settings_for(server, patience=1.0)
    with pytest.raises(PrefprobeError, match="has answered nothing"):
        ApiEngine(settings)


def test_labels_must_differ() -> None:
    settings = ApiSettings(base_url="http://127.0.0.1:1/v1", model="m")
    with pytest.raises(BadConfig, match="begins with the other"):
        ApiEngine(settings, Stimulus("Task A", "task a:"), dialect=Dialect())


def test_an_endpoint_is_asked_while_a_loop_runs_as_in_a_notebook() -> None:
    async def cell() -> str:
        return str(ApiEngine(ApiSettings(base_url=server.url, model="planted", key="")).about["why"])

    with FaultServer(Behaviour(lists=True)) as server:
        assert asyncio.run(cell()).startswith("exact: ")
