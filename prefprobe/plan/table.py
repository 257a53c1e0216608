"""A plan as a table for the terminal, and as JSON for scripts."""

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from prefprobe.numbers import MISSING, count, rough, rough_dollars, rough_hours, rough_size
from prefprobe.plan.needs import Line, Need
from prefprobe.plan.shifts import Shows
from prefprobe.store.formats import json_bytes

WIDTH = 100
"""Columns where there is no terminal to tell."""
_HEADS = (
    "tasks",
    "pairs,\nleast",
    "pairs,\nmost",
    "requests",
    "prompt\ntokens",
    "answer\ntokens",
    "dollars",
    "GPU\nhours",
)
_SHOWN: dict[str, Callable[[Any], str]] = {
    "prompt_tokens": rough,
    "completion_tokens": rough,
    "dollars": rough_dollars,
    "gpu_hours": rough_hours,
    "bytes": rough_size,
}
"""How estimates are shown; the others are counted."""


def show_plan(name: str, lines: list[Line], remarks: list[str]) -> None:
    """The table, its total, and the remarks below it."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("step", overflow="fold")  # numbers are never cut
    table.add_column("nodes", no_wrap=True)
    for head in (*_HEADS, "storage"):
        table.add_column(head, justify="right", no_wrap=True)
    for line in lines:
        several = f" × {line.gpus}" if line.gpus and line.gpus > 1 else ""
        table.add_row(line.step, f"{len(line.needs)} {line.node}{several}", *_cells(line.need))
    nodes = str(sum(len(line.needs) for line in lines))
    table.add_row("in all", nodes, "", *_cells(total(lines))[1:], style="bold")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(f"{name}: what a run takes at most; – is nothing, ? is unknown", markup=False)
    console.print(table)
    for remark in remarks:
        console.print(remark, markup=False)


def plan_json(name: str, lines: list[Line], remarks: list[str], shows: list[Shows]) -> str:
    """The same numbers: null is unknown, `gpus` are of each node, storage is in `bytes`; and what every experiment can show."""
    steps = [
        {"step": line.step, "node": line.node, "nodes": len(line.needs), "gpus": line.gpus, **asdict(line.need)}
        for line in lines
    ]
    all_: dict[str, Any] = {"nodes": sum(len(line.needs) for line in lines), **asdict(total(lines))}
    del all_["tasks"]
    found = {"preset": name, "steps": steps, "total": all_, "shifts": list(map(asdict, shows)), "remarks": remarks}
    return json_bytes(found).decode()


def total(lines: list[Line]) -> Need:
    """All lines together; the same tasks are in several of them, so that their sum says nothing."""
    return sum((line.need for line in lines), Need())


def _cells(need: Need) -> list[str]:
    return [_cell(getattr(need, f.name), _SHOWN.get(f.name, count)) for f in fields(need)]


def _cell(value: float | None, shown: Callable[[float], str]) -> str:
    return "?" if value is None else MISSING if value == 0 else shown(value)
