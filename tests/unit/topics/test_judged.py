"""A judge over an endpoint that fails by a script and confuses topics as planted."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prefprobe.choices.answers import AnswerLog
from prefprobe.errors import BadConfig
from prefprobe.settings.endpoint import EndpointSettings, Prices, TransportSettings
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore
from prefprobe.topics.agreement import agreement_of
from prefprobe.topics.api import ApiJudge
from prefprobe.topics.judged import SCHEMA, Judged, judge_tasks
from prefprobe.topics.taxonomy import TAXONOMIES, Taxonomy
from tests.fault_server import Behaviour, FaultServer, topic

STUDY = Taxonomy.parse((TAXONOMIES / "study.yaml").read_bytes(), "study")
KINDS = [name for name in STUDY.names if name != "other"]


UNNAMED = {"rejects": ("response_format",), "says": "Bad request."}
"""A field is turned down and not named."""


def tasks(n: int) -> dict[str, str]:
    """Planted tasks; one is longer than anybody's first 500 characters, and says its topic at its end."""
    filling = {0: "Once upon a time. " * 100, 1: 'A "quoted" {brace} \u2028 line. '}
    return {f"t{i:05d}": f"Task {i}. {filling.get(i, '')}kind={KINDS[i % len(KINDS)]}" for i in range(n)}


def judge(server: FaultServer, **changes: Any) -> ApiJudge:
    transport = TransportSettings(concurrency=16, attempt_timeout=changes.pop("timeout", 30.0), total_timeout=60.0)
    settings = {"base_url": server.url, "model": "planted", "key": "", "transport": transport, **changes}
    return ApiJudge(EndpointSettings(**settings), STUDY)


def rows(judged: Judged) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in judged.labels.to_pylist()}


def expected(behaviour: Behaviour, asked: list[dict[str, Any]]) -> dict[str, str]:
    """What the server is planted to say first, by the text's number."""
    said = {}
    for body in asked:
        content = body["messages"][-1]["content"]
        if "kind=" in content and "JSON object" in content:
            task = content.rpartition("Task ")[2].partition(".")[0]
            said[f"t{int(task):05d}"] = topic(behaviour, body, content.rpartition("kind=")[2].rstrip('"'))
    return said


@pytest.mark.parametrize("how", [{}, {"forms": False}, {"rejects": ("response_format",)}, UNNAMED, {"thinks": "tags"}])
def test_every_label_is_what_was_planted(how: dict[str, Any]) -> None:
    behaviour = Behaviour(confuses=0.2, **how)
    with FaultServer(behaviour) as server:
        found = judge_tasks(asked := judge(server), tasks(60))
        planted = expected(behaviour, [body for _, body in server.arrivals])
    assert {id_: row["primary"] for id_, row in rows(found).items()} == planted
    assert found.labels.schema == SCHEMA
    assert found.labels.column("id").to_pylist() == sorted(planted)
    right = sum(planted[id_] == KINDS[i % len(KINDS)] for i, id_ in enumerate(sorted(planted)))
    assert 36 <= right < 60  # 0.2 are confused
    assert asked.dialect.form is ("rejects" not in how)
    bodies = [body for _, body in server.arrivals if "kind=" in body["messages"][-1]["content"]]
    assert all(("response_format" in body) is asked.dialect.form for body in bodies)
    assert Counter(row["how"] for row in rows(found).values()) == {"text" if how == {"forms": False} else "object": 60}


def test_refusals_and_labels_of_its_own_are_recorded_row_by_row() -> None:
    behaviour = Behaviour(refusals=0.25, invents=0.1)
    with FaultServer(behaviour) as server:
        found = judge_tasks(judge(server), tasks(80))
        planted = expected(behaviour, [body for _, body in server.arrivals])
    seen = Counter[str]()
    for id_, row in rows(found).items():
        unread = planted[id_] == "" or planted[id_].endswith("_of_my_own")
        assert row["refusal"] is (planted[id_] == "")
        assert (row["fallback"] == "") is not unread
        assert (row["primary"] is None) is (row["fallback"] == "other")
        assert (row["how"] == "") is (row["primary"] is None)
        seen[row["fallback"]] += 1
    assert seen["plain"] > 5
    assert seen["other"] > 1
    summary = found.summary(AnswerLog(), judge_spend())
    assert summary["fallbacks"] == {name: seen[name] for name in ("other", "plain")}
    assert summary["refusals"] == sum(said == "" for said in planted.values())
    assert sum(summary["own"].values()) <= seen["other"]
    assert all(label.endswith("_of_my_own") for label in summary["own"])


