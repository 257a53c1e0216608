"""Endpoints that stream, go by several names, call tools, are still loading, or say no in words of their own."""

import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from prefprobe.choices.answers import AnswerLog
from prefprobe.choices.api import client, pacing, replies
from prefprobe.choices.api.access import Access
from prefprobe.choices.api.client import Call, Client, Reply
from prefprobe.choices.api.endpoint import Budget
from prefprobe.choices.api.engine import ApiEngine
from prefprobe.choices.api.judge import Judge
from prefprobe.choices.engine import Answer, Question, Spend
from prefprobe.choices.log import ChoiceLog
from prefprobe.choices.stimulus import Stimulus
from prefprobe.errors import BadConfig, PrefprobeError, TemporaryFailure
from prefprobe.progress import Stopped
from prefprobe.settings.api import ApiSettings, JudgeSettings
from prefprobe.settings.endpoint import TransportSettings
from tests.fault_server import Behaviour, FaultServer
from tests.questions import Saved, question

WORTHS = {f"t{k}": f"Do {k} u={k / 4 - 1:+.2f}" for k in range(9)}
PAIRS = [("", a, b) for a in WORTHS for b in WORTHS if a < b]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "FIRST_BACKOFF", 0.005)
    monkeypatch.setattr(pacing, "LONGEST", 0.1)


def settings_for(server: FaultServer, patience: float = 20.0, **given: Any) -> ApiSettings:
    transport = TransportSettings(concurrency=4, attempt_timeout=10.0, total_timeout=patience)
    return ApiSettings(base_url=server.url, model="planted", transport=transport, **given)


def questions() -> list[Question]:
    return [question(f"{a}{b}", WORTHS[a], WORTHS[b]) for _, a, b in PAIRS]


def answers(engine: ApiEngine, asked: Sequence[Question]) -> dict[str, Answer]:
    got = Saved()
    engine.answer(asked, got)
    return {answer.id: answer for answer in got}


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("rejects", [(), ("stream_options",), ("seed", "stream_options")])
@pytest.mark.parametrize("says", ["", "The request is not valid."])
def test_an_endpoint_that_only_streams_gives_the_same_answers(lists: bool, rejects: tuple[str, ...], says: str) -> None:
    with (
        FaultServer(Behaviour(lists=lists)) as whole,
        FaultServer(Behaviour(lists=lists, streams="only", rejects=rejects, says=says)) as streams,
    ):
        plain, streamed = ApiEngine(settings_for(whole)), ApiEngine(settings_for(streams, stream=True))
        refused = streamed.about["refused"]
        one = answers(plain, questions())
        other = answers(streamed, questions())
    seeds = "seed" in rejects and not lists
    assert streamed.exact == plain.exact == lists
    assert refused.keys() == set(rejects)
    assert seeds or {id_: a.raw for id_, a in one.items()} == {id_: a.raw for id_, a in other.items()}
    assert seeds or streamed.identity == plain.identity
    assert all(body["stream"] for _, body in streams.arrivals)
    options = [body.get("stream_options") for _, body in streams.arrivals[-3:]]
    assert options == [None if "stream_options" in rejects else {"include_usage": True}] * 3
    assert {a.estimated for a in other.values()} == {"stream_options" in rejects}  # what it took is not said


def test_an_endpoint_that_only_streams_says_so_where_it_is_asked_for_no_stream() -> None:
    with FaultServer(Behaviour(streams="only")) as server:
        with pytest.raises(BadConfig, match="only supports streaming; set stream to true"):
            ApiEngine(settings_for(server))
        assert not any("stream" in body or "stream_options" in body for _, body in server.arrivals)


TWO = ("planted-0806", "planted")
SERVED = re.escape("set `served` to [planted, planted-0806]")


