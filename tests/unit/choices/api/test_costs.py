"""What answers cost where the endpoint says it, says half of it, or nothing; and what is written down before asking."""

import time
from collections.abc import Mapping
from typing import Any

import pytest

from prefprobe.choices.api.client import Reply
from prefprobe.choices.api.endpoint import Budget
from prefprobe.choices.api.engine import ApiEngine
from prefprobe.choices.api.replies import to_answer
from prefprobe.choices.engine import Answer, Question, Spend
from prefprobe.errors import BadConfig, TemporaryFailure
from prefprobe.settings.api import ApiSettings
from prefprobe.settings.endpoint import Prices, TransportSettings
from tests.fault_server import USAGES, Behaviour, FaultServer
from tests.questions import Saved, question

PRICES = Prices(prompt=100.0, completion=1000.0)
CONCURRENCY = 4


def questions(n: int = 12) -> list[Question]:
    return [question(f"q{i}", f"Do {i}, u={i % 20 / 10:+.2f}", f"Do that, u={-i % 20 / 10:+.2f}") for i in range(n)]


def opened(server: FaultServer, trial: Saved | None = None, **given: Any) -> tuple[ApiEngine, Budget]:
    transport = TransportSettings(concurrency=CONCURRENCY, attempt_timeout=10.0, total_timeout=30.0)
    settings = ApiSettings(base_url=server.url, model="planted", **{"key": "", "transport": transport, **given})
    budget = Budget(settings, Spend())
    return ApiEngine(settings, part=1000, budget=budget, trial=trial), budget


EXACT = {"all", "no completion"}
"""What says enough to count every token."""


@pytest.mark.parametrize("usage", USAGES)
@pytest.mark.parametrize("behaviour", [{}, {"lists": True}, {"thinks": "field"}, {"random": True}])
def test_tokens_that_are_not_reported_are_estimated_and_not_too_low(usage: str, behaviour: dict[str, Any]) -> None:
    with FaultServer(Behaviour(usage=usage, **behaviour)) as server:
        engine, budget = opened(server, prices=PRICES)
        interviewed, asked_before = server.tokens, server.answers.total()
        got = Saved()
        engine.answer(questions(), got)
        asked, true = server.answers.total(), server.tokens - interviewed
    assert engine.dialect.usage == (usage in EXACT)
    assert (engine.dialect.requests, budget.spent.requests) == (asked_before, asked)
    assert engine.dialect.prompt_tokens + engine.dialect.completion_tokens >= interviewed
    assert len(got) == 12
    assert sum(a.estimated for a in got) == {"all": 0, "no completion": 0, "every other": 6}.get(usage, 12)
    tokens = sum(a.prompt_tokens + a.completion_tokens for a in got)
    assert tokens == true if usage in EXACT else true <= tokens < 6 * true  # the server counts words
    for answer in got:
        assert min(answer.prompt_tokens, answer.completion_tokens) > 0
        assert answer.cost == pytest.approx((answer.prompt_tokens * 100 + answer.completion_tokens * 1000) / 1e6)


@pytest.mark.parametrize("usage", USAGES)
@pytest.mark.parametrize("limit", [{"budget_tokens": 300}, {"budget_usd": 0.02}])
def test_a_budget_binds_whatever_is_said_of_tokens(usage: str, limit: dict[str, Any]) -> None:
    with FaultServer(Behaviour(usage=usage)) as server:
        free, _ = opened(server, prices=PRICES)
        settings = ApiSettings(base_url=server.url, model="planted", key="", prices=PRICES, **limit)
        budget = Budget(settings, Spend())
        got = Saved()
        engine = ApiEngine(
            settings.model_copy(update={"transport": TransportSettings(concurrency=1)}),
            part=1000,
            budget=budget,
            dialect=free.dialect,
        )
        before = server.tokens
        engine.answer(questions(), got)
        spent = server.tokens - before
    most = max(a.prompt_tokens + a.completion_tokens for a in got)
    assert 0 < len(got) < 12
    assert spent <= 300 + most or "budget_usd" in limit
    assert 100 * spent / 1e6 <= 0.02 + most * 1000 / 1e6


def test_where_some_replies_say_what_they_cost_the_others_cost_as_much_a_token() -> None:
    with FaultServer(Behaviour(usage="every other", cost=0.001)) as server:
        engine, _ = opened(server, budget_usd=100.0)
        got = Saved()
        engine.answer(questions(), got)
    for answer in got:
        assert answer.cost == pytest.approx(0.001 * (answer.prompt_tokens + answer.completion_tokens))