def judge_spend() -> Any:
    from prefprobe.choices.engine import Spend

    return Spend()


def test_a_task_is_asked_about_once_whatever_fails_and_tasks_of_one_text_together(tmp_path: Path) -> None:
    texts = tasks(50) | {"twin": tasks(50)["t00007"]}
    store = StepStore(ObjectStore.open(str(tmp_path)), "answers", "0" * 64, {})
    with FaultServer() as calm:
        once = judge_tasks(judge(calm), texts)
    with FaultServer(Behaviour(fault_rate=0.3, trickle=0.1)) as server:
        asked = judge(server, timeout=2.0)
        found = judge_tasks(asked, texts, log=AnswerLog(store, "me"))
        assert found.labels.equals(once.labels)
        before = server.answers.total()
        again = judge_tasks(asked, texts, log=AnswerLog(store, "me"))
        assert again.labels.equals(found.labels)
        assert server.answers.total() == before
    assert rows(found)["twin"]["primary"] == rows(found)["t00007"]["primary"]
    assert len(found.answers) == 50


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (Behaviour(invents=1.0), "but labels of its own such as '"),
        (Behaviour(refusals=1.0), "answers decline"),
        (Behaviour(blocked=1.0), "questions got no answer"),
    ],
)
def test_a_judge_that_names_no_label_is_stopped_early(behaviour: Behaviour, said: str) -> None:
    with FaultServer(behaviour) as server:
        with pytest.raises(BadConfig, match="names no label of the taxonomy for 200 of 200 tasks") as stopped:
            judge_tasks(judge(server), tasks(400), max_unread=0.05)
        assert sum("kind=" in body["messages"][-1]["content"] for _, body in server.arrivals) == 400  # each twice
    assert said in str(stopped.value)
    assert "topics.max_unread (0.05)" in str(stopped.value)


def test_a_few_unread_answers_are_let_pass_and_a_few_more_are_not() -> None:
    with FaultServer(Behaviour(invents=0.3)) as server:
        found = judge_tasks(judge(server), tasks(60))
        share = found.labels.column("fallback").to_pylist().count("other") / 60
        assert 0 < share < 0.3
        judge_tasks(judge(server), tasks(60), max_unread=share)
        with pytest.raises(BadConfig, match="names no label"):
            judge_tasks(judge(server), tasks(60), max_unread=share - 0.01)


def test_a_budget_stops_it_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    store = StepStore(ObjectStore.open(str(tmp_path)), "answers", "0" * 64, {})
    prices = Prices(prompt=1.0, completion=1.0)
    with FaultServer() as server:
        with pytest.raises(BadConfig, match=r"the budget covers \d+ of 60 tasks, whose answers are saved"):
            judge_tasks(judge(server, prices=prices, budget_tokens=12_000), tasks(60), log=AnswerLog(store, "me"))
        kept = len(AnswerLog(store, "me").known(q.id for q in map(judge(server).question, tasks(60).values())))
        assert 0 < kept < 60
        judge_tasks(judge(server, prices=prices, budget_tokens=10**7), tasks(60), log=AnswerLog(store, "me"))
        bodies = Counter(str(body) for _, body in server.arrivals if "kind=" in body["messages"][-1]["content"])
        assert (len(bodies), max(bodies.values())) == (60, 1)


def test_two_judges_agree_as_often_as_planted() -> None:
    texts = tasks(600)
    truth: dict[str, str | None] = {id_: KINDS[i % len(KINDS)] for i, id_ in enumerate(texts)}
    with FaultServer(Behaviour(confuses=0.25)) as server:
        found = judge_tasks(judge(server), texts)
    labels = {id_: row["primary"] for id_, row in rows(found).items()}
    about = agreement_of(labels, truth)
    wrong = sum(labels[id_] != truth[id_] for id_ in texts)
    assert about["kappa"]["agreed"] == pytest.approx(1 - wrong / 600)
    # twelve kinds as often each, of which a share of 0.25 is said to be the next one: p_e is about 1/12
    assert about["kappa"]["low"] < 1 - 0.25 / (1 - 1 / 12) < about["kappa"]["high"]
    off = {(row["first"], row["second"]) for row in about["confusion"] if row["first"] != row["second"]}
    names = STUDY.names
    assert off <= {(names[names.index(kind) + 1], kind) for kind in KINDS}
