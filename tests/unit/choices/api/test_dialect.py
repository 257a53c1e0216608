"""What is found out about an endpoint: one rule of its at a time, and all together."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prefprobe.choices.api.client import Reply
from prefprobe.choices.api.dialect import Dialect
from prefprobe.choices.api.interview import MOST_TOKENS, Interview
from prefprobe.choices.api.replies import logprobs
from prefprobe.choices.engine import Spend
from prefprobe.choices.reading import Labels
from prefprobe.choices.stimulus import Stimulus
from prefprobe.errors import BadConfig, InputMissing
from prefprobe.jobs._endpoint import _read_dialect
from prefprobe.settings.api import ApiSettings
from prefprobe.store.formats import json_bytes
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore
from prefprobe.study.job import Job

STIMULUS = Stimulus()
SAMPLES = [STIMULUS.message(a, b) for a, b in (("sing", "run"), ("read", "swim"), ("cook", "draw"))]


@dataclass
class Accent:
    """An endpoint in a few lines: what it turns down, and with which words."""

    rejects: dict[str, str] = field(default_factory=dict)
    """Field (or `system`) → the sentence of its 400."""
    logprobs: bool = True
    most_top: int = 20
    p_label: float = 0.96
    thought: int = 0
    """Tokens that the model thinks for."""
    shows_thought: str = "reasoning_content"
    smallest_limit: int = 1
    not_zero: str = ""
    """What it says to a temperature of 0."""
    same_id: bool = False
    cost: float | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, bodies: Sequence[dict[str, Any]]) -> list[Reply]:
        return [self.reply(body) for body in bodies]

    def reply(self, body: dict[str, Any]) -> Reply:
        self.bodies.append(body)
        fields = {**body, **{turn["role"]: True for turn in body["messages"]}}
        for name, sentence in self.rejects.items():
            if name in fields:
                return Reply("q", None, f"400: {sentence}", ())
        if body.get("top_logprobs", 0) > self.most_top:
            return Reply("q", None, f"400: top_logprobs must be at most {self.most_top}", ())
        if self.not_zero and body.get("temperature") == 0:
            return Reply("q", None, f"400: {self.not_zero}", ())
        if self.logprobs and body.get("logprobs", True) is not True:
            return Reply("q", None, "400: logprobs must be true or false", ())
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or math.inf
        if limit < self.smallest_limit:
            return Reply("q", None, "400: Could not finish: max_tokens or model output limit was reached", ())
        message: dict[str, Any] = {"role": "assistant", "content": "Task A: la la"}
        finish = "stop"
        if self.thought:
            if self.shows_thought == "<think>":
                message["content"] = "<think>hm</think>Task A: la la"
            elif self.shows_thought:
                message[self.shows_thought] = "hm"
            if limit <= self.thought:
                message["content"], finish = "<think>hm" if self.shows_thought == "<think>" else None, "length"
        choice: dict[str, Any] = {"message": message, "finish_reason": finish}
        if self.logprobs and body.get("logprobs"):
            choice["logprobs"] = {"content": self.listed()}
        usage = {"prompt_tokens": 9, "completion_tokens": 3} | ({} if self.cost is None else {"cost": self.cost})
        id_ = "same" if self.same_id else f"id-{len(self.bodies)}"
        return Reply("q", {"id": id_, "model": "served", "provider": "P", "choices": [choice], "usage": usage}, "", ())

    def listed(self) -> list[dict[str, Any]]:
        top = [{"token": t, "logprob": math.log(p)} for t, p in ((" A", 0.7), (" B", 0.3))]
        first = {"token": "Task", "logprob": math.log(self.p_label)}
        return [{**first, "top_logprobs": [first]}, {**top[0], "top_logprobs": top}]


def interview(accent: Accent, temperature: float = 1.0, **settings: Any) -> Dialect:
    api = ApiSettings(base_url="http://127.0.0.1:1/v1", model="asked/seed-model", **settings)
    return Interview(accent.ask, api, temperature, SAMPLES[0], SAMPLES, Labels.of(STIMULUS)).dialect()


A = {"token": " A", "logprob": -0.1}


@pytest.mark.parametrize(
    "content",
    [
        None,
        "Task A",
        ["Task"],
        [A],
        [{**A, "top_logprobs": "A"}],
        [{**A, "top_logprobs": ["A"]}],
        [{**A, "top_logprobs": [{"token": "A"}]}],
        [{**A, "top_logprobs": [{**A, "logprob": math.nan}]}],
        [{"token": None, "logprob": 0.0, "top_logprobs": [A]}],
        [{**A, "top_logprobs": [A]}, None],
    ],
)
def test_log_probabilities_that_cannot_be_read_are_none(content: Any) -> None:
    body = {"choices": [{"message": {"content": "Task A"}, "logprobs": {"content": content}}]}
    assert logprobs(body) == []
    assert logprobs({"choices": [{**body["choices"][0], "logprobs": {"content": [{**A, "top_logprobs": [A]}]}}]}) != []


def test_a_dialect_that_a_step_began_with_opens_again() -> None:
    """The fields of the parts `dialect.json` and `judge.json` in every store written so far."""
    kept = {
        "model": "planted",
        "provider": "",
        "system": True,
        "seed": True,
        "temperature": True,
        "limit": "max_completion_tokens",
        "max_tokens": 16,
        "top_logprobs": 5,
        "distinct_ids": True,
        "reports_cost": False,
        "reasons": False,
        "label_mass": 0.98,
        "why": "exact: answers begin with a label with a probability of 0.98",
        "prompt_tokens": 640,
        "completion_tokens": 96,
        "cost": 0.25,
    }
    dialect = Dialect(**kept)  # type: ignore[arg-type]
    new: dict[str, Any] = {"refused": {}, "prefill": "", "prefill_by": "", "usage": True, "requests": 0}
    assert asdict(dialect) == kept | new | {"counted": False, "stream_options": False, "form": True}
    assert dialect.spend == Spend(0, 640, 96, 0.25)


def test_a_plain_endpoint_is_asked_few_questions() -> None:
    accent = Accent()
    dialect = interview(accent)
    assert len(accent.bodies) == 2 + len(SAMPLES)
    assert dialect == Dialect(
        model="served",
        provider="P",
        top_logprobs=20,
        distinct_ids=True,
        label_mass=dialect.label_mass,
        why="exact: answers begin with a label with a probability of 0.96",
    )
    assert dialect.label_mass == pytest.approx(0.96)
    assert accent.bodies[-1] == {
        "model": "asked/seed-model",
        "messages": [{"role": "user", "content": SAMPLES[-1]}],
        "max_tokens": 16,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": 20,
    }
    assert Dialect(**asdict(dialect)) == dialect


UNNAMED = "The request is not valid."
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "seed": ("seed is not supported by asked/seed-model", {"seed": False}),
    "temperature": ("Unsupported value: 'temperature'", {"temperature": False}),
    "system": ("System role not supported", {"system": False}),
    "max_tokens": ("'max_tokens' is not supported. Use 'max_completion_tokens'.", {"limit": "max_completion_tokens"}),
}


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("rejected", [c for n in (1, 2, 4) for c in itertools.combinations(NAMED, n)], ids="+".join)
def test_what_is_turned_down_is_left_out_and_nothing_else(rejected: tuple[str, ...], named: bool) -> None:
    accent = Accent({name: NAMED[name][0] if named else UNNAMED for name in rejected})
    expected = {key: value for name in rejected for key, value in NAMED[name][1].items()}
    found = asdict(interview(accent))
    assert {key: found[key] for key in ("seed", "temperature", "system", "limit")} == {
        "seed": True,
        "temperature": True,
        "system": True,
        "limit": "max_tokens",
    } | expected
    assert found["top_logprobs"] == 20
    kept = {"limit" if name == "max_tokens" else name for name in rejected}
    assert {name: said.removeprefix("400: ") for name, said in found["refused"].items()} == {
        name: NAMED["max_tokens" if name == "limit" else name][0] if named else UNNAMED for name in kept
    }


def test_a_model_named_like_a_field_is_not_taken_for_it() -> None:
    accent = Accent({"temperature": "asked/seed-model does not take a temperature"})
    assert interview(accent).seed
    assert len(accent.bodies) == 3 + len(SAMPLES)


def test_a_length_that_cannot_be_limited() -> None:
    words = "unknown field max_tokens", "unknown field max_completion_tokens"
    dialect = interview(Accent(dict(zip(("max_tokens", "max_completion_tokens"), words, strict=True))))
    assert dialect.limit == ""
    body = dialect.body(ApiSettings(base_url="http://h/v1", model="m"), "hello", None, 1.0, None)
    assert not {"max_tokens", "max_completion_tokens", ""} & set(body)


def test_an_endpoint_that_turns_everything_down() -> None:
    with pytest.raises(
        BadConfig, match=r"asked/seed-model at http://127\.0\.0\.1:1/v1 turned down .*400: no such router"
    ):
        interview(Accent({"model": "no such router"}))


@pytest.mark.parametrize(
    ("accent", "why"),
    [
        (Accent(logprobs=False), "sampled: the endpoint returned no log-probabilities"),
        (
            Accent({"logprobs": "logprobs are not allowed"}),
            "sampled: the endpoint turned log-probabilities down (400: logprobs are not allowed)",
        ),
        (Accent(p_label=0.5), "sampled: answers begin with a label with a probability of 0.50, less than 0.9"),
        (Accent(thought=5), "sampled: the model thinks before it answers"),
    ],
)
def test_why_answers_are_sampled(accent: Accent, why: str) -> None:
    dialect = interview(accent)
    assert (dialect.exact, dialect.why) == (False, why)
    with pytest.raises(BadConfig, match="mode is exact, but "):
        interview(accent if accent.p_label > 0.9 else Accent(p_label=1e-9, logprobs=False), mode="exact")


def test_answers_that_end_before_the_label_are_sampled() -> None:
    class Short(Accent):
        def listed(self) -> list[dict[str, Any]]:
            return super().listed()[:1]

    dialect = interview(Short())
    assert dialect.label_mass == pytest.approx(0.96)
    assert dialect.why == "sampled: no sample answer comes as far as a label"


def test_exact_where_few_answers_begin_with_a_label_if_it_is_asked_for() -> None:
    dialect = interview(Accent(p_label=0.5), mode="exact")
    assert dialect.exact
    assert dialect.why == "exact: answers begin with a label with a probability of 0.50"


def test_an_endpoint_that_takes_a_temperature_but_not_zero() -> None:
    rule = "Unsupported value: 'temperature' must be positive"
    exact = interview(Accent(not_zero=rule), temperature=0.7)
    assert (exact.exact, exact.temperature, exact.top_logprobs) == (True, False, 20)
    sampled = interview(Accent(not_zero=rule, p_label=0.5), temperature=0.7)
    assert (sampled.exact, sampled.temperature) == (False, True)


def test_sampled_if_it_is_asked_for() -> None:
    accent = Accent()
    dialect = interview(accent, temperature=0.7, mode="sampled")
    assert dialect.why == "sampled: as the settings say"
    assert not any("logprobs" in body for body in accent.bodies)
    assert {body["temperature"] for body in accent.bodies} == {0.7}


def test_fewer_log_probabilities_where_twenty_are_too_many() -> None:
    for most, asked in ((20, 20), (19, 5), (5, 5), (4, 2), (2, 2)):
        dialect = interview(Accent(most_top=most))
        refused = {} if asked == 20 else {"top_logprobs": f"400: top_logprobs must be at most {most}"}
        assert (dialect.top_logprobs, dialect.refused) == (asked, refused)
    assert interview(Accent(most_top=5, p_label=0.5)).refused == {}  # sampled, it is asked for none
    assert interview(Accent(most_top=1)).why.startswith(
        "sampled: the endpoint turned log-probabilities down (400: top_"
    )


def test_a_temperature_of_zero_that_is_turned_down_in_no_words() -> None:
    dialect = interview(Accent(not_zero=UNNAMED))
    assert (dialect.exact, dialect.temperature, dialect.top_logprobs) == (True, False, 20)
    assert dialect.refused == {"temperature": f"400: {UNNAMED}"}


def test_no_seed_is_sent_where_none_is_wanted() -> None:
    accent = Accent({"seed": "no"})
    assert interview(accent, seed=None, mode="sampled").refused == {}
    assert not any("seed" in body for body in accent.bodies)
    with pytest.raises(BadConfig, match="turned down the plainest question"):
        interview(Accent({"model": "no such router"}), seed=None)


@pytest.mark.parametrize("shown", ["reasoning_content", "reasoning", "<think>", ""])
@pytest.mark.parametrize(("thought", "limit"), [(10, 16), (50, 64), (5000, MOST_TOKENS)])
def test_a_model_that_thinks_gets_the_room_it_needs(shown: str, thought: int, limit: int) -> None:
    dialect = interview(Accent(thought=thought, shows_thought=shown))
    assert dialect.max_tokens == limit
    assert not dialect.exact or not shown  # a thought that shows nowhere and is short is none
    if shown:
        assert dialect.reasons


def test_a_model_that_thinks_too_long() -> None:
    with pytest.raises(BadConfig, match=f"gave no answer within {MOST_TOKENS} tokens .*raise max_tokens"):
        interview(Accent(thought=10**6))
    with pytest.raises(BadConfig, match="gave no answer within 32 tokens"):
        interview(Accent(thought=100), max_tokens=32)
    assert interview(Accent(thought=10), max_tokens=32).max_tokens == 32


def test_a_limit_that_is_too_short_for_the_provider_is_raised() -> None:
    assert interview(Accent(smallest_limit=50, thought=40)).max_tokens == 64


def test_ids_and_cost() -> None:
    assert not interview(Accent(same_id=True)).distinct_ids
    assert interview(Accent(cost=0.01)).reports_cost
    assert not interview(Accent()).reports_cost


def test_a_system_prompt_is_folded_into_the_users_turn() -> None:
    settings = ApiSettings(base_url="http://h/v1", model="m", extra={"top_p": 0.9})
    plain = Dialect().body(settings, "Choose.", "You hate math.", 0.5, 7)
    folded = Dialect(system=False, seed=False).body(settings, "Choose.", "You hate math.", 0.5, 7)
    assert [turn["role"] for turn in plain["messages"]] == ["system", "user"]
    assert folded["messages"] == [{"role": "user", "content": "You hate math.\n\nChoose."}]
    assert (plain["seed"], plain["temperature"], plain["top_p"]) == (7, 0.5, 0.9)
    assert "seed" not in folded


def test_a_dialect_of_a_later_version_is_no_bug(tmp_path: Path) -> None:
    store = StepStore(ObjectStore.open(str(tmp_path)), "measure", "k" * 64, {})
    store.write_part("dialect.json", json_bytes(asdict(Dialect(seed=False)) | {"process": "p"}))
    store.write_part("judge.json", json_bytes(asdict(Dialect()) | {"process": "p", "spoken_in": "verse"}))
    job = cast(Job, SimpleNamespace(store=store))
    assert _read_dialect(job, "dialect.json") == (Dialect(seed=False), "p")
    with pytest.raises(
        InputMissing, match=r"judge\.json of step measure says spoken_in of the endpoint, which this version"
    ):
        _read_dialect(job, "judge.json")
