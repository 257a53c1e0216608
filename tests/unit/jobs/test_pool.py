"""A pool beside the measured tasks: what the step `tasks` writes of it, who reads it, and what its growth leaves as it was."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from prefprobe.cli import main
from prefprobe.config import load_config
from prefprobe.errors import BadConfig, InputMissing
from prefprobe.jobs import _pool
from prefprobe.jobs.report import _shown
from prefprobe.progress import Progress
from prefprobe.study.job import Job
from prefprobe.study.run import Run
from tests.hub_server import HubServer

ORIGINS = {"wildchat": 60, "bailbench": 12, "mine": 60}


def write_files(folder: Path) -> list[Any]:
    """Three sources, one of them a data set's copy; ids of `mine` are its own."""
    said = [[{"role": "user", "content": f"Tell me of chat {i}, u={i}."}] for i in range(80)]
    chats = {"conversation": said, "language": ["English" if i % 4 else "French" for i in range(80)]}
    chats |= {"redacted": [False] * 80, "toxic": [False] * 80}
    pq.write_table(pa.table(chats), folder / "wildchat.parquet")
    rows = "".join(f"Secret words {i},abuse,x\n" for i in range(12))
    (folder / "bail.csv").write_text(f"content,category,subcategory\n{rows}")
    mine = [{"id": f"m{i:02d}", "text": f"My own thing {i}.", "topic": f"k{i % 2}"} for i in range(60)]
    (folder / "mine.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in mine))
    return [
        {"name": "wildchat", "path": str(folder / "wildchat.parquet")},
        {"name": "bailbench", "path": str(folder / "bail.csv"), "topic": "category"},
        str(folder / "mine.jsonl"),
    ]


def preset(folder: Path, sources: list[Any] | None = None) -> Path:
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "weights.safetensors").write_bytes(b"none")
    (folder / "model" / "config.json").write_text('{"hidden_size": 8, "num_hidden_layers": 10}')
    moved = [{"id": f"s{i}", "text": f"Shifted {i}.", "topic": "k0", "labels": ["k0"]} for i in range(2)]
    experiment = {"experiment": "own", "prompts": [{"id": "p", "text": "P.", "targets": {"k0": 1}}]}
    (folder / "own.yaml").write_text(yaml.safe_dump({**experiment, "task_sets": {"own": moved}}))
    learning = {"initial_degree": 4, "batch": 10, "max_rounds": 2}
    values = {
        "name": "pooled",
        "model": {"source": str(folder / "model")},
        "tasks": {"sources": sources or write_files(folder), "n_train": 20, "n_eval": 10, "quotas": "equal"},
        "train": learning,
        "eval": learning,
        "shift": {"comparisons": 2, "experiments": [str(folder / "own.yaml")]},
    }
    (folder / "pooled.yaml").write_text(yaml.safe_dump(values))
    return folder / "pooled.yaml"


def run(folder: Path, *overrides: str) -> Run:
    """The study with its step `tasks` done."""
    study = Run.create(str(folder / "store"), load_config(folder / "pooled.yaml", overrides))
    study.execute(study.nodes["tasks"], Progress())
    return study


def keys(study: Run) -> dict[str, Any]:
    return {name: study.state(node).key for name, node in study.nodes.items()}


def test_growing_the_pool_leaves_every_other_key_as_it_was(tmp_path: Path) -> None:
    preset(tmp_path)
    none, some, more = (run(tmp_path, f"tasks.n_pool={n}", "activations.shards=2") for n in (0, 20, 40))
    for smaller, larger in ((none, some), (some, more)):
        before, after = keys(smaller), keys(larger)
        kept = {name for name, key in before.items() if key and after[name] == key}
        assert {"topics", "measure.train", "measure.eval", "extract.model.0", "extract.model.1"} <= kept
        assert {name for name in before.keys() - kept if before[name]} <= {
            "tasks",
            "extract.model.pool.0",
            "extract.model.pool.1",
        }
    assert keys(some)["extract.model.pool.0"] != keys(more)["extract.model.pool.0"]
    rows = [{r["id"]: r["set"] for r in s.table("tasks", "pool.parquet").to_pylist()} for s in (none, some, more)]
    assert rows[0].items() < rows[1].items() < rows[2].items()
    for study in (some, more):
        assert study.read("tasks", "tasks.parquet") == none.read("tasks", "tasks.parquet")
        assert study.read("tasks", "tasks.json") == none.read("tasks", "tasks.json")


def job_of(study: Run, node: str) -> Job:
    at = study.nodes[node]
    store = study.step_store(at)
    assert store is not None
    inputs = {name: study.finished(name) for name in at.reads}
    return Job(at, study.config, study.pins, study.id, inputs, store, study.objects, Progress())


def test_features_are_made_of_the_measured_tasks_and_of_the_pool_apart(tmp_path: Path) -> None:
    preset(tmp_path)
    study = run(tmp_path, "tasks.n_pool=25", "encoders={}")
    drawn = study.table("tasks", "pool.parquet").to_pylist()
    for node, sets in (("extract.model.0", {"train", "eval"}), ("extract.model.pool.0", {"pool"})):
        expected = [(row["id"], row["text"]) for row in drawn if row["set"] in sets]
        assert _pool.read_rows(job_of(study, node)) == expected
    assert "extract.untrained.pool.0" not in study.nodes
    assert not any("extract.model.pool.0" in node.reads for name, node in study.nodes.items() if name != "report")


