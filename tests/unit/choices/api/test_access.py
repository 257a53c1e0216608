"""What goes over the wire beside a question: the key, headers, a query; what of it is kept, and what never is."""

import html
import json
import logging
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from prefprobe.choices.api.access import Access
from prefprobe.choices.api.dialect import Dialect
from prefprobe.choices.api.endpoint import Budget
from prefprobe.choices.api.engine import ApiEngine
from prefprobe.choices.api.judge import Judge
from prefprobe.choices.engine import Spend
from prefprobe.choices.stimulus import Stimulus
from prefprobe.config import load_config, parse_config
from prefprobe.errors import BadConfig, PrefprobeError
from prefprobe.settings import ChoiceSettings
from prefprobe.settings.api import ApiSettings, JudgeSettings
from prefprobe.settings.endpoint import TransportSettings
from prefprobe.store.keys import canonical_json, sha256
from tests.fault_server import Behaviour, FaultServer
from tests.questions import Saved, question

SECRETS = {"MY_KEY": "sk-a-secret/key+1", "ORG_ID": 'org "quoted" &<x>', "SIG": "sig=with&signs/u"}
AZURE = {"key": "MY_KEY", "key_header": "api-key", "query": {"api-version": "2024-10-21"}}


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def settings_for(url: str, **given: Any) -> ApiSettings:
    return ApiSettings(base_url=url, model="planted", transport=TransportSettings(total_timeout=5.0), **given)


def one_answer(settings: ApiSettings) -> ApiEngine:
    engine = ApiEngine(settings)
    engine.answer([question("q", "Do a u=1", "Do b u=0")], Saved())
    return engine


def test_an_endpoint_like_azures_is_asked_as_it_wants_to_be() -> None:
    behaviour = Behaviour(key=SECRETS["MY_KEY"], key_header="api-key", query="api-version=2024-10-21")
    with FaultServer(behaviour) as server:
        one_answer(settings_for(server.url, **AZURE))
        assert set(server.queries) == {"api-version=2024-10-21"}
        assert {headers.get("authorization") for headers in server.headers} == {None}
        others: list[dict[str, Any]] = [{"query": {}}, {"key_header": "Authorization"}]
        for missing in others:
            with pytest.raises(BadConfig, match=r"no such model or address|refuses the key"):
                ApiEngine(settings_for(server.url, **AZURE | missing))


def test_headers_and_query_go_with_every_request_as_they_are_given() -> None:
    headers = {"HTTP-Referer": "https://lab.example", "X-Org": {"env": "ORG_ID"}, "Authorization": {"env": "MY_KEY"}}
    with FaultServer() as server:
        one_answer(settings_for(server.url, key="", headers=headers, query={"a b": "1&2", "sig": {"env": "SIG"}}))
        for sent in server.headers:
            got = {name: sent[name.lower()] for name in headers}
            assert got == {"HTTP-Referer": "https://lab.example", "X-Org": SECRETS["ORG_ID"]} | {
                "Authorization": SECRETS["MY_KEY"]
            }
            assert sent["content-type"] == "application/json"
        assert set(server.queries) == {"a b=1%262&sig=sig%3Dwith%26signs/u"}


def test_a_judge_elsewhere_gets_nothing_that_is_meant_for_the_model() -> None:
    given = {**AZURE, "headers": {"X-Org": {"env": "ORG_ID"}}, "stream": True, "served": ["planted"]}
    with FaultServer() as one, FaultServer() as other:
        for judge, server in (
            (JudgeSettings(model="judge"), one),
            (JudgeSettings(model="judge", base_url=other.url, key=""), other),
            (JudgeSettings(model="judge", base_url=other.url, key="MY_KEY", query={"v": "2"}), other),
        ):
            settings = settings_for(one.url, judge=judge, **given)
            Judge(settings, Stimulus(), 10, Budget(settings, Spend()))
            sent = server.headers[-1]
            assert ("x-org" in sent, "api-key" in sent) == (server is one, server is one)
            assert sent.get("authorization") == (f"Bearer {SECRETS['MY_KEY']}" if judge.key else None)
            assert server.queries[-1] == {one: "api-version=2024-10-21", other: "v=2" if judge.query else ""}[server]
            assert server.arrivals[-1][1].get("stream", False) == (server is one)
            assert settings.for_judge().served == []


