"""The verbs that a workflow calls: start and outcome, and what a pod leaves for Kubernetes and Argo."""

import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from prefprobe.cli import main
from prefprobe.progress import Progress
from prefprobe.store.formats import read_json
from prefprobe.store.objects import ObjectStore
from prefprobe.study.graph import STEPS
from prefprobe.study.run import Run


def study(tmp_path: Path) -> Path:
    """A preset whose model is pinned without being loaded."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"weights")
    learning = {"batch": 10, "max_rounds": 2}
    preset = {
        "name": "small",
        "model": {"source": str(tmp_path / "weights")},
        "tasks": {"n_train": 24, "n_eval": 12},
        "train": learning,
        "eval": learning,
        "shift": {"comparisons": 2, "experiments": ["persona"], "shards": 3},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(preset))
    return path


def call(*args: object) -> int:
    try:
        main([str(a) for a in args])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_start_saves_the_run_and_says_what_to_fan_out_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    lines = "activations.shards=2\n\n  seed=3  \n"
    assert call("start", study(tmp_path), "--set", lines, "--out", out, "--store", store) == 0
    run = Run.open(str(store), (out / "run").read_text())
    assert (run.config.seed, run.config.activations.shards) == (3, 2)
    fanned = {name: json.loads((out / name).read_text()) for name in STEPS}
    assert [n for nodes in fanned.values() for n in nodes] == sorted(
        run.nodes, key=lambda n: list(STEPS).index(run.nodes[n].step.name)
    )
    assert fanned["shift-score"] == [f"shift-score.{k}" for k in range(3)]
    assert fanned["measure"] == ["measure.train", "measure.eval"]
    assert run.id in capsys.readouterr().out


def test_start_takes_the_preset_as_text_and_gives_the_same_run(tmp_path: Path) -> None:
    preset, store = study(tmp_path), tmp_path / "store"
    assert call("start", preset, "--run", "", "--set", "", "--text", "", "--store", store) == 0
    assert call("start", "nowhere.yaml", "--text", preset.read_text(), "--store", store) == 0
    assert len(list((store / "runs").iterdir())) == 1
    assert call("start", preset, "--run", "mine", "--store", store) == 0
    assert {p.name for p in (store / "runs").iterdir()} > {"mine"}


def test_a_bad_preset_leaves_its_sentence_for_kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "termination-log"
    monkeypatch.setenv("PREFPROBE_TERMINATION_LOG", str(log))
    assert call("start", study(tmp_path), "--set", "sed=3", "--store", tmp_path / "store") == 78
    assert "`sed` is not a setting (did you mean `seed`?)" in log.read_text()
    assert not (tmp_path / "store").exists()
    assert call("start") == 78
    assert "PRESET" in log.read_text()
    log.unlink()
    log.mkdir()  # a log that cannot be written changes nothing
    assert call("start", "nowhere.yaml", "--store", tmp_path / "store") == 78


def test_a_bug_is_named_for_kubernetes_and_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "termination-log"
    monkeypatch.setenv("PREFPROBE_TERMINATION_LOG", str(log))
    monkeypatch.setattr(Run, "create", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["start", str(study(tmp_path)), "--store", str(tmp_path / "store")])
    assert log.read_text() == "ZeroDivisionError: division by zero (a bug: the log has the traceback)"


def failed(name: str, message: str, finished: str = "2026-01-01T00:00:00Z") -> dict[str, str]:
    return {
        "displayName": name,
        "message": message,
        "phase": "Failed",
        "podName": "p",
        "templateName": "t",
        "finishedAt": finished,
    }


@pytest.mark.parametrize("quoted", [False, True])
def test_outcome_tells_what_failed_and_what_to_do(
    tmp_path: Path, quoted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ObjectStore.open(str(tmp_path / "store"))
    assert call("start", study(tmp_path), "--run", "mine", "--store", store.url) == 0
    sentence = "shift.yaml: no <such> file; name another."
    failures = [
        failed("extract(1:extract.model.1)(2)", "main: Error (exit code 75): second", "2026-01-01T00:00:02Z"),
        failed("extract(1:extract.model.1)(0)", "main: Error (exit code 75): first", "2026-01-01T00:00:01Z"),
        failed("extract(1:extract.model.1)", "retryStrategy.expression evaluated to false"),
        failed("extract", ""),
        failed("replicate-x", "child 'replicate-x-1' failed"),
        failed("shift(0)", f"main: Error (exit code 78): {sentence}"),
        failed("probe(0:probe.model)(0)", "main: OOMKilled (exit code 137)"),
        failed("hoo(0:hoo.model)(0)", "Pod was active on the node longer than the specified deadline"),
    ]
    text = json.dumps(failures)
    args = ["--status", "Failed", "--run", "mine", "--failures", json.dumps(text) if quoted else text]
    assert call("outcome", "replicate-x", *args, "--store", store.url, "--out", tmp_path / "o" / "page.html") == 0
    record = read_json(store.get("workflows/replicate-x.json"))
    assert {(f["node"], f["code"], f["message"]) for f in record["failures"]} == {
        ("extract.model.1", 75, "second"),
        ("shift", 78, sentence),
        ("probe.model", 137, "main: OOMKilled (exit code 137)"),
        ("hoo.model", None, "Pod was active on the node longer than the specified deadline"),
    }
    assert [s["state"] for s in record["steps"]][:2] == ["open", "waiting"]
    page = store.get("workflows/replicate-x.html").decode()
    assert page == (tmp_path / "o" / "page.html").read_text("utf-8")
    assert "no &lt;such&gt; file" in page
    assert "<script" not in page
    assert f"shift: {sentence}" in capsys.readouterr().out


def test_outcome_tells_of_a_workflow_that_failed_without_a_pod(tmp_path: Path) -> None:
    failures = json.dumps([failed("tasks", "template reference prefprobe-tasks.tasks not found"), failed("w", "")])
    assert call("outcome", "w", "--status", "Error", "--failures", failures, "--store", tmp_path / "store") == 0
    record = read_json(ObjectStore.open(str(tmp_path / "store")).get("workflows/w.json"))
    assert [(f["node"], f["message"]) for f in record["failures"]] == [
        ("tasks", "template reference prefprobe-tasks.tasks not found")
    ]


@pytest.mark.parametrize("failures", ["", "null", "[]", "no JSON"])
def test_outcome_is_written_whatever_is_known(tmp_path: Path, failures: str) -> None:
    args = ["--status", "Error", "--failures", failures, "--store", tmp_path / "store"]
    assert call("outcome", "w", *args, "--run", "") == 0
    assert call("outcome", "w", *args, "--run", "gone") == 0
    record = read_json(ObjectStore.open(str(tmp_path / "store")).get("workflows/w.json"))
    assert record["failures"][-1]["code"] == 66
    assert (record["failures"][0]["message"] == "no JSON") == (failures == "no JSON")


def test_progress_is_counted_for_argo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "progress"
    monkeypatch.setenv("ARGO_PROGRESS_FILE", str(file))
    progress = Progress(Console(file=(tmp_path / "log").open("w")))
    progress.start(0, "tasks")
    assert not file.exists()
    progress.start(40, "tasks", resumed=8)
    assert file.read_text() == "8/40\n"
    for _ in range(4):
        progress.advance(8)
    assert file.read_text() == "40/40\n"
