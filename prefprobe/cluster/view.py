"""How a person follows a workflow: bars on a terminal, a line for every change anywhere else."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from prefprobe.cluster.nodes import ENDED, PodNode, Trouble, failure, phase, pod_nodes
from prefprobe.cluster.workflows import Workflows, patiently
from prefprobe.errors import PrefprobeError

EVERY = 2.0  # seconds between looks
PATIENCE = 10.0
"""Seconds that a pod may take to start before Kubernetes' warnings of it are shown, and between looks for them."""
_MARK = {"Succeeded": "done", "Failed": "failed", "Error": "failed", "Running": "runs", "Pending": "waits"}


def watch(workflows: Workflows, name: str, console: Console) -> None:
    """Show a workflow until it has ended. Raises WorkflowFailed if it ended badly."""
    seen: dict[str, tuple[object, ...]] = {}
    waits = _Waits(workflows)
    with _bars(console) as bars:
        tasks: dict[str, TaskID] = {}
        while True:
            workflow = patiently(lambda: workflows.get(name))
            for node in pod_nodes(workflow):
                trouble = waits.trouble(node)
                state = (node.phase, node.attempt, trouble.reason if trouble else _reason(node))
                if seen.get(node.id) != state:
                    seen[node.id] = state
                    console.print(_line(node, trouble), markup=False)
                if bars is not None:
                    _show(bars, tasks, node)
            if phase(workflow) in ENDED:
                break
            time.sleep(EVERY)
    ended = failure(workflow)
    if ended is not None:
        raise ended
    console.print(f"{name} succeeded", markup=False)


class _Waits:
    """What keeps the pods that have not started."""

    def __init__(self, workflows: Workflows) -> None:
        self._workflows = workflows
        self._since: dict[tuple[str, int], float] = {}
        self._looked = 0.0
        self._found: dict[str, Trouble] = {}

    def trouble(self, node: PodNode) -> Trouble | None:
        """Of a node whose pod has not started for a while; None if there is none, or none can be known."""
        now = time.monotonic()
        if node.phase != "Pending" or now - self._since.setdefault((node.id, node.attempt), now) < PATIENCE:
            return None
        if now - self._looked >= PATIENCE:
            self._looked = now
            with suppress(PrefprobeError):  # an account that may see workflows may not see events
                self._found = self._workflows.troubles()
        return self._found.get(node.pod)


def _reason(node: PodNode) -> str:
    """The word with which Argo says what a node waits for, such as ErrImageNeverPull; "" of one that does not wait."""
    return node.message.partition(":")[0] if node.phase == "Pending" else ""


def _line(node: PodNode, trouble: Trouble | None) -> str:
    again = f" (attempt {node.attempt})" if node.attempt > 1 else ""
    where = f" on {node.host}" if node.host and node.phase == "Running" else ""
    message = trouble.message if trouble else node.message if node.phase != "Succeeded" else ""
    why = f": {message}" if message else ""
    return f"{node.id:<24} {_MARK.get(node.phase, node.phase)}{where}{again}{why}"


@contextmanager
def _bars(console: Console) -> Iterator[Progress | None]:
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, console=console, transient=True) as bars:
        yield bars


def _show(bars: Progress, tasks: dict[str, TaskID], node: PodNode) -> None:
    done, _, total = node.progress.partition("/")
    if node.phase == "Running" and total.isdigit():
        if node.id not in tasks:
            tasks[node.id] = bars.add_task(node.id, total=int(total))
        bars.update(tasks[node.id], completed=int(done), total=int(total))
    elif node.id in tasks:
        bars.remove_task(tasks.pop(node.id))
