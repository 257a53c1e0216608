"""Short tables for the terminal."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from prefprobe.numbers import interval, number, p_value
from prefprobe.store.formats import read_json
from prefprobe.study.run import Run

_WIDEST = 116
"""Characters that the longest line of claims takes: a terminal that is not as wide breaks it."""


def show_summary(run: Run, seconds: float) -> None:
    """The claims of a finished run, and where its report is."""
    report = f"runs/{run.id}/report"
    verdict = read_json(run.objects.get(f"{report}/verdict.json"))
    names = ("claim", "this run", "95 %", "published", "p (Holm)")
    table = Table(*(Column(name, no_wrap=True) for name in names), "verdict", box=None, pad_edge=False)
    for claim in verdict["claims"]:
        published = next(iter((claim["published"] or {}).values()), None)
        shown = (
            _number(claim["value"]),
            interval(claim["low"], claim["high"]),
            _number(published),
            _p(claim["p_holm"]),
        )
        table.add_row(claim["id"], *shown, claim["verdict"])
    console = Console(highlight=False, width=max(_WIDEST, Console().width))
    console.print(table)
    console.print(
        f"done in {number(seconds, 1)} s; report: {run.objects.describe(f'{report}/index.html')}", soft_wrap=True
    )


def show_status(run: Run) -> None:
    """One row a node: how far it is, its key, its seconds."""
    table = Table("step", "state", "key", "seconds", box=None, pad_edge=False)
    states = {node.id: run.state(node) for node in run.nodes.values()}
    for name, s in states.items():
        parts = f"{s.parts} part{'s' * (s.parts != 1)}"
        state = {"part": parts, "waiting": "waits for an input"}.get(s.state, s.state)
        table.add_row(name, state, (s.key or "")[:12], _number(s.seconds, 1))
    console = Console(highlight=False)
    console.print(table)
    gpu_hours = sum(s.gpu_seconds for s in states.values()) / 3600
    spent = f", in {number(gpu_hours, 2)} GPU hours" if gpu_hours else ""
    done = sum(s.state == "done" for s in states.values())
    console.print(f"{done} of {len(states)} steps are done{spent}", soft_wrap=True)


def differences(here: Run, there: Run, node: str) -> Iterator[str]:
    """What differs between the records that a node's key is made of, one line a value."""
    if node not in there.nodes:
        yield f"{node}: run {there.id} has no such step"
        return
    mine, other = here.record(here.nodes[node]), there.record(there.nodes[node])
    if mine is None or other is None:
        yield f"{node}: an input is missing in run {here.id if mine is None else there.id}; run the steps before it first"
        return
    old, new = _flat(other), _flat(mine)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if not changed:
        yield f"{node}: same key"
    for key in changed:
        of, _, name = key.partition(" › ")
        of_input = of == "inputs" and name in here.nodes and name in there.nodes
        more = f" (`prefprobe explain {name}` says why)" if of_input else ""
        yield f"{node}: {key}: {old.get(key, 'absent')} → {new.get(key, 'absent')}{more}"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        k: v for name, inner in value.items() for k, v in _flat(inner, f"{prefix} › {name}" if prefix else name).items()
    }


def _p(value: float | None) -> str:
    return "" if value is None else p_value(value)


def _number(value: float | None, digits: int = 3) -> str:
    """Nothing where there is no value, in a table that is looked at once."""
    return "" if value is None else number(value, digits)