def test_an_endpoint_that_says_that_all_is_free_needs_prices_for_a_budget_in_dollars() -> None:
    with FaultServer(Behaviour(cost=-1.0)) as server, pytest.raises(BadConfig, match="give `prices`"):
        opened(server, budget_usd=1.0)
    body = {
        "choices": [{"message": {"content": "A"}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 1, "cost": 0},
    }
    assert to_answer(Reply("q", body, "", ()), "", PRICES, None).cost == pytest.approx(0.002)


ASKED = {"model": "m", "messages": [{"role": "user", "content": "x" * 300}], "max_tokens": 16}


@pytest.mark.parametrize(
    ("choice", "usage", "completion", "estimated"),
    [
        ({"message": {"content": "y" * 30}}, {}, 10, True),
        ({"message": {"content": "y" * 30}, "finish_reason": "length"}, None, 16, True),
        ({"message": {"content": "é" * 30}}, [], 40, True),
        ({"message": {"content": "1234567890 + 3"}}, {}, 12, True),
        ({"message": {"content": "\ud800" * 3}}, {}, 1, True),
        ({"message": {"content": ""}}, {"prompt_tokens": 9, "completion_tokens": 0}, 0, False),
        ({"message": {"content": "y"}}, {"prompt_tokens": 9, "completion_tokens": 0}, 1, True),
        ({"message": {"content": "y"}}, {"prompt_tokens": 9, "total_tokens": 13}, 4, False),
        ({"message": {"content": "y", "reasoning_content": "z" * 90}}, {"prompt_tokens": 9}, 31, True),
        ({"message": {"content": "y", "reasoning": "z" * 90}, "finish_reason": "length"}, {}, 31, True),
        ({"message": {"content": None, "refusal": "z" * 30}}, {}, 10, True),
        ({"message": {"content": None, "tool_calls": [{"id": "z" * 40}]}, "finish_reason": "tool_calls"}, {}, 17, True),
        ({"message": {"content": "y" * 30}, "logprobs": {"content": [{}] * 7}}, {}, 7, True),
        ({"message": {"content": "y" * 30}, "logprobs": {"tokens": ["y"] * 7}}, {}, 7, True),
        ({"message": {"content": "y" * 30}}, {"prompt_tokens": 9, "completion_tokens": 10**400}, 10, True),
        ({"message": {"content": "y" * 30}}, {"prompt_tokens": 9, "completion_tokens": True}, 10, True),
        (
            {"message": {"content": "y" * 30}},
            {"prompt_tokens": float("nan"), "completion_tokens": float("inf")},
            10,
            True,
        ),
    ],
)
def test_how_long_an_answer_was_by_what_is_seen_of_it(
    choice: Mapping[str, Any], usage: object, completion: int, estimated: bool
) -> None:
    answer = to_answer(Reply("q", {"choices": [choice], "usage": usage}, "", (), asked=ASKED), "", None, None)
    assert (answer.completion_tokens, answer.estimated) == (completion, estimated)
    assert answer.prompt_tokens == 9 or 100 < answer.prompt_tokens < 140


def test_a_question_that_is_given_up_costs_what_its_attempts_may_have_cost() -> None:
    losses = ("timeout", "429", "cut body", "connection", "503")
    answer = to_answer(Reply("q", None, "no answer within 9 s", losses, asked=ASKED), "h", PRICES, None)
    assert (answer.requests, answer.completion_tokens, answer.estimated) == (2, 32, True)
    assert answer.cost == pytest.approx((answer.prompt_tokens * 100 + 32 * 1000) / 1e6)
    refused = to_answer(Reply("q", None, "400: no", ("429",), asked=ASKED), "h", PRICES, None)
    assert (refused.requests, refused.prompt_tokens, refused.cost) == (0, 0, 0.0)


class Slow(Saved):
    """Writes down what is owed in so many seconds, and keeps how many questions each time were new."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.together = seconds, list[int]()

    def owe(self, costs: Mapping[str, Spend]) -> None:
        new = [id_ for id_, cost in costs.items() if cost.requests and id_ not in self.owed]
        super().owe(costs)
        if new:
            self.together.append(len(new))
            time.sleep(self.seconds)


def test_a_question_is_written_down_before_it_goes_out_and_taken_back_if_it_does_not() -> None:
    with FaultServer(Behaviour(delay=0.02)) as server:
        engine, _ = opened(server)
        server.arrivals.clear()
        save = Slow(0.0)
        engine.answer(questions(40), save)
        assert set(save.together) == {1}
        assert [spend.requests for spend in save.owed.values()] == [1] * 40

        def stop(_: object) -> None:
            if max(stopped.together) > 5:  # some of these do not go out any more
                raise TemporaryFailure("stop")

        stopped = Slow(0.05)
        stopped.also = stop
        server.arrivals.clear()
        with pytest.raises(TemporaryFailure, match=r"^stop$"):
            engine.answer(questions(400), stopped)
        sent = len(server.arrivals)
    owed = [id_ for id_, cost in stopped.owed.items() if cost.requests]
    assert 0 < len(stopped) == len(owed) == sent < 400


def test_answers_are_handed_over_each_second() -> None:
    handed: list[int] = []
    with FaultServer(Behaviour(delay=0.1)) as server:
        engine, _ = opened(server)
        engine.answer(questions(140), Saved(lambda some: handed.append(len(some))))
    assert sum(handed) == 140
    assert max(handed) < 70  # of forty that are answered in a second


def test_where_writing_is_slow_several_are_written_together() -> None:
    with FaultServer(Behaviour(delay=0.001)) as server:
        engine, _ = opened(server)
        save = Slow(0.03)
        engine.answer(questions(1000), save)
    assert len(save) == sum(save.together) == 1000
    assert len(save.together) < 200  # one by one in the first second, and more the more go out in one


def test_what_attempts_may_cost_is_owed_before_the_next_and_free_ones_are_not() -> None:
    seen: list[tuple[int, int]] = []

    def fails(body: dict[str, Any], attempt: int) -> str | None:
        if "u=" not in body["messages"][-1]["content"]:
            return None
        seen.append((attempt, save.owed["q0"].requests))
        return ("429", "cut", "503", "garbage")[attempt] if attempt < 4 else None

    save = Saved()
    with FaultServer(script=fails) as server:
        engine, _ = opened(server)
        engine.answer(questions(1), save)
    assert seen == [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3)]
    assert (save[0].requests, save[0].losses) == (3, ("429", "cut body", "503", "garbage"))


@pytest.mark.parametrize("fault", ["cut", "hang"])
def test_a_budget_covers_attempts_that_are_lost(fault: str) -> None:
    def loses(body: dict[str, Any], attempt: int) -> str | None:
        return fault if "u=" in body["messages"][-1]["content"] else None

    save, transport = Saved(), TransportSettings(concurrency=CONCURRENCY, attempt_timeout=0.1, total_timeout=8.0)
    with FaultServer(script=loses) as server:
        engine, budget = opened(server, budget_tokens=900, transport=transport)
        each, asked = budget.spent.per(1), len(server.arrivals)
        engine.answer(questions(), save)
        covered = 900 / (each.prompt_tokens + each.completion_tokens) - asked
        assert len(server.arrivals) - asked <= covered + CONCURRENCY
    assert save == []
    assert sum(cost.requests for cost in save.owed.values()) == len(server.arrivals) - asked


def test_an_interview_is_owed_before_and_paid_after_although_it_fails() -> None:
    trial = Saved()
    with FaultServer() as server:
        engine, budget = opened(server, trial)
        assert Spend.of(trial) == engine.dialect.spend == budget.spent
        assert budget.spent.requests == server.answers.total() == len(server.arrivals)
        assert all(cost.requests == 1 for cost in trial.owed.values())

    def goes_silent(body: dict[str, Any], _: int) -> str | None:
        return "cut" if body.get("logprobs") else None

    failing = Saved()
    with FaultServer(script=goes_silent) as server:
        transport = TransportSettings(total_timeout=1.0)
        with pytest.raises(TemporaryFailure):
            opened(server, failing, transport=transport)
        answered = server.answers.total()
    assert answered == 1
    assert Spend.of(failing).requests >= answered


def test_what_an_answer_counts() -> None:
    assert Answer("q", "A").requests == 1
    assert Answer("q", "A", losses=("429", "timeout", "500", "connection", "cut body")).requests == 3
    assert Answer("q", "", "failed: 400: no").requests == 0
    assert Spend(3, 100, 10, 0.75).per(2) == Spend(2, 67, 7, 0.5)
    assert Spend().per(5) == Spend()