def test_names_that_alternate_in_the_interview_are_named_and_what_to_set() -> None:
    with FaultServer(Behaviour(names=TWO)) as server:
        with pytest.raises(BadConfig, match=rf"come from planted and planted-0806; .*{SERVED}") as caught:
            ApiEngine(settings_for(server))
        assert caught.value.exit_code == 78
        for served in (["planted", "planted-0806"], ["planted*"], ["pl?nted", "other", "planted-0806"]):
            engine = ApiEngine(settings_for(server, served=served))
            got = answers(engine, questions())
            assert {a.model for a in got.values()} == set(TWO)
            assert not any(a.losses for a in got.values())
            assert engine.identity["served"] == sorted(served)
        with pytest.raises(
            BadConfig, match=r"and `served` is \[planted-0806\]; .*served` to \[planted, planted-0806\]"
        ):
            ApiEngine(settings_for(server, served=["planted-0806"]))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.3])
def test_another_model_in_the_study_stops_it_before_much_is_billed(share: float) -> None:
    def other(body: dict[str, Any], attempt: int) -> str | None:
        later = "u=" in body["messages"][-1]["content"]
        return "other model" if later and (body["seed"] + 7919 * attempt) % 100 < 100 * share else None

    many = [
        question(f"{k}{id_}", a, b, repeat=k)
        for k in range(20)
        for id_, a, b in [(q.id, q.first, q.second) for q in questions()]
    ]
    got = Saved()
    with FaultServer(script=other) as server:
        engine = ApiEngine(settings_for(server))
        asked = len(server.arrivals)
        words = (
            r"answers came from planted-mini and not from planted; .*set `served` to \[planted, planted-mini\], which"
        )
        with pytest.raises(BadConfig, match=words):
            engine.answer(many, got)
        assert len(server.arrivals) - asked < 10 / share + 60
        assert {a.model for a in got} <= {"planted"}  # what came of the right one is kept


def test_another_model_now_and_then_is_asked_again_and_counted_by_its_name() -> None:
    def seldom(body: dict[str, Any], attempt: int) -> str | None:
        return "other model" if "u=" in body["messages"][-1]["content"] and not (body["seed"] + attempt) % 12 else None

    with FaultServer(script=seldom) as server:
        got = answers(ApiEngine(settings_for(server)), questions())
    assert len(got) == len(PAIRS)
    assert set(Counter(loss for a in got.values() for loss in a.losses)) == {"wrong model (planted-mini)"}


def test_a_judges_names_are_its_own() -> None:
    with FaultServer(Behaviour(names=TWO)) as server:
        for served in ([], ["planted*"]):
            judge = JudgeSettings(model="j", served=served)
            settings = settings_for(server, served=["planted*"], judge=judge)
            if served:
                assert Judge(settings, Stimulus(), 9, Budget(settings, Spend())).identity["served"] == served
            else:
                with pytest.raises(BadConfig, match=f"j at .*{SERVED}"):
                    Judge(settings, Stimulus(), 9, Budget(settings, Spend()))


