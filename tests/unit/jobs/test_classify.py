"""A study whose topics are judged, from the classify step to the report; every step is real but for the forward passes."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from prefprobe.config import load_config
from prefprobe.errors import BadConfig
from prefprobe.progress import Progress
from prefprobe.store.formats import read_json, read_parquet
from prefprobe.study.graph import graph
from prefprobe.study.run import Run, run_nodes
from tests.fault_server import Behaviour, FaultServer
from tests.planted_study import TOPICS, execute, planted_study, prefers
from tests.unit.jobs.test_topics_first import again, weights


def planted(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose topic a judge can read, and which has an origin that has topics of its own."""
    origin = "a" if row["topic"] in TOPICS[:2] else "b"
    return row | {"text": f"{row['text']} kind={row['topic']}", "origin": origin}


def study(folder: Path, monkeypatch: pytest.MonkeyPatch, url: str, *overrides: str) -> Run:
    api = json.dumps({"by": "api", "api": {"base_url": url, "model": "one", "key": ""}})
    folder.mkdir(exist_ok=True)
    planted_study(folder, monkeypatch, prefers, blocks={"model": weights(folder / "model")})
    return again(folder, planted, (f"topics.judge={api}", "topics.taxonomy=demo", *overrides))


def second(url: str, **more: Any) -> str:
    return f"topics.second={json.dumps({'by': 'api', 'api': {'base_url': url, 'model': 'two', 'key': '', **more}})}"


@pytest.mark.slow
def test_a_study_with_two_judges_reaches_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(Behaviour(confuses=0.15)) as server:
        run = study(tmp_path, monkeypatch, server.url, second(server.url), "topics.sample=40", "topics.min_tasks=3")
        found = execute(run)
    labels = read_parquet(found["classify.first"]["labels.parquet"]).to_pylist()
    tasks = read_parquet(found["tasks"]["tasks.parquet"])
    assert [row["id"] for row in labels] == sorted(tasks.column("id").to_pylist())
    about = read_json(found["topics"]["topics.json"])
    assert (about["taxonomy"], about["judge"]) == ("demo, version 1", f"one at {server.url}")
    topics = read_parquet(found["topics"]["topics.parquet"]).to_pylist()
    said = {row["id"]: row["primary"] for row in labels}
    assert all(row["topic"] in (said[row["id"]], "other") for row in topics)
    assert {row["origin"] for row in topics} == {"a", "b"}
    agreement = read_json(found["topics"]["judging.json"])["agreement"]
    kappa = agreement["kappa"]
    assert (agreement["asked"], kappa["n"]) == (40, 40)
    assert kappa["low"] < kappa["value"] < kappa["high"] < 1
    page = found["report"]["index.html"].decode()
    assert "Cohen’s κ" in page
    assert "Cramér’s V" in page
    rows = list(csv.DictReader(io.StringIO(found["report"]["confusion.csv"].decode())))
    assert sum(int(row["tasks"]) for row in rows) == 40
    rows = list(csv.DictReader(io.StringIO(found["report"]["origins.csv"].decode())))
    assert sum(int(row["tasks"]) for row in rows) == len(topics)
    assert {row["alone"] for row in rows} == {"true", "false"}


def test_the_sample_of_a_second_judge_stays_when_tasks_are_added() -> None:
    from prefprobe.jobs.classify import _rank

    few, many = ([f"t{i}" for i in range(n)] for n in (500, 600))
    first = set(sorted(few, key=lambda id_: _rank(id_, 3))[:50])
    later = set(sorted(many, key=lambda id_: _rank(id_, 3))[:50])
    assert 25 < len(first & later) < 50
    assert later - first <= set(many) - set(few)


