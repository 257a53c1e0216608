"""`prefprobe cluster` against a server that answers as the Kubernetes API and as an Argo Server do."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from prefprobe.cli import main
from prefprobe.cluster import view, workflows
from prefprobe.config import load_config
from prefprobe.store.objects import ObjectStore

TOKEN = "secret-token-of-the-test"
PRESET = Path(__file__).parents[3] / "presets" / "demo.yaml"
SENTENCE = "demo.yaml: no such preset; name a YAML file."


def pod(template: str, display: str, phase: str, started: int, **more: Any) -> dict[str, Any]:
    given = [{"name": "run", "value": "demo-1"}]
    if ":" in display:
        given.append({"name": "node", "value": display.split(":")[1].split(")")[0]})
    number = abs(hash(display)) % 10**9
    return {
        "id": f"w-{number}",
        "type": "Pod",
        "displayName": display,
        "templateRef": {"name": f"prefprobe-{template}", "template": template},
        "phase": phase,
        "startedAt": f"2026-01-01T00:00:{started:02d}Z",
        "inputs": {"parameters": given},
        **more,
    }


def status(phase: str, *pods: dict[str, Any]) -> dict[str, Any]:
    nodes = [{"id": "w", "type": "DAG", "displayName": "w", "phase": phase, "startedAt": "2026-01-01T00:00:00Z"}, *pods]
    return {"phase": phase, "nodes": {n["id"]: n for n in nodes}}


START = pod("start", "start(0)", "Succeeded", 1, outputs={"parameters": [{"name": "run", "value": "demo-1"}]})
RUNNING = status(
    "Running",
    START,
    pod("extract", "extract(0:extract.model.0)(0)", "Running", 2, progress="3/9", hostNodeName="gpu-1"),
)
DONE = status(
    "Succeeded",
    START,
    pod(
        "extract",
        "extract(0:extract.model.0)(0)",
        "Failed",
        2,
        message="main: Error (exit code 75): later",
        outputs={"exitCode": "75"},
    ),
    pod("extract", "extract(0:extract.model.0)(1)", "Succeeded", 3, outputs={"exitCode": "0"}),
    pod("report", "report(0)", "Succeeded", 4, outputs={"exitCode": "0"}),
)
FAILED = status(
    "Failed",
    START,
    pod(
        "extract",
        "extract(0:extract.model.0)(0)",
        "Failed",
        2,
        message=f"main: Error (exit code 78): {SENTENCE}",
        outputs={"exitCode": "78"},
    ),
)


class Server(ThreadingHTTPServer):
    """Workflow `w`, whose status is the next of `statuses` at every look; `errors` are answered first."""

    statuses: list[dict[str, Any]]
    errors: list[int]
    asked: list[tuple[str, str, Any]]
    template = True
    gone = False
    events: tuple[dict[str, Any], ...] = ()
    may_see_events = True
    events_after = 0.0
    """Seconds before a stream of events begins."""
    shutdown_by = ""

    def workflow(self) -> dict[str, Any]:
        now = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        spec = {
            "workflowTemplateRef": {"name": "prefprobe-replicate"},
            "arguments": {
                "parameters": [
                    {"name": "preset", "value": "p"},
                    {"name": "set", "value": "s"},
                    {"name": "run", "value": ""},
                ]
            },
        }
        spec |= {"shutdown": self.shutdown_by} if self.shutdown_by else {}
        return {"metadata": {"name": "w", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": now}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None: ...

    def reply(self, code: int, body: bytes | dict[str, Any]) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body: Any) -> None:
        url = urlsplit(self.path)
        self.server.asked.append((self.command, url.path, body))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply(401, {"message": "Unauthorized"})
        if self.server.errors:
            code = self.server.errors.pop(0)
            return self.reply(
                code, {"message": 'workflows is forbidden: User "x" cannot list resource "workflows" in API group'}
            )
        last = url.path.rstrip("/").rpartition("/")[2]
        if "workflowtemplates/" in url.path or "workflow-templates/" in url.path:
            return self.reply(
                *((200, {"metadata": {"name": last}}) if self.server.template else (404, {"message": "not found"}))
            )
        if self.command == "POST":
            return self.reply(201, {**(body.get("workflow") or body), "metadata": {"name": "w"}})
        if last == "log":
            if self.server.gone:
                return self.reply(404, {"message": "no pod"})
            if url.path.startswith("/artifact") or "/pods/" in url.path:
                return self.reply(200, "one\ntime=x level=INFO argo=true\ntwo \u2028 lines\n".encode())
            name = parse_qs(url.query)["podName"][0]
            lines = [
                {"result": {"content": c, "podName": name}}
                for c in ("one", "time=x level=INFO argo=true", "two \u2028 lines")
            ]
            return self.reply(200, "".join(json.dumps(line) + "\n" for line in lines).encode())
        if "/events" in url.path:
            return self.tell_events(parse_qs(url.query))
        if url.path.startswith("/artifact-files/"):
            return self.reply(200, b"<html>served</html>")
        if last == "workflows" or url.path.endswith("/workflows/lab"):
            return self.reply(200, {"items": [self.server.workflow()]})
        if last == "w":
            return self.reply(200, self.server.workflow())
        return self.reply(404, {"message": f'workflows.argoproj.io "{last}" not found'})

    def tell_events(self, query: dict[str, list[str]]) -> None:
        """As a list from Kubernetes; from an Argo Server as a stream that stays open."""
        if not self.server.may_see_events:
            return self.reply(403, {"message": 'User "x" cannot list resource "events" in API group ""'})
        (selector,) = query.get("fieldSelector") or query["listOptions.fieldSelector"]
        wanted = dict(part.split("=") for part in selector.split(","))
        events = [e for e in self.server.events if e["type"] == wanted["type"]]
        if "/stream/" not in self.path:
            return self.reply(200, {"items": events})
        time.sleep(self.server.events_after)
        self.send_response(200)
        self.end_headers()
        self.wfile.write("".join(json.dumps({"result": event}) + "\n" for event in events).encode())
        self.wfile.flush()
        self.connection.settimeout(10)
        self.rfile.read(1)  # until the client goes away
        return None


@pytest.fixture(params=["kubeconfig", "argo server"])
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    http = Server(("127.0.0.1", 0), Handler)
    http.statuses, http.errors, http.asked = [DONE], [], []
    address = f"127.0.0.1:{http.server_port}"
    for name in ("ARGO_SERVER", "ARGO_TOKEN", "ARGO_NAMESPACE", "PREFPROBE_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(workflows, "LOST_FOR", 5.0)
    monkeypatch.setattr(view, "EVERY", 0.01)
    if request.param == "argo server":
        for name, value in (
            ("ARGO_SERVER", address),
            ("ARGO_TOKEN", f"Bearer {TOKEN}"),
            ("ARGO_SECURE", "false"),
            ("ARGO_NAMESPACE", "lab"),
        ):
            monkeypatch.setenv(name, value)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://{address}"}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "lab"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield http
    http.shutdown()
    http.server_close()
    thread.join()


def call(*args: object) -> int:
    try:
        main(["cluster", *map(str, args)])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def submitted(server: Server) -> dict[str, Any]:
    (body,) = [b for method, _, b in server.asked if method == "POST"]
    found: dict[str, Any] = body.get("workflow") or body
    return found


def test_submit_sends_the_preset_and_says_what_to_do_next(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("submit", PRESET, "--set", "seed=3", "--set", "train.max_rounds=2", "--run", "mine") == 0
    made = submitted(server)
    assert made["spec"]["workflowTemplateRef"] == {"name": "prefprobe-replicate"}
    assert {p["name"]: p["value"] for p in made["spec"]["arguments"]["parameters"]} == {
        "preset": PRESET.read_text("utf-8"),
        "set": "seed=3\ntrain.max_rounds=2",
        "run": "mine",
    }
    assert any("/lab" in path for _, path, _ in server.asked)
    said = capsys.readouterr()
    assert said.out == "w\n"
    assert "prefprobe cluster watch w -n lab" in said.err


def test_a_preset_that_extends_another_is_sent_whole(server: Server) -> None:
    assert call("submit", PRESET.with_name("small.yaml")) == 0
    text = next(p["value"] for p in submitted(server)["spec"]["arguments"]["parameters"] if p["name"] == "preset")
    assert load_config(Path("elsewhere.yaml"), (), text) == load_config(PRESET.with_name("small.yaml"))


def test_a_bad_preset_is_not_sent(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("submit", PRESET, "--set", "sed=3") == 78
    assert server.asked == []
    assert "did you mean `seed`" in capsys.readouterr().err


def test_a_namespace_without_the_chart_is_named(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.template = False
    assert call("submit", PRESET) == 78
    assert (
        "namespace lab has no WorkflowTemplate prefprobe-replicate: `helm install` the chart" in capsys.readouterr().err
    )
    assert all(method == "GET" for method, _, _ in server.asked)


def test_watch_shows_every_change_and_outlives_a_server_that_is_away(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.statuses = [{}, RUNNING, RUNNING, DONE]  # the first look only finds the workflow
    monkeypatch.setattr(view, "EVERY", 0.0)
    monkeypatch.setattr(workflows, "sleep", lambda _: None)
    look, looks = Server.workflow, iter([0, 503, 0, 500])

    def sometimes_away(self: Server) -> dict[str, Any]:
        self.errors += [code for code in [next(looks, 0)] if code]
        return look(self)

    monkeypatch.setattr(Server, "workflow", sometimes_away)
    assert call("watch", "w") == 0
    said = capsys.readouterr().out
    assert "extract.model.0          runs on gpu-1\n" in said
    assert "extract.model.0          done (attempt 2)\n" in said
    assert said.endswith("w succeeded\n")


def event(pod: str, kind: str, reason: str, message: str, second: int) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{pod}.{second}"},
        "involvedObject": {"kind": "Pod", "name": pod},
        "type": kind,
        "reason": reason,
        "message": message,
        "lastTimestamp": f"2026-01-01T00:00:{second:02d}Z",
    }


@pytest.mark.parametrize(
    ("warnings", "shown"),
    [
        ([("FailedMount", 'MountVolume.SetUp failed for volume "models": claim not found')], 0),
        ([("FailedScheduling", "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")], 0),
        ([("Failed", 'Failed to pull image "r/x:1": not found'), ("Failed", "Error: ImagePullBackOff")], 0),
        ([("ErrImageNeverPull", 'Container image "r/x:1" is not present'), ("Failed", "Error: ErrImageNeverPull")], 0),
        ([("Failed", 'Error: secret "prefprobe-s3" not found')], 0),
        ([("FailedScheduling", "0/2 nodes are available"), ("FailedMount", "no such claim")], 1),
    ],
    ids=["volume", "node", "image", "image never pulled", "secret", "the last of two"],
)
def test_watch_shows_what_keeps_a_pod_from_starting(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    warnings: list[tuple[str, str]],
    shown: int,
) -> None:
    monkeypatch.setattr(view, "PATIENCE", 0.05)
    waits = pod("extract", "extract(0:extract.model.0)(0)", "Pending", 2, message="PodInitializing")
    mine, others = f"w-extract-{waits['id'].removeprefix('w-')}", "w-extract-1"
    server.events = (
        event(mine, "Normal", "Pulling", "Pulling image", 9),
        event(others, "Warning", "FailedMount", "of another pod", 8),
        *(event(mine, "Warning", reason, message, k) for k, (reason, message) in enumerate(warnings)),
    )
    server.statuses = [*[status("Running", START, waits)] * 12, DONE]
    assert call("watch", "w") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "extract.model.0" in line]
    assert lines[0].endswith("waits: PodInitializing")
    assert lines[1:-1] == [f"{'extract.model.0':<24} waits: {warnings[shown][1]}"]


def test_watch_shows_what_argo_itself_comes_to_know_of_a_pod_that_waits(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """Events or none: an Argo Server of 4.1 fails at streaming them."""
    said = ["", "PodInitializing", 'Unschedulable: 0/2 nodes: claim "m" not found', "Unschedulable: 0/2 nodes: 2 full"]
    waiting = [pod("extract", "extract(0:extract.model.0)(0)", "Pending", 2, message=message) for message in said]
    server.statuses = [*(status("Running", START, waits) for waits in waiting for _ in range(3)), DONE]
    assert call("watch", "w") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "extract.model.0" in line]
    assert [line.split("waits")[1] for line in lines[:-1]] == ["", ": PodInitializing", f": {said[2]}"]


def test_watch_shows_what_keeps_a_pod_once_events_come(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(view, "PATIENCE", 0.05)
    monkeypatch.setattr(view, "EVERY", 0.05)
    server.events_after = 2.5  # longer than anyone would wait at one look
    waits = pod("extract", "extract(0:extract.model.0)(0)", "Pending", 2, message="PodInitializing")
    server.events = (
        event(f"w-extract-{waits['id'].removeprefix('w-')}", "Warning", "FailedMount", "no such claim", 1),
    )
    server.statuses = [*[status("Running", START, waits)] * 80, DONE]
    assert call("watch", "w") == 0
    assert f"{'extract.model.0':<24} waits: no such claim\n" in capsys.readouterr().out


def test_watch_goes_on_where_events_may_not_be_seen(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(view, "PATIENCE", 0.05)
    server.may_see_events = False
    waits = pod("extract", "extract(0:extract.model.0)(0)", "Pending", 2, message="PodInitializing")
    server.statuses = [*[status("Running", START, waits)] * 12, DONE]
    assert call("watch", "w") == 0
    assert any("events" in path for _, path, _ in server.asked)
    assert "waits: PodInitializing\n" in capsys.readouterr().out


def test_a_workflow_that_was_stopped_is_to_be_submitted_again(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.statuses, server.shutdown_by = [RUNNING, FAILED], "Stop"
    assert call("watch", "w") == 75
    said = capsys.readouterr().err
    assert "w was stopped; submit it again, as `prefprobe cluster rerun` does" in said
    assert "retry" not in said


def test_watch_ends_with_the_code_and_the_sentence_of_what_failed(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.statuses = [RUNNING, FAILED]
    assert call("watch") == 78
    assert f"prefprobe: w failed: extract.model.0: (exit code 78): {SENTENCE}" in capsys.readouterr().err


def test_logs_name_their_node(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("logs", "w", "extract") == 0
    assert capsys.readouterr().out == "extract.model.0: one\nextract.model.0: two \u2028 lines\n"
    assert call("logs", "w", "--follow") == 0
    assert {line.split(": ")[0] for line in capsys.readouterr().out.split("\n") if line} == {
        "start",
        "extract.model.0",
        "report",
    }
    assert call("logs", "w", "probe") == 66
    assert "its nodes: start, extract.model.0, report" in capsys.readouterr().err
    server.gone = True
    assert call("logs", "w", "report") == 0
    assert "report: the pod is gone; its log is in the bucket, under argo/w/w-report-" in capsys.readouterr().err


def test_report_comes_from_the_server_or_from_the_store(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ObjectStore.open(str(tmp_path / "store")).put("runs/demo-1/report/index.html", b"<html>stored</html>")
    out = tmp_path / "report.html"
    assert call("report", "w", "--out", out, "--store", tmp_path / "store") == 0
    by_server = any(path.startswith("/artifact-files/lab/workflows/w/w-") for _, path, _ in server.asked)
    assert out.read_bytes() == (b"<html>served</html>" if by_server else b"<html>stored</html>")
    assert "run demo-1" in capsys.readouterr().out
    if not by_server:  # neither the report nor the keys of the store come from Kubernetes
        assert call("report", "w", "--out", out) == 78
        said = capsys.readouterr().err
        assert "give --store, the chart's store.url, with the store's keys in AWS_ACCESS_KEY_ID" in said
    server.statuses = [FAILED]
    out.unlink()
    assert call("report", "w", "--out", out, "--store", tmp_path / "store") == 66
    assert "workflows/w.html in the store" in capsys.readouterr().err
    assert not out.exists()


def test_rerun_of_a_study_and_of_a_step(server: Server) -> None:
    assert call("rerun", "w") == 0
    assert submitted(server)["spec"]["arguments"]["parameters"] == [
        {"name": "preset", "value": "p"},
        {"name": "set", "value": "s"},
        {"name": "run", "value": ""},
    ]
    server.asked.clear()
    assert call("rerun", "@latest", "--step", "shift-score.1") == 0
    made = submitted(server)
    assert made["spec"]["workflowTemplateRef"] == {"name": "prefprobe-shift-score"}
    assert made["spec"]["arguments"]["parameters"] == [
        {"name": "run", "value": "demo-1"},
        {"name": "node", "value": "shift-score.1"},
    ]
    assert made["metadata"]["generateName"] == "shift-score-"


def test_rerun_of_a_step_that_asked_an_api_asks_it_again(server: Server) -> None:
    server.statuses = [
        status("Succeeded", START, pod("measure-api", "measure-api(0:measure.train)(0)", "Succeeded", 2))
    ]
    assert call("rerun", "w", "--step", "measure.train") == 0
    assert submitted(server)["spec"]["workflowTemplateRef"] == {"name": "prefprobe-measure-api"}


@pytest.mark.parametrize(
    ("errors", "code", "sentence"),
    [
        ([403], 78, "your account lacks the right to list workflows; ask whoever runs the cluster."),
        ([429], 75, "failed at"),
        ([502], 75, "failed at"),
        ([418], 78, "did not accept"),
    ],
)
def test_refusals_are_one_sentence(
    server: Server, errors: list[int], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.errors = errors * 20
    assert call("list") == code
    said = capsys.readouterr()
    assert sentence in said.err
    assert len(said.err.splitlines()) == 1
    assert TOKEN not in said.out + said.err


def test_an_unknown_workflow_and_a_server_that_is_not_there(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("watch", "unknown") == 66
    assert "workflow unknown is not there" in capsys.readouterr().err
    server.shutdown()
    server.server_close()
    assert call("list") == 75
    assert "cannot be reached" in capsys.readouterr().err
    threading.Thread(target=server.serve_forever, daemon=True)


def test_list_names_workflows_with_their_runs(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list") == 0
    assert capsys.readouterr().out.split() == ["w", "Succeeded", "2026-01-01T00:00:00Z", "demo-1"]


def test_without_a_kubeconfig_the_next_step_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ARGO_SERVER", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert call("list") == 78
    assert "set KUBECONFIG, or ARGO_SERVER and ARGO_TOKEN" in capsys.readouterr().err


def test_the_page_says_what_a_report_takes_and_what_a_stopped_workflow_needs() -> None:
    text = (PRESET.parents[1] / "docs" / "cluster.md").read_text("utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("| `prefprobe cluster report ")]
    assert "--store URL" in row
    assert "with its keys in the environment" in row
    assert "stopped (`argo stop`) or deleted is submitted again" in " ".join(text.split())
