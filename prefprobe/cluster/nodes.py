"""What a workflow's status says of the study's nodes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prefprobe.errors import PrefprobeError, TemporaryFailure

ENDED = ("Succeeded", "Failed", "Error")
_SAYS_LESS = re.compile(r"Error: \w+$")  # than the warning beside it, which names image and cause


class WorkflowFailed(PrefprobeError):
    """A workflow that ended badly; its exit code is that of the node that failed."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class PodNode:
    """The last attempt of one node of the study."""

    id: str
    """Such as `extract.model.3`; `start` and `outcome` are the workflow's own."""
    template: str
    """The Argo template that runs it, such as `extract`, or `measure-api` where an API is asked."""
    node_id: str
    """Argo's id."""
    pod: str
    phase: str
    progress: str
    host: str
    attempt: int
    code: str
    message: str


def pod_nodes(workflow: dict[str, Any]) -> list[PodNode]:
    """One of each node, in the order of their first attempts."""
    name = workflow["metadata"]["name"]
    found: dict[str, PodNode] = {}
    nodes = (workflow.get("status") or {}).get("nodes") or {}
    for node in sorted(nodes.values(), key=lambda n: (n.get("startedAt") or "", _attempt(n["displayName"]))):
        if node["type"] != "Pod":
            continue
        template = node.get("templateName") or node["templateRef"]["template"]
        given = {p["name"]: p.get("value") for p in (node.get("inputs") or {}).get("parameters") or []}
        id_ = given.get("node") or template
        found[id_] = PodNode(
            id=id_,
            template=template,
            node_id=node["id"],
            pod=_pod(name, node, template),
            phase=node.get("phase") or "Pending",
            progress=node.get("progress") or "",
            host=node.get("hostNodeName") or "",
            attempt=_attempt(node["displayName"]) + 1,
            code=(node.get("outputs") or {}).get("exitCode", ""),
            message=node.get("message") or "",
        )
    return list(found.values())


def template_of(workflow: dict[str, Any], step: str) -> str:
    """The template that ran `step`, or a node of it, in this workflow; the step's own name if none has."""
    name = step.partition(".")[0]
    ran = {node.template for node in pod_nodes(workflow) if node.id.partition(".")[0] == name}
    return next(iter(ran), name)


def phase(workflow: dict[str, Any]) -> str:
    """Pending, Running, Succeeded, Failed or Error."""
    return (workflow.get("status") or {}).get("phase") or "Pending"


def run_id(workflow: dict[str, Any]) -> str | None:
    """The run that the workflow works on, None before it is known."""
    for node in ((workflow.get("status") or {}).get("nodes") or {}).values():
        for parameter in (node.get("outputs") or {}).get("parameters") or []:
            if parameter["name"] == "run" and parameter.get("value"):
                return str(parameter["value"])
    given = {p["name"]: p.get("value") for p in (workflow["spec"].get("arguments") or {}).get("parameters") or []}
    return given.get("run") or None


def failure(workflow: dict[str, Any]) -> WorkflowFailed | None:
    """What to tell of a workflow that has ended badly."""
    if phase(workflow) not in ("Failed", "Error"):
        return None
    name = workflow["metadata"]["name"]
    if workflow["spec"].get("shutdown"):
        said = "submit it again, as `prefprobe cluster rerun` does: what is finished is in the store"
        return WorkflowFailed(f"{name} was stopped; {said}.", TemporaryFailure.exit_code)
    failed = [n for n in pod_nodes(workflow) if n.phase in ("Failed", "Error")]
    told = [f"{n.id}: {re.sub(r'^main: Error ', '', n.message)}" for n in failed]
    codes = [int(n.code) for n in failed if n.code.isdigit()]
    said = "; ".join(told) or workflow["status"].get("message") or "no node says why"
    return WorkflowFailed(f"{name} failed: {said}", next((c for c in codes if c in (75, 66, 78)), 1))


@dataclass(frozen=True)
class Trouble:
    """What Kubernetes warned of last, of a pod."""

    reason: str
    """One word, such as FailedMount."""
    message: str


def troubles(events: Iterable[dict[str, Any]]) -> dict[str, Trouble]:
    """{pod: trouble}, by the warnings among the events of a namespace."""
    found: dict[str, Trouble] = {}
    for event in sorted(events, key=_time):
        pod, message = event["involvedObject"].get("name", ""), event.get("message") or ""
        if event.get("type") == "Warning" and not (pod in found and _SAYS_LESS.match(message)):
            found[pod] = Trouble(event.get("reason") or "", message)
    return found


def _time(event: dict[str, Any]) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")


def _attempt(display_name: str) -> int:
    match = re.search(r"\((\d+)\)$", display_name)
    return int(match[1]) if match else 0


def _pod(workflow: str, node: dict[str, Any], template: str) -> str:
    """Argo names a pod after workflow, template and a hash that ends the node's id; a workflow of one pod after itself."""
    return workflow if node["id"] == workflow else f"{workflow}-{template}-{node['id'].rpartition('-')[2]}"