@pytest.mark.parametrize("lists", [True, False])
def test_answers_that_only_call_a_tool_are_refused_with_what_to_set(lists: bool) -> None:
    with FaultServer(Behaviour(calls_tools=1.0, lists=lists)) as server:
        with pytest.raises(BadConfig, match=r"4 of 4 sample answers only call a tool; `extra: \{tool_choice: none\}`"):
            ApiEngine(settings_for(server))
        engine = ApiEngine(settings_for(server, extra={"tool_choice": "none"}))
        assert engine.exact == lists
        assert "tool" not in engine.about["why"]


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
def test_calls_of_tools_are_counted_by_a_word_of_their_own(
    lists: bool, finish: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FaultServer._completed

    def completed(self: FaultServer, body: dict[str, Any]) -> dict[str, Any]:
        completion = whole(self, body)
        for choice in completion["choices"]:
            if choice["message"].get("tool_calls"):
                choice["finish_reason"] = finish
        return completion

    monkeypatch.setattr(FaultServer, "_completed", completed)
    with FaultServer(Behaviour(calls_tools=0.3, lists=lists)) as server:
        settings = settings_for(server, mode="exact" if lists else "sampled", judge=JudgeSettings(model="j"))
        engine = ApiEngine(settings)
        log = ChoiceLog(engine, WORTHS, judgements=AnswerLog())
        log.judge = Judge(
            settings, Stimulus(), 9, Budget(settings, Spend()), engine.dialect
        )  # is not asked about nothing
        rows = log.measure(log.questions(PAIRS, 1), 0)
        account = log.account(rows)
    assert 5 < account["tool_calls"] == account["unparsed"] < len(rows) / 2
    assert account["losses"] == {}
    with FaultServer(Behaviour(lists=lists)) as server:
        log = ChoiceLog(ApiEngine(settings_for(server)), WORTHS)
        assert "tool_calls" not in log.account(log.measure(log.questions(PAIRS[:3], 1), 0))


def test_a_few_calls_of_tools_in_the_interview_are_said() -> None:
    for share in (0.2, 0.3, 0.4, 0.5):
        with FaultServer(Behaviour(calls_tools=share)) as server:
            try:
                why = ApiEngine(settings_for(server)).about["why"]
            except BadConfig:
                continue
        if "tool" in why:
            assert re.search(
                r"; [12] of 4 sample answers only call a tool; `extra: \{tool_choice: none\}` forbids", why
            )
            return
    raise AssertionError("no share had a few")


@pytest.mark.parametrize("status", [500, 503, 502, 425, 404, 400, 200])
def test_an_endpoint_that_is_loading_is_waited_for(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_CONTACT", 0.05)
    with FaultServer(Behaviour(loads=12, loads_with=status)) as server:
        dialect = ApiEngine(settings_for(server)).dialect
    assert (dialect.refused, dialect.limit, dialect.seed) == ({}, "max_tokens", True)
    assert all(body == server.arrivals[0][1] for _, body in server.arrivals[:13])  # and nothing was left out meanwhile


def test_an_endpoint_that_never_ends_to_load_says_so_and_is_not_waited_for_after_a_stop() -> None:
    with FaultServer(Behaviour(loads=10**6)) as server:
        with pytest.raises(
            TemporaryFailure, match=r"is still loading, and has answered nothing for 0.5 s .*Loading model"
        ):
            ApiEngine(settings_for(server, patience=0.5))

        def stop(_: Sequence[Answer]) -> None:
            raise Stopped("stopped")

        began = time.monotonic()
        with pytest.raises(Stopped):
            ApiEngine(settings_for(server), trial=Saved(also=stop))
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "said", ["Failed to load: error loading model weights", "The server had an error.", "overloaded"]
)
def test_what_only_sounds_like_loading_is_not_waited_for(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_CONTACT", 0.3)
    says = f'says {{"error": {{"message": "{said}", "code": 503}}}}'
    words = r"/v1 has answered nothing for 0\.3 s"
    with FaultServer(script=lambda *_: says) as server, pytest.raises(TemporaryFailure, match=words):
        ApiEngine(settings_for(server))


NO_FIELD = (
    "logprobs are not available to this key",
    "log probabilities are not allowed on your plan",
    "You may not set top_logprobs",
    "The parameter is not permitted",
    "seed is not allowed for this project",
)
NO_KEY = ("Your account may not do this", "No access to bytedance/seed-model", "Forbidden", "Country not supported")


@pytest.mark.parametrize(("said", "field"), [*((said, True) for said in NO_FIELD), *((said, False) for said in NO_KEY)])
def test_a_403_about_a_field_is_not_about_the_key(said: str, field: bool) -> None:
    means = "does not allow a field of the request" if field else "refuses the key"
    with FaultServer(Behaviour(rejects=("logprobs",), rejects_with=403, says=said)) as server:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "logprobs": True}
        asked = Client(Access(server.url, {}, {}, ()), TransportSettings(), lambda _: None)
        with pytest.raises(BadConfig, match=rf"{means}.*403: {said}"):
            asked.run([Call("q", body, 1)], lambda _: None, lambda: None)
        engine = ApiEngine(settings_for(server))  # whatever it says, the interview does without
        assert engine.about["why"] == f"sampled: the endpoint turned log-probabilities down (403: {said})"
        with pytest.raises(BadConfig, match="mode is exact, but the endpoint turned log-probabilities down"):
            ApiEngine(settings_for(server, mode="exact"))


@pytest.mark.parametrize("counts", ["refuses", "takes"])
@pytest.mark.parametrize(("most", "asked"), [(20, 20), (10, 5)])
@pytest.mark.parametrize("listing", ["", "columns"])
def test_log_probabilities_that_are_asked_for_by_their_number(counts: str, most: int, asked: int, listing: str) -> None:
    with FaultServer(Behaviour(lists=True, counts=counts, most_listed=most, listing=listing)) as server:
        engine = ApiEngine(settings_for(server))
        got = answers(engine, questions())
        bodies = [body for _, body in server.arrivals if "u=" in body["messages"][-1]["content"]]
    assert (engine.exact, engine.dialect.counted, engine.dialect.top_logprobs) == (True, True, asked)
    assert {body["logprobs"] for body in bodies} == {asked}
    assert not any("top_logprobs" in body for body in bodies)
    assert ("logprobs" in engine.dialect.refused) == (counts == "refuses")
    for q in questions():
        first, second = (float(text.split("u=")[1]) for text in (q.first, q.second))
        assert engine.read(got[q.id]).logit == pytest.approx(first - second + 0.4, abs=1e-4)


def test_where_they_come_neither_way_the_first_reason_is_said_and_little_is_asked() -> None:
    with FaultServer(Behaviour(rejects=("logprobs",), lists=True)) as server:
        engine = ApiEngine(settings_for(server))
        assert engine.about["why"].startswith("sampled: the endpoint turned log-probabilities down (400: Unsupported")
        assert len(server.arrivals) < 16


@pytest.mark.parametrize("lists", [True, False])
def test_no_seed_goes_out_where_there_is_none(lists: bool) -> None:
    with FaultServer(Behaviour(lists=lists, rejects=("max_tokens", "system"), says="No.")) as server:
        settings = settings_for(server, seed=None, judge=JudgeSettings(model="j"))
        engine = ApiEngine(settings)
        first = [str(body) for _, body in server.arrivals[:4]]
        assert len(set(first)) == 4  # nothing is asked again without a seed that was not there
        answers(engine, questions())
        Judge(settings, Stimulus(), 9, Budget(settings, Spend()))
        assert not any("seed" in body for _, body in server.arrivals)
        assert engine.about["seed"]  # it was not refused, and the report does not say so


def test_one_that_is_refused_while_it_answers_with_errors_ends_with_its_sentence() -> None:
    """An error 500 whatever is left out: each is an answer to what was asked, and none an outage that pauses everything."""
    with FaultServer(script=lambda *_: "500") as server:
        failed: list[PrefprobeError] = []

        def run() -> None:
            try:
                ApiEngine(settings_for(server))
            except PrefprobeError as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(20)
    assert "answers nothing but an error (500: The server had an error.)" in str(failed[0])


TEXT = "Task A: Here it is"
THOUGHT = "Task B: sounds good, but so does the other. "


@pytest.mark.parametrize(
    ("content", "thinks"),
    [
        ([{"type": "text", "text": TEXT}], False),
        ([{"type": "output_text", "text": TEXT[:4]}, {"text": TEXT[4:]}], False),
        ([TEXT[:4], TEXT[4:]], False),
        ({"type": "text", "text": TEXT}, False),
        ([{"type": "reasoning", "text": THOUGHT}, {"type": "text", "text": TEXT}], True),
        ([{"type": "thinking", "thinking": THOUGHT, "text": THOUGHT}, {"type": "text", "text": TEXT}], True),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}, {"type": "text", "text": TEXT}], True),
        ([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": TEXT}], False),
    ],
)
def test_of_a_message_in_parts_the_parts_that_are_said_are_the_answer(content: Any, thinks: bool) -> None:
    body = {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}
    assert replies.text(body) == TEXT
    assert replies.thinks(body) == thinks
    asked = {"messages": [], "max_tokens": 100}
    tokens = replies.to_answer(Reply("q", body, "", (), asked=asked), "h", None, None).completion_tokens
    assert tokens > (len(THOUGHT) / 4 if thinks else 0)
