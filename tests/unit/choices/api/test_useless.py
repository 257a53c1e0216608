"""Endpoints whose answers are of no use: after the interview, to some questions, or always. None is paid for ever."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from itertools import combinations, count, permutations
from typing import Any

import pytest

from prefprobe.choices.api import client, pacing
from prefprobe.choices.api.engine import ApiEngine
from prefprobe.choices.engine import Answer, Question
from prefprobe.choices.log import ChoiceLog
from prefprobe.errors import BadConfig
from prefprobe.settings.api import ApiSettings
from prefprobe.settings.endpoint import TransportSettings
from tests.fault_server import Behaviour, Body, FaultServer, answer
from tests.questions import Saved, question

Write = Callable[[Body], None]
PATIENCE = 20.0


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "FIRST_BACKOFF", 0.005)
    monkeypatch.setattr(pacing, "LONGEST", 0.05)
    monkeypatch.setattr(client, "FIRST_CONTACT", PATIENCE)


def questions(n: int = 90) -> list[Question]:
    pairs = permutations([f"Do {k} u={k / 5 - 1:+.2f}" for k in range(10)], 2)
    return [question(f"q{k}", *pair) for k, pair in enumerate(pairs)][:n]


def opened(server: FaultServer, **given: Any) -> ApiEngine:
    transport = TransportSettings(concurrency=4, attempt_timeout=0.3, total_timeout=PATIENCE)
    return ApiEngine(ApiSettings(base_url=server.url, model="planted", transport=transport, **given))


def answers(engine: ApiEngine, asked: Sequence[Question]) -> dict[str, Answer]:
    got = Saved()
    engine.answer(asked, got)
    return {each.id: each for each in got}


def writes(behaviour: Behaviour, write: Write, share: float = 1.0) -> Callable[[Body, int], str | None]:
    """To questions that are planted, or a share of them: what `write` makes of their answer."""
    numbers = count(1000)

    def script(body: Body, attempt: int) -> str | None:
        asked = body["messages"][-1]["content"]
        if "u=" not in asked or hashlib.sha256(asked.encode()).digest()[0] >= 256 * share:
            return None
        completion = answer(behaviour, body) | {"id": f"other-{next(numbers)}"}
        write(completion)
        return f"says {json.dumps(completion)}"

    return script


def null(completion: Body) -> None:
    completion["choices"][0] |= {"message": {"role": "assistant", "content": None}, "finish_reason": "stop"}


def numbered_by_the_hour(completion: Body) -> None:
    completion["id"] = f"chatcmpl-{int(time.time()) // 3600}"


def unlisted(completion: Body) -> None:
    completion["choices"][0].pop("logprobs", None)


LISTS = Behaviour(lists=True)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (unlisted, r"answers cannot be taken \(no log-probabilities\), and may be billed; .*set `mode` to sampled"),
        (null, r"answers cannot be taken \(empty answer\), and may be billed; check `extra`"),
        (
            numbered_by_the_hour,
            r"answers cannot be taken \(duplicate\), and may be billed; each has the id of an earlier",
        ),
    ],
)
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_answers_that_turn_useless_end_a_study_before_much_is_billed(write: Write, words: str, share: float) -> None:
    with FaultServer(LISTS, writes(LISTS, write, share)) as server:
        engine = opened(server)
        asked = len(server.arrivals)
        with pytest.raises(BadConfig, match=words) as caught:
            answers(engine, questions())
        assert len(server.arrivals) - asked < 10 / share + 60
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(("write", "cause"), [(unlisted, "no log-probabilities"), (null, "empty answer")])
def test_a_question_whose_answer_is_always_useless_is_paid_four_times_and_holds_up_nothing(
    write: Write, cause: str
) -> None:
    with FaultServer(LISTS, writes(LISTS, write, 0.03)) as server:
        engine = opened(server)
        began = time.monotonic()
        got = answers(engine, questions())
    assert time.monotonic() - began < PATIENCE / 2
    failed = [a for a in got.values() if a.finish.startswith("failed")]
    assert len(got) == len(questions())
    assert 0 < len(failed) < 8
    assert {a.finish for a in failed} == {f"failed: 200: {cause}, 4 times in a row"}
    assert {(a.losses, a.requests) for a in failed} == {((cause,) * 4, 4)}
    assert all(a.prompt_tokens for a in failed)


def mute(completion: Body) -> None:
    completion["choices"][0]["message"]["content"] = "<think>Both have something"


def test_sampled_answers_that_hardly_ever_say_a_label_end_a_step_soon() -> None:
    texts = {f"t{k}": f"Do {k} u={k / 10 - 1:+.2f}" for k in range(20)}
    pairs = [("", a, b) for a, b in combinations(texts, 2)]

    def asked(share: float, **given: Any) -> int:
        with FaultServer(script=writes(Behaviour(), mute, share)) as server:
            engine = opened(server)
            log = ChoiceLog(engine, texts, min_label_mass=0.1, **given)
            before = len(server.arrivals)
            try:
                log.measure(log.questions(pairs, 1), 0)
            finally:
                n.append(len(server.arrivals) - before)
        return n[-1]

    n: list[int] = []
    for share in (1.0, 0.95):
        with pytest.raises(
            BadConfig, match=r"is 0.* after 1\d\d choices, .* = 0\.1 or more; look at what it says .*judge"
        ):
            asked(share)
        assert n[-1] < 200
    assert asked(0.7) == 2 * len(pairs)
    refuses = Behaviour(refusals=1.0)
    with FaultServer(refuses) as server:
        log = ChoiceLog(opened(server), texts, min_label_mass=0.1)
        assert log.measure(log.questions(pairs, 1), 0).num_rows == 2 * len(pairs)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("<html>Sign in</html>", "garbage"),
        ("[1]", "garbage"),
        ('{"object": "chat.completion"}', "no answer"),
        ('{"choices": [{"text": "Task A: Here"}]}', "no answer"),
    ],
)
def test_what_is_no_completion_at_the_interview_is_not_mended_by_time(said: str, cause: str) -> None:
    with FaultServer(script=lambda *_: f"sends {said}") as server:
        with pytest.raises(BadConfig, match=rf"gives nothing that can be read \(200: {cause}, 4 times.*check base_url"):
            opened(server)
        assert len(server.arrivals) < 40