def stopped(run: Run) -> str:
    nodes = [node for name, node in run.nodes.items() if name.startswith(("tasks", "classify", "topics"))]
    with pytest.raises(BadConfig) as refused:
        run_nodes(run, nodes, Progress.silent())
    assert run.manifest(run.nodes["topics"]) is None
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_a_judge_cannot_do_stops_a_study_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(Behaviour(invents=1.0)) as server:
        said = stopped(study(tmp_path / "own", monkeypatch, server.url))
        assert (
            f"one at {server.url} names no label of the taxonomy for 60 of 60 tasks, but labels of its own such as"
            in said
        )
        assert "topics.max_unread" in said
    with FaultServer() as server:
        said = stopped(study(tmp_path / "two", monkeypatch, server.url, "topics.min_tasks=30"))
        assert said.startswith("topics: ")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["topics.judge.by=api"], "`topics.judge`: `by: api` needs `api`; give it"),
        (["topics.judge.by=encoder"], "`topics.judge`: `by: encoder` needs `encoder`; give it"),
        (["topics.judge.encoder=x"], "`encoder` is for `by: encoder`, and this judge is `by: given`"),
        (["topics.judge.by=local", "topics.judge.examples=demo"], "`examples` is for `by: encoder`"),
        (["topics.second.by=local"], "`second` checks a judge, and topics are given"),
        (["topics.judge.by=local", "topics.second.by=local"], "`second` is the same judge as `judge`"),
        (["topics.judge.by=oracle"], "`topics.judge.by`: input should be"),
        (["topics.judge.by=local", "topics.sample=3"], "`topics.sample`: input should be greater than or equal to 30"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(BadConfig, match=r"presets/demo\.yaml: ") as refused:
        load_config(Path("presets/demo.yaml"), overrides)
    assert said in str(refused.value)


def test_a_taxonomy_that_is_none_stops_a_run_from_being_begun(tmp_path: Path) -> None:
    wrong = tmp_path / "own.yaml"
    wrong.write_text("name: a\nversion: 1\nlabels: [{name: x, description: X}]\n")
    for named, said in (
        (str(wrong), "`labels.0.boundary` of the label x is missing"),
        ("sudy", "there is no taxonomy sudy"),
    ):
        config = load_config(Path("presets/demo.yaml"), ["topics.judge.by=local", f"topics.taxonomy={named}"])
        with pytest.raises(BadConfig, match=r"topics\.taxonomy|own\.yaml") as refused:
            Run.create(str(tmp_path / "store"), config)
        assert said in str(refused.value)
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").rglob("*.json"))


def test_keys_depend_on_what_labels_do_and_on_nothing_else() -> None:
    pins = dict.fromkeys(("model", "encoder.minilm", "tasks.0", "taxonomy", "topics.second.encoder"), "p")
    pins |= {f"experiment.{name}": "p" for name in ("category", "targeted", "competing", "persona")}

    def params(*overrides: str, node: str = "classify.first") -> Any:
        judge = ["topics.judge.by=api", "topics.judge.api.base_url=http://h/v1", "topics.judge.api.model=m"]
        return graph(load_config(Path("presets/demo.yaml"), [*judge, *overrides]), pins, "r")[node].params

    plain = params()
    way = ("api.budget_usd=1", "api.key=OTHER", "api.transport.concurrency=2", "api.headers={X-Key: {env: K}}")
    for same in [f"topics.judge.{each}" for each in way] + ["topics.max_unread=0.5", "topics.min_tasks=3"]:
        assert params(same) == plain, same
    for other in ("api.model=n", "api.extra={top_p: 1}", "api.headers={X-Route: a}"):
        assert params(f"topics.judge.{other}") != plain, other
    encoder = ("topics.second.by=encoder", "topics.second.encoder=x")
    assert params(*encoder, node="classify.second") != params(*encoder, "topics.sample=99", node="classify.second")
    assert params(*encoder) == plain
    given = graph(load_config(Path("presets/demo.yaml")), pins, "r")
    assert given["topics"].params.keys() == {"sources", "min_tasks", "holdout", "comparisons"}
    assert not any(name.startswith("classify") for name in given)