def test_topics_are_those_of_the_column_that_is_named_now(tmp_path: Path) -> None:
    """Also of a draw that was made before; only without a pool it is kept."""
    rows = [{"id": f"t{i}", "text": f"Thing {i}.", "topic": f"k{i % 2}", "other": f"o{i % 2}"} for i in range(40)]
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for more in ("tasks.quotas=null", "tasks.quotas=equal", "tasks.n_pool=5"):
        states = []
        for topic in ("topic", "other"):
            preset(tmp_path, [{"path": str(tmp_path / "t.jsonl"), "topic": topic}])
            study = run(tmp_path, more)
            drawn = _pool.drawn_tasks(job_of(study, "topics")).to_pylist()
            assert {row["topic"] for row in drawn} == ({"k0", "k1"} if topic == "topic" else {"o0", "o1"})
            assert {row["origin"] for row in drawn} == {"t"}
            states.append(keys(study))
        one, other = states
        assert (one["tasks"] == other["tasks"]) == (more == "tasks.quotas=null")
        assert one["topics"] != other["topics"]
        assert one["measure.train"] == other["measure.train"]


def test_every_row_that_is_dropped_is_counted(tmp_path: Path) -> None:
    preset(tmp_path)
    sources = run(tmp_path, "tasks.near_duplicates=0.7").json("tasks", "sources.json")
    assert sources["sources"] == [
        {"source": "mine.jsonl", "rows": 60, "dropped": {}},
        {"source": "wildchat", "rows": 80, "dropped": {"`language`": 20}},
        {"source": "bailbench", "rows": 12, "dropped": {}},
    ]
    assert sum(sources["looked"].values()) == 30 + sum(sum(of.values()) for of in sources["dropped"].values())


def test_the_command_says_what_a_pool_holds_and_quotes_no_harmful_request(tmp_path: Path) -> None:
    path = preset(tmp_path)
    said = CliRunner().invoke(main, ["tasks", str(path), "--set", "tasks.n_pool=40", "--json"])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    sets = {o: [of[s] for s in ("train", "eval", "pool")] for o, of in found["origins"].items()}
    assert [sum(column) for column in zip(*sets.values(), strict=True)] == [20, 10, 40]
    assert sum(sets["bailbench"]) == 12
    assert found["origins"]["wildchat"]["languages"] == {"English": 60}
    assert found["origins"]["wildchat"]["characters"]["p50"] == len("Tell me of chat 11, u=11.")
    assert found["origins"]["bailbench"]["examples"] == []
    assert len(found["origins"]["mine"]["examples"]) == 3
    assert [source["licence"] for source in found["sources"]] == ["ODC-BY 1.0", "MIT", None]
    table = CliRunner().invoke(main, ["tasks", str(path)]).stdout
    assert "its texts are not shown" in table
    assert "My own thing" in table
    assert "Secret words" not in table + said.stdout
    assert not (tmp_path / "store").exists()


def test_a_report_quotes_no_harmful_request() -> None:
    said = [_shown("Secret words 3", origin) for origin in ("bailbench", "stress_test")]
    assert said == ["(a task of bailbench, which is not shown)", "(a task of stress_test, which is not shown)"]
    assert _shown("Tell me.", "wildchat") == _shown("Tell me.", None) == "Tell me."


def test_a_study_of_a_data_set_on_the_hub_is_pinned_planned_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"{json.dumps({'query': f'Query number {i}, {i * i}.'})}\n" for i in range(90)).encode()
    source = {"name": "stress_test", "hub": "lab/stress"}
    path = preset(tmp_path, [source])
    with HubServer() as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        planned = CliRunner().invoke(main, ["plan", str(path), "--set", "tasks.n_pool=50"])
        assert planned.exit_code == 0, planned.output
        assert "Tasks of stress_test are not on this machine" in " ".join(planned.stdout.split())
        assert "extract.model.pool" in planned.stdout
        assert hub.asked == []
        with pytest.raises(InputMissing, match=r"^lab/stress: the hub answers 404"):
            run(tmp_path)
        commit = hub.push("lab/stress", {"q.jsonl": rows})
        study = run(tmp_path, "tasks.n_pool=50")
        assert study.pins["tasks.0"] == commit
        hub.push("lab/stress", {"q.jsonl": rows + rows.replace(b"Query", b"Other")})
        again = Run.open(str(tmp_path / "store"), study.id)
        assert len(_pool.source_pool(job_of(again, "topics"))) == 90
        assert run(tmp_path, "tasks.n_pool=50").id != study.id
        with pytest.raises(BadConfig, match=r"there are 90 \(90 of stress_test\)"):
            run(
                tmp_path,
                "tasks.n_pool=61",
                f"tasks.sources=[{{name: stress_test, hub: lab/stress, revision: {commit}}}]",
            )


def test_more_tokens_than_the_model_may_read_are_dropped_or_it_is_said_that_they_cannot_be_counted(
    tmp_path: Path,
) -> None:
    preset(tmp_path)
    with pytest.raises(
        BadConfig, match=r"^tasks\.max_tokens: the tokenizer or chat template of \S+model cannot be read here"
    ):
        run(tmp_path, "tasks.max_tokens=5")
