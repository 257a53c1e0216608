"""The verbs that a workflow calls: start and outcome, and what a pod leaves for Kubernetes and Argo."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from prefprobe.cli import main
from prefprobe.progress import Progress
from prefprobe.store.formats import read_json
from prefprobe.store.objects import ObjectStore
from prefprobe.study.graph import STEPS, TEMPLATES
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


def test_a_store_without_runs_and_why_a_key_is_another_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, preset = str(tmp_path / "store"), study(tmp_path)
    assert call("status", "--store", store) == 0
    assert "no runs in " in capsys.readouterr().err
    for name, rounds in (("one", 2), ("two", 3)):
        assert call("start", preset, "--run", name, "--set", f"train.max_rounds={rounds}", "--store", store) == 0
        run = Run.open(store, name)
        for node in run.nodes.values():
            of = run.step_store(node)
            assert of is not None
            of.commit({"result": f"{node.id} {name}".encode()}, {}) if run.state(node).state != "done" else None
    capsys.readouterr()
    assert call("explain", "probe.model", "--run", "two", "--against", "one", "--store", store) == 0
    assert capsys.readouterr().out.endswith(" (`prefprobe explain measure.train` says why)\n")


def test_tasks_says_before_a_run_that_topics_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset, file = study(tmp_path), tmp_path / "bare.csv"
    file.write_text("id,text\n" + "".join(f"t{n:02},Describe the number {n}.\n" for n in range(40)))
    options = ["--set", f"tasks.sources=[{file}]", "--store", tmp_path / "store"]
    assert call("tasks", preset, *options) == 0
    assert "bare, no topic: 36; name their column in `tasks.sources`, or let a judge" in capsys.readouterr().out
    assert call("tasks", preset, *options, "--set", "topics.judge.by=local") == 0
    assert "no topic" not in capsys.readouterr().out


def test_start_saves_the_run_and_says_what_to_fan_out_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    lines = ["--set", "activations.shards=2\n\n  seed=3  \n", "--set", "name=other"]
    assert call("start", study(tmp_path), *lines, "--out", out, "--store", store) == 0
    run = Run.open(str(store), (out / "run").read_text())
    assert (run.config.seed, run.config.activations.shards, run.config.name) == (3, 2, "other")
    fanned = {name: json.loads((out / name).read_text()) for name in STEPS}
    assert [n for nodes in fanned.values() for n in nodes] == sorted(
        run.nodes, key=lambda n: list(STEPS).index(run.nodes[n].step.name)
    )
    assert fanned["shift-score"] == [f"shift-score.{k}" for k in range(3)]
    assert fanned["measure"] == ["measure.train", "measure.eval"]
    assert fanned["content"] == []  # there is no encoder
    assert run.id in capsys.readouterr().out


def finish(run: Run) -> None:
    """Give every node a result."""
    for node in run.nodes.values():
        of = run.step_store(node)
        assert of is not None
        of.commit({"result": node.id.encode()}, {})


@pytest.mark.parametrize("node", ["tasks", "extract.model.0", "shift"])
def test_a_step_that_finds_its_work_done_loads_nothing_heavy(tmp_path: Path, node: str) -> None:
    store = tmp_path / "store"
    assert call("start", study(tmp_path), "--run", "r", "--store", store) == 0
    finish(Run.open(str(store), "r"))
    command = ["step", node, "--run", "r", "--store", str(store)]
    code = f"import sys\nfrom prefprobe.cli import main\nmain({command!r})\nprint(*(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == f"[1/1] {node}  cached\n"
    heavy = {"torch", "transformers", "numpy", "scipy", "pyarrow", "rich", "pydantic_settings", "jinja2", "kubernetes"}
    assert not heavy & set(done.stdout.split())


def test_start_lists_what_is_not_done_and_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out, preset = tmp_path / "store", tmp_path / "out", study(tmp_path)

    def listed() -> set[str]:
        assert call("start", preset, "--out", out, "--store", store) == 0
        return {node for name in TEMPLATES for node in json.loads((out / name).read_text())}

    assert listed() == set(Run.open(str(store), (out / "run").read_text()).nodes)
    run = Run.open(str(store), (out / "run").read_text())
    finish(run)
    assert listed() == {"report"}
    assert f"{len(run.nodes)} nodes, of which {len(run.nodes)} are done" in capsys.readouterr().out
    lost = run.finished("measure.eval")
    run.objects.delete(f"steps/measure/{lost.key}/manifest.json")
    behind = {n.id for n in run.nodes.values() if n.id.startswith(("probe", "hoo", "content"))}
    assert listed() == {"measure.eval", "shift-score.0", "shift-score.1", "shift-score.2", "shift", "report"} | behind


def test_start_says_what_the_pods_of_the_study_ask_for(tmp_path: Path) -> None:
    preset, out = study(tmp_path), tmp_path / "out"
    asked = [
        "model-cpu",
        "model-memory",
        "model-gpus",
        "encoder-cpu",
        "encoder-memory",
        "features-cpu",
        "features-memory",
    ]
    assert call("start", preset, "--out", out, "--store", tmp_path / "store") == 0
    assert {name: (out / name).read_text() for name in asked} == {
        "model-cpu": "8",
        "model-memory": "64Gi",  # of these weights nothing can be known
        "model-gpus": "1",
        "encoder-cpu": "1",
        "encoder-memory": "2Gi",  # there is none
        "features-cpu": "4",
        "features-memory": "16Gi",
    }
    named = tmp_path / "tiny-0.5b"
    (tmp_path / "weights").rename(named)
    assert call("start", preset, "--set", f"model.source={named}", "--out", out, "--store", tmp_path / "store") == 0
    assert ((out / "model-cpu").read_text(), (out / "model-memory").read_text()) == ("1", "5Gi")
    small = ["--set", f"model.source={named}", "--gpu-memory", "1.5"]  # 0.5 B in float32
    assert call("start", preset, *small, "--out", out, "--store", tmp_path / "store") == 0
    assert (out / "model-gpus").read_text() == "2"


def test_start_in_a_pod_names_the_value_that_mounts_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "termination-log"
    preset = study(tmp_path)
    for key, source in (
        ("model.source", "package:weights_of_nobody/model.gguf"),
        ("model.source", "/models/mine"),
        ("model.adapter", "/models/adapter"),
        ("base.source", "package:weights_of_nobody/base"),
        ("encoders.mine", "package:weights_of_nobody/encoder"),
    ):
        monkeypatch.setenv("PREFPROBE_TERMINATION_LOG", str(log))
        assert call("start", preset, "--set", f"{key}={source}", "--store", tmp_path / "store") == 78
        said = log.read_text()
        assert f"prefprobe: {said}\n" == capsys.readouterr().err
        assert said.startswith(f"{source} is not in the cluster's pods: set models.type")
        assert "install it" not in said
        monkeypatch.delenv("PREFPROBE_TERMINATION_LOG")  # on a laptop there is no chart
        assert call("start", preset, "--set", f"{key}={source}", "--store", tmp_path / "store") == 78
        assert "models.type" not in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_an_image_without_the_job_names_the_one_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert call("start", study(tmp_path), "--run", "mine", "--store", store) == 0
    monkeypatch.setitem(sys.modules, "prefprobe.jobs.tasks", None)  # as if there were no such file
    assert call("step", "tasks", "--run", "mine", "--store", store) == 78
    said = "tasks: this image does not carry the step tasks; run it in prefprobe-tasks."
    assert capsys.readouterr().err.splitlines()[-1] == f"prefprobe: {said}"
    monkeypatch.delitem(sys.modules, "prefprobe.jobs.tasks")
    monkeypatch.setitem(sys.modules, "prefprobe.tasks.sampling", None)  # what is missing here is no job: a bug
    with pytest.raises(ModuleNotFoundError):
        main(["step", "tasks", "--run", "mine", "--store", str(store)])


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
        failed("shift", "retryStrategy.expression evaluated to false"),
        failed("probe(0:probe.model)(0)", "main: OOMKilled (exit code 137)"),
        failed("probe(0:probe.model)", "No more retries left"),
        failed("hoo(0:hoo.model)(0)", "Pod was active on the node longer than the specified deadline"),
        failed("hoo(0:hoo.model)", "No more retries left"),
        failed("measure(0:measure.train)(0)", "main: OOMKilled (exit code 137)"),  # and its second attempt succeeded
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
    assert {(a["node"], a["attempt"], a["message"]) for a in record["attempts"]} == {
        ("extract.model.1", 1, "first"),
        ("measure.train", 1, "main: OOMKilled (exit code 137)"),
    }
    assert record["stopped"] is False
    assert [s["state"] for s in record["steps"]][:2] == ["open", "waiting"]
    page = store.get("workflows/replicate-x.html").decode()
    assert page == (tmp_path / "o" / "page.html").read_text("utf-8")
    assert "no &lt;such&gt; file" in page
    assert "<script" not in page
    assert "argo retry replicate-x" in page
    assert f"shift: {sentence}" in capsys.readouterr().out


def test_the_outcome_of_what_succeeded_has_attempts_and_no_failures(tmp_path: Path) -> None:
    """As Argo lists them where nodes succeeded at a later attempt."""
    store = ObjectStore.open(str(tmp_path / "store"))
    failures = json.dumps(
        [
            failed("extract(0:extract.model.0)(0)", "main: OOMKilled (exit code 137)"),
            failed("extract(1:extract.model.1)(0)", "main: Error (exit code 75): the store answers 503"),
            failed("extract(1:extract.model.1)(1)", "pod deleted"),
        ]
    )
    assert call("outcome", "w", "--status", "Succeeded", "--failures", failures, "--store", store.url) == 0
    record = read_json(store.get("workflows/w.json"))
    assert record["failures"] == []
    assert [(a["node"], a["attempt"], a["code"]) for a in record["attempts"]] == [
        ("extract.model.0", 1, 137),
        ("extract.model.1", 1, 75),
        ("extract.model.1", 2, None),
    ]
    page = store.get("workflows/w.html").decode()
    for word in ("What failed", "every retry is used up", "ran out of memory", "argo retry"):
        assert word not in page
    assert "Attempts that were repeated" in page
    assert "the store answers 503" in page


def test_the_outcome_of_what_was_stopped_says_to_submit_it_again(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path / "store"))
    stopped = "Stopped with strategy 'Stop'"
    failures = [
        failed("measure(0:measure.train)(0)", "workflow shutdown with strategy:  Stop"),
        failed("measure(0:measure.train)", stopped),
        failed("extract(0:extract.model.0)", stopped),  # it waited for the semaphore, and never had a pod
        failed("topics(0)", "main: Error (exit code 78): three tasks have no topic; add a `topic` column."),
        failed("topics", "retryStrategy.expression evaluated to false"),
        failed("replicate-x", stopped),
    ]
    args = ["--status", "Failed", "--failures", json.dumps(failures), "--store", store.url]
    assert call("outcome", "replicate-x", *args) == 0
    record = read_json(store.get("workflows/replicate-x.json"))
    assert record["stopped"] is True
    assert {f["node"]: bool(f["next"]) for f in record["failures"]} == {
        "measure.train": False,
        "extract.model.0": False,
        "topics": True,
    }
    page = store.get("workflows/replicate-x.html").decode()
    assert "replicate-x was stopped" in page
    assert "prefprobe cluster rerun replicate-x" in page
    assert "<code>argo retry replicate-x" not in page


def test_outcome_tells_of_a_workflow_that_failed_without_a_pod(tmp_path: Path) -> None:
    failures = json.dumps(
        [
            failed("tasks", "template reference prefprobe-tasks.tasks not found"),
            failed("w", "Error in entry template execution"),
            failed("extract", "child 'w-123' failed"),
        ]
    )
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
    progress = Progress((tmp_path / "log").open("w"))
    progress.start(0, "tasks")
    assert not file.exists()
    progress.start(40, "tasks", resumed=8)
    assert file.read_text() == "8/40\n"
    for _ in range(4):
        progress.advance(8)
    assert file.read_text() == "40/40\n"


@pytest.mark.parametrize("name", ["a b", "../up", "ü", "a/b", "", ".hidden", "a\nb"])
def test_a_run_has_a_name_that_a_store_can_hold(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (("status",), ("step", "tasks"), ("run", study(tmp_path))):
        assert call(*command, "--run", name, "--store", tmp_path / "s") == 78, command
        assert "is no name of a run" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_ctrl_c_is_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    log = tmp_path / "log"
    monkeypatch.setenv("PREFPROBE_TERMINATION_LOG", str(log))
    monkeypatch.setattr("prefprobe.config.load_config", interrupted)
    assert call("plan", study(tmp_path), "--store", tmp_path / "s") == 75
    assert "interrupted; what is finished is saved" in capsys.readouterr().err
    assert not log.exists()


def test_a_copy_of_outputs_overwrites_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out = tmp_path / "s", tmp_path / "out"
    assert call("run", study(tmp_path), "--run", "r", "--store", store) != 0  # its model is not here; tasks are done
    copy = ("step", "tasks", "--run", "r", "--store", store, "--out", out)
    assert call(*copy) == call(*copy) == 0
    (out / "tasks.json").write_text("mine")
    assert call(*copy) == 78
    assert "exists and is another file" in capsys.readouterr().err
    assert (out / "tasks.json").read_text() == "mine"