@pytest.mark.parametrize("block", ["headers", "query"])
@pytest.mark.parametrize("whose", ["model", "judge"])
@pytest.mark.parametrize("value", [None, "", " \n", "sn\u00f6w"])
def test_a_variable_that_holds_nothing_to_send_ends_a_step_before_any_request(
    block: str, whose: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    if value is not None:
        monkeypatch.setenv("NOT_THERE", value)
    values = {block: {"X-Thing": {"env": "NOT_THERE"}}}
    with FaultServer() as server:
        given: dict[str, Any] = values if whose == "model" else {"judge": JudgeSettings(model="j", **values)}
        with pytest.raises(BadConfig, match=rf"the variable NOT_THERE, which {block}\.X-Thing names, ") as caught:
            ApiEngine(settings_for(server.url, **given))
        assert server.arrivals == []
    assert caught.value.exit_code == 78
    assert not value or not value.strip() or value not in str(caught.value)


def spoken(secret: str) -> Iterator[str]:
    """How a server may say it."""
    yield from (secret, json.dumps(secret)[1:-1], quote(secret, safe=""), quote_plus(secret), html.escape(secret))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 308, 200])
def test_what_stands_in_variables_is_in_nothing_that_is_said_or_kept(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {f"X-{name.replace('_', '-')}": {"env": name} for name in SECRETS}
    query = {name: {"env": name} for name in SECRETS}
    said = " and ".join(form for value in SECRETS.values() for form in spoken(value))[:280]
    shown: list[str] = []
    with FaultServer(Behaviour(rejects=("logprobs",), says=said, rejects_with=status)) as server:
        settings = settings_for(server.url, key="MY_KEY", headers=headers, query=query, mode="exact")
        settings = settings.model_copy(update={"transport": TransportSettings(total_timeout=0.3)})
        with pytest.raises(PrefprobeError) as failure:
            ApiEngine(settings)
        shown += [str(failure.value), "".join(traceback.format_exception(failure.value))]
        assert "…" in shown[0] or status == 308
        assert server.headers[0]["x-my-key"] == SECRETS["MY_KEY"]
    access = Access.of(settings)
    shown += [repr(access), repr(settings), settings.model_dump_json(), caplog.text]
    shown += [str(ApiEngine(settings, dialect=Dialect()).identity), str(Dialect())]
    choices = ChoiceSettings(engine="api", api=settings)
    shown += [str(choices.keyed()), choices.model_dump_json()]
    found = [(value, text) for text in shown for value in SECRETS.values() for form in spoken(value) if form in text]
    assert found == []


def test_texts_are_part_of_keys_and_identity_and_variables_are_not() -> None:
    def kept(**given: Any) -> tuple[str, str, str]:
        judge = JudgeSettings(model="j", **given.pop("judge", {}))
        settings = settings_for("http://127.0.0.1:1/v1", judge=judge, **given)
        keyed = ChoiceSettings(engine="api", api=settings).keyed()
        budget, dialect = Budget(settings, Spend()), Dialect(model="planted")
        engine = ApiEngine(settings, dialect=dialect, budget=budget)
        asked = Judge(settings, Stimulus(), 10, budget, dialect)
        return tuple(sha256(canonical_json(of)) for of in (keyed, dict(engine.identity), dict(asked.identity)))  # type: ignore[return-value]

    plain = kept()
    for given in (
        {"headers": {"X-Org": {"env": "ORG_ID"}}},
        {"query": {"sig": {"env": "SIG"}}},
        {"key_header": "api-key", "key": "MY_KEY"},
        {"stream": True},
        {"judge": {"headers": {}, "stream": True}},
    ):
        assert kept(**given) == plain, given
    for block, texts in (("headers", {"X-Route": "b"}), ("query", {"api-version": "2024-10-21"})):
        assert [one == other for one, other in zip(kept(**{block: texts}), plain, strict=True)] == [False] * 3
        alone = settings_for("http://127.0.0.1:1/v1", **{block: texts})
        assert ChoiceSettings(engine="api", api=alone).keyed()["api"][block] == texts
    assert kept(served=["a"])[:2] != plain[:2]
    assert kept(served=["a"])[2] == plain[2]
    assert kept(served=["b", "a", "b"]) == kept(served=["a", "b"])
    assert [a == b for a, b in zip(kept(judge={"served": ["a"]}), plain, strict=True)] == [False, True, False]
    assert [a == b for a, b in zip(kept(judge={"query": {"v": "1"}}), plain, strict=True)] == [False, True, False]


def test_settings_that_say_nothing_new_stand_in_no_record() -> None:
    """A run's id and the keys of its steps are digests of these: those of presets written so far stay what they are."""
    choices = ChoiceSettings(
        engine="api", api=ApiSettings(base_url="http://h/v1", model="m", judge=JudgeSettings(model="j"))
    )
    compared = {"compare", "min_agreement", "max_difference"}  # a study that compares is another run
    saved = choices.model_dump(mode="json", exclude={"api": compared})
    assert sha256(canonical_json(saved))[:16] == "c55da86be2d8bdca"
    assert sha256(canonical_json(choices.keyed()))[:16] == "d8ec2ee2ebc856e6"


def test_a_record_of_settings_is_read_as_the_settings_it_was_made_from() -> None:
    judge = {
        "model": "j",
        "headers": {},
        "query": {"v": "1"},
        "key_header": "X-K",
        "stream": False,
        "served": ["b", "a"],
    }
    settings = settings_for(
        "http://h/v1", **AZURE, headers={"X-A": {"env": "ORG_ID"}, "X-B": "b"}, stream=True, served=["m*"], judge=judge
    )
    assert ApiSettings(**json.loads(settings.model_dump_json())) == settings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"headers": {"Content-Type": "text/plain"}}, "the client sets Content-Type itself"),
        ({"headers": {"host": "other"}}, "the client sets host itself"),
        ({"headers": {"Content-Length": "1"}}, "the client sets Content-Length itself"),
        ({"headers": {"Authorization": {"env": "A"}}}, "Authorization has the key, so `headers` cannot set it"),
        ({"headers": {"API-Key": {"env": "A"}}, "key_header": "api-key"}, "api-key has the key"),
        ({"judge": {"model": "j", "headers": {"authorization": {"env": "A"}}}}, "Authorization has the key"),
        ({"headers": {"X Y": "1"}}, "'X Y' cannot be the name of a header"),
        ({"key_header": "X:"}, "'X:' cannot be the name of a header"),
        ({"key_header": "host"}, "the client sets host itself"),
        ({"headers": {"X": "a\nb"}}, "the value of X is one that no header can hold"),
        ({"headers": {"X": ""}}, "the value of X is one that no header can hold"),
        ({"headers": {"X": "1", "x": "2"}}, "X stands here twice"),
        ({"headers": {"X-Version": 2}}, r"numbers stand in quotes\), or \{env: NAME\}"),
        ({"headers": {"X": {"env": "sk-a-key"}}}, "expected the name of an environment variable"),
        ({"headers": {"X": {"env": ""}}}, "at least 1 character"),
        ({"headers": {"X-Api-Key": "sk-1"}}, r"the value of X-Api-Key is kept out of presets; name the variable"),
        ({"query": {"subscription-key": "1"}}, "the value of subscription-key is kept out of presets"),
        ({"extra": {"stream_options": {}}}, "the engine sets stream_options itself"),
        ({"base_url": "https://h/v1?api-version=1"}, r"give what stands behind a \? in `query`"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ApiSettings(**{"base_url": "http://h/v1", "model": "m", **given})


def test_values_as_yaml_gives_them(tmp_path: Any) -> None:
    preset = tmp_path / "p.yaml"
    text = """
name: p
model: {source: m}
tasks: {n_train: 10, n_eval: 10}
choices:
  engine: api
  api: {base_url: "https://h/v1", model: m, query: {api-version: 2024-10-21}, headers: {X-Max-Tokens: "5"}}
train: {batch: 2}
eval: {batch: 2}
shift: {comparisons: 2}
"""
    config = load_config(preset, text=text)
    assert config.choices.api is not None
    assert config.choices.api.query == {"api-version": "2024-10-21"}
    assert parse_config(json.loads(config.model_dump_json()), "again") == config
    wrong = "choices.api.headers.X-Org.name=ORG_ID"
    with pytest.raises(BadConfig, match=r"`choices\.api\.headers\.X-Org\.name` is not a setting"):
        load_config(preset, [wrong], text=text)
