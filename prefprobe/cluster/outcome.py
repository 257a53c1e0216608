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
_ATTEMPT = re.compile(r"\(\d+\)$")
_NEXT = {
    75: "The cause was taken for temporary, and every retry is used up: when it is gone, retry the workflow.",
    78: "Trying again changes nothing: correct what the sentence names, then retry the workflow or submit it anew.",
    66: "Run the step that the sentence names, then retry the workflow.",
    137: "The container was killed, most often because it ran out of memory: give the step more, then retry the workflow.",
    1: "This is a bug of prefprobe: the log of the pod ends in a traceback.",
}


def outcome(objects: ObjectStore, workflow: str, status: str, run_id: str, failures: str) -> dict[str, Any]:
    """The record of a workflow that has ended, as `workflows/<workflow>.json` holds it.

    `failures` is Argo's JSON list of failed nodes, plain or quoted once more. Of the attempts of a node, which are pods, the
    last is told; what only contains a failed pod is left out. `run_id` is "" where the run was never started.
    """
    about: dict[str, Any] = {
        "workflow": workflow,
        "status": status,
        "run": run_id or None,
        "failures": _failed(failures),
    }
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


def _failed(failures: str) -> list[dict[str, Any]]:
    try:
        listed = json.loads(failures) if failures.strip() else []
        if isinstance(listed, str):
            listed = json.loads(listed)
    except json.JSONDecodeError:
        return [{"node": "unknown", "code": None, "message": failures, "next": ""}]
    nodes = sorted(listed or [], key=lambda n: n["finishedAt"] or "")
    pods = [n for n in nodes if _ATTEMPT.search(n["displayName"])]
    found: dict[str, dict[str, Any]] = {}
    for node in pods or [n for n in nodes if n["message"]]:
        match = _EXIT.search(node["message"])
        code = int(match[1]) if match else None
        name = _node_id(node["displayName"])
        said = (match[2] if match else "") or node["message"]
        found[name] = {"node": name, "code": code, "message": said, "next": _NEXT.get(code or 0, "")}
    return list(found.values())


def _node_id(display_name: str) -> str:
    """`extract(3:extract.model.3)(1)`, the second attempt of an item, is the node `extract.model.3`."""
    item = re.match(r"[^(]+\(\d+:([^)]+)\)", display_name)
    return item[1] if item else display_name.partition("(")[0]
