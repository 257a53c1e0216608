"""Topics are known to do before anything is spent, and what was spent does not depend on them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefprobe.choices.engine import Question
from prefprobe.config import load_config
from prefprobe.errors import BadConfig
from prefprobe.progress import Progress
from prefprobe.store.formats import read_json
from prefprobe.study.export import export_features
from prefprobe.study.run import Run, run_nodes
from tests.planted_study import execute, planted_study, prefers
from tests.unit.plan.test_plan import folder as model_folder

Row = dict[str, Any]


def weights(folder: Path) -> dict[str, str]:
    """A model whose files are apart from what the study writes."""
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"")
    return {"source": str(folder)}


def again(folder: Path, change: Callable[[Row], Row] = lambda row: row, overrides: tuple[str, ...] = ()) -> Run:
    """The study in `folder` once more, with other rows in its task file or other settings."""
    path = folder / "tasks.jsonl"
    rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run.create(str(folder / "store"), load_config(folder / "planted.yaml", overrides))


def cached(run: Run) -> set[str]:
    """Run all steps; those that were there already."""
    return {node.id for node in run.nodes.values() if run.execute(node, Progress())[1]}


def test_other_topics_and_origins_leave_all_that_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = planted_study(tmp_path, monkeypatch, prefers, blocks={"model": weights(tmp_path / "model")})
    execute(first)
    kept = {name for name in first.nodes if name.startswith(("measure", "extract", "embed"))}
    assert len(kept) > 5
    swap = {"math": "fiction", "fiction": "math"}
    renamed = again(tmp_path, lambda row: row | {"topic": swap.get(row["topic"], row["topic"]), "origin": "elsewhere"})
    there = cached(renamed)
    assert kept <= there
    assert not {"topics", "probe.model", "hoo.model"} & there
    export_features(renamed, "model", tmp_path / "out")
    (row, *_) = json.loads((tmp_path / "out" / "completions.json").read_text())
    assert (row["task_id"][:4], row["topic"], row["origin"]) == ("cler", "clerical", "elsewhere")


def test_names_of_columns_do_not_matter_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = planted_study(tmp_path, monkeypatch, prefers, blocks={"model": weights(tmp_path / "model")})
    execute(first)
    path = tmp_path / "tasks.jsonl"
    source = json.dumps([{"path": str(path), "id": "nr", "text": "prompt", "topic": "kind"}])
    names = {"id": "nr", "text": "prompt", "topic": "kind"}
    run = again(tmp_path, lambda row: {names[k]: v for k, v in row.items()}, (f"tasks.sources={source}",))
    assert cached(run) == set(run.nodes) - {"tasks", "topics", "report"}


@pytest.mark.parametrize(
    ("change", "overrides", "said"),
    [
        (lambda row: row | {"topic": "all"}, (), r"topics: 1 \('all' of 36 train tasks\) are too few"),
        (lambda row: row | {"topic": row["id"]}, (), r"'[\w-]+' has 1 train tasks, and a fold needs 3"),
        (lambda row: {k: v for k, v in row.items() if k != "topic"}, (), r"^task clerical-\d+: no `topic`"),
        (lambda row: row, ("probes.holdout=3",), "too few to hold out 3, which takes 5"),
        (lambda row: row, ("shift.comparisons=40",), r"^shift\.comparisons: 40 comparison tasks were asked for"),
        (
            lambda row: row | {"id": row["id"].replace("math-00", "s-math-0")},
            ("tasks.n_eval=28",),
            "^shift task s-math-0",
        ),
    ],
)
def test_what_cannot_be_tested_is_refused_before_anything_is_spent(
    change: Callable[[Row], Row],
    overrides: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Question] = []

    def says(question: Question) -> float:
        asked.append(question)
        return prefers(question)

    planted_study(tmp_path, monkeypatch, says)
    run = again(tmp_path, change, overrides)
    with pytest.raises(BadConfig, match=said):
        run_nodes(run, run.nodes.values(), Progress())
    assert asked == []
    assert {key.split("/")[1] for key in run.objects.list("steps/")} <= {"tasks"}


def test_a_task_file_that_changed_since_the_run_began_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planted_study(tmp_path, monkeypatch, prefers, blocks={"model": weights(tmp_path / "model")})
    path, said = (
        tmp_path / "tasks.jsonl",
        r"tasks\.jsonl has changed since the run was started; start a new run",
    )
    as_it_was = path.read_text()
    for node in ("tasks", "topics"):
        path.write_text(as_it_was + "\n")
        with pytest.raises(BadConfig, match=said):
            run.execute(run.nodes[node], Progress())
        path.write_text(as_it_was)
        run.execute(run.nodes[node], Progress())


def test_merged_topics_are_said_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted_study(tmp_path, monkeypatch, prefers)
    rare = {"math-00": "sums", "math-01": "sets", "math-02": "sums", "math-03": "sets", "math-04": "sets"}
    run = again(tmp_path, lambda row: row | {"topic": rare.get(row["id"], row["topic"])}, ("topics.min_tasks=4",))
    outputs = execute(run)
    found = read_json(outputs["topics"]["topics.json"])
    assert found["merged"].keys() == {"sums", "sets"}
    assert all(n < 4 for n in found["merged"].values())
    assert found["counts"].keys() == {"math", "fiction", "travel", "clerical", "other"}
    page = " ".join(outputs["report"]["index.html"].decode().split())
    assert "Topics with fewer than 4 train tasks count as one, “other”: sets and sums." in page
    assert "left out of the draw" not in page


def test_dropped_tasks_are_counted_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the model's tokenizer a word is a token: of 400 tokens the long tasks alone are beyond the context."""
    model = model_folder(tmp_path / "model")
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 400}))
    blocks = {"model": {"source": str(model), "name": "Planted"}}
    run = planted_study(tmp_path / "run", monkeypatch, prefers, blocks=blocks)
    plain = execute(run)
    long = {"math-00": " word" * 1000, "travel-00": " word" * 500}
    lengthen: Callable[[Row], Row] = lambda row: row | {"text": row["text"] + long.get(row["id"], "")}  # noqa: E731
    refused = again(tmp_path / "run", lengthen)
    with pytest.raises(
        BadConfig, match=r"^task math-00: its prompt takes 1,\d+ tokens, and the context of Planted is 400 \(2"
    ):
        run_nodes(refused, refused.nodes.values(), Progress())
    outputs = execute(again(tmp_path / "run", overrides=("tasks.too_long=drop",)))
    counts = [read_json(of["tasks"]["tasks.json"])["too_long"] for of in (plain, outputs)]
    assert counts == [0, 2]
    assert "2 tasks were left out of the draw" in outputs["report"]["index.html"].decode()
