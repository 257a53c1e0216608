"""What became of a workflow, in a page and a record that are written also when it failed, and first of all then."""

import json
import re
from pathlib import Path
from typing import Any

import jinja2

from prefprobe.errors import PrefprobeError
from prefprobe.store.formats import json_bytes, read_json
from prefprobe.store.objects import ObjectStore
from prefprobe.study.run import Run

_EXIT = re.compile(r"\(exit code (\d+)\)(?:: )?(.*)", re.DOTALL)
_ATTEMPT = re.compile(r"(.*)\((\d+)\)", re.DOTALL)
_STOPPED = re.compile(r"(stopped|shutdown) with strategy", re.IGNORECASE)  # Argo, of a node of a stopped workflow
_NEXT = {
    75: "The cause was taken for temporary, and every retry is used up: when it is gone, retry the workflow.",
    78: "Trying again changes nothing: correct what the sentence names, then retry the workflow or submit it anew.",
    66: "Run the step that the sentence names, then retry the workflow.",
    137: "The container was killed, most often because it ran out of memory: give the step more, then retry the workflow.",
    143: "The pod was asked to end, and every retry is used up: retry the workflow.",
    1: "This is a bug of prefprobe: the log of the pod ends in a traceback.",
}
_TEMPORARY = (75, 137, 143)


def outcome(objects: ObjectStore, workflow: str, status: str, run_id: str, failures: str) -> dict[str, Any]:
    """The record of a workflow that has ended, as `workflows/<workflow>.json` holds it.

    `failures` is Argo's JSON list of failed nodes, plain or quoted once more; it names attempts too. A failure is a node
    that did not succeed in the end, told by its last attempt; what only contains a failed pod is left out. `attempts` are
    all others that failed. `run_id` is "" where the run was never started.
    """
    about: dict[str, Any] = {"workflow": workflow, "status": status, "run": run_id or None}
    about |= _failed(workflow, failures, succeeded=status == "Succeeded")
    about["steps"], about["claims"] = [], []
    if run_id:
        try:
            run = Run.open(objects.url, run_id)
            states = {name: run.state(node) for name, node in run.nodes.items()}
            about["steps"] = [
                {"node": n, "state": s.state, "parts": s.parts, "seconds": s.seconds} for n, s in states.items()
            ]
            if states["report"].state == "done":
                about["claims"] = read_json(objects.get(f"runs/{run_id}/report/verdict.json"))["claims"]
        except PrefprobeError as error:
            about["failures"].append({"node": "outcome", "code": error.exit_code, "message": str(error), "next": ""})
    return about


def write_outcome(objects: ObjectStore, about: dict[str, Any]) -> str:
    """Puts record and page into the store and returns the page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, Path(__file__).parents[1] / "report"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("outcome.html").render(**about, store=objects.url)
    objects.put(f"workflows/{about['workflow']}.json", json_bytes(about))
    objects.put(f"workflows/{about['workflow']}.html", page.encode())
    return page


def _failed(workflow: str, failures: str, succeeded: bool) -> dict[str, Any]:
    """What of the record comes from Argo's list: stopped, failures, attempts."""
    try:
        listed = json.loads(failures) if failures.strip() else []
        if isinstance(listed, str):
            listed = json.loads(listed)
    except json.JSONDecodeError:
        unread = {"node": "unknown", "code": None, "message": failures, "next": ""}
        return {"stopped": False, "failures": [unread], "attempts": []}
    nodes = {n["displayName"]: n for n in sorted(listed or [], key=lambda n: n["finishedAt"] or "")}
    stopped = not succeeded and any(_STOPPED.search(n["message"]) for n in nodes.values())
    attempts = {name: (match[1], int(match[2]) + 1) for name in nodes if (match := _ATTEMPT.fullmatch(name))}
    # the node that attempts belong to is in the list if none of them succeeded
    last = {node: name for name, (node, _) in attempts.items() if node in nodes}
    ended = list(last.values())
    # and a node may fail without any: its template is missing, or it was stopped while it waited for a GPU
    for name, node in nodes.items() if not succeeded else ():
        if node["message"] and name not in (*attempts, *last, workflow) and not node["message"].startswith("child "):
            ended.append(name)
    failed = [_told(nodes[name]) for name in ended]
    for each in failed:
        each["next"] = "" if stopped and each["code"] in _TEMPORARY else _NEXT.get(each["code"] or 0, "")
    repeated = [{**_told(nodes[name]), "attempt": k} for name, (_, k) in attempts.items() if name not in ended]
    return {"stopped": stopped, "failures": failed, "attempts": repeated}


def _told(node: dict[str, Any]) -> dict[str, Any]:
    match = _EXIT.search(node["message"])
    return {
        "node": _node_id(node["displayName"]),
        "code": int(match[1]) if match else None,
        "message": (match[2] if match else "") or node["message"],
    }


def _node_id(display_name: str) -> str:
    """`extract(3:extract.model.3)(1)`, the second attempt of an item, is the node `extract.model.3`."""
    item = re.match(r"[^(]+\(\d+:([^)]+)\)", display_name)
    return item[1] if item else display_name.partition("(")[0]
