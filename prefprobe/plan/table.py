"""A plan as a table for the terminal, and as JSON for scripts."""

import math
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from prefprobe.plan.needs import Line, Need
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


def show_plan(name: str, lines: list[Line], remarks: list[str]) -> None:
    """The table, its total, and the remarks below it."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("step", overflow="fold")  # numbers are never cut
    table.add_column("nodes", no_wrap=True)
    for head in (*_HEADS, "storage"):
        table.add_column(head, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(line.step, f"{len(line.needs)} {line.node}", *_cells(line.need))
    nodes = str(sum(len(line.needs) for line in lines))
    table.add_row("in all", nodes, "", *_cells(total(lines))[1:], style="bold")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(f"{name}: what a run takes at most; – is nothing, ? is unknown", markup=False)
    console.print(table)
    for remark in remarks:
        console.print(remark, markup=False)


def plan_json(name: str, lines: list[Line], remarks: list[str]) -> str:
    """The same numbers: null is unknown, storage is in `bytes`."""
    steps = [{"step": line.step, "node": line.node, "nodes": len(line.needs), **asdict(line.need)} for line in lines]
    all_: dict[str, Any] = {"nodes": sum(len(line.needs) for line in lines), **asdict(total(lines))}
    del all_["tasks"]
    return json_bytes({"preset": name, "steps": steps, "total": all_, "remarks": remarks}).decode()


def total(lines: list[Line]) -> Need:
    """All lines together; the same tasks are in several of them, so that their sum says nothing."""
    return sum((line.need for line in lines), Need())


def count(value: float) -> str:
    """A number to three digits: 123, 45.6 k, 7.8 M."""
    if value < 1000:
        return f"{value:.0f}"
    return _scaled(value, ("k", "M", "B", "T"))


def tokens(value: float) -> str:
    """A number of tokens, with the word."""
    return f"{count(value)} tokens"


def dollars(value: float) -> str:
    """Two decimals, and never 0 for something."""
    return f"${value:,.2f}" if value >= 0.01 else "<$0.01"


def size(value: float) -> str:
    """Bytes as B, kB, MB, GB or TB."""
    return _scaled(value, ("kB", "MB", "GB", "TB")) if value >= 1000 else f"{value:.0f} B"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    """`value` in the first unit in which it is below 1000; each is a thousand of the one before."""
    power = min(len(units), int(math.log10(value * 1.0005)) // 3)
    scaled = value / 1000**power
    return f"{scaled:,.{1 if scaled < 99.95 else 0}f} {units[power - 1]}"


def _cells(need: Need) -> list[str]:
    shown = {"prompt_tokens": count, "completion_tokens": count, "dollars": dollars, "gpu_hours": _hours, "bytes": size}
    return [_cell(getattr(need, f.name), shown.get(f.name, "{:,}".format)) for f in fields(need)]


def _cell(value: float | None, shown: Callable[[float], str]) -> str:
    return "?" if value is None else "–" if value == 0 else shown(value)


def _hours(value: float) -> str:
    return f"{value:,.2f}" if value >= 0.01 else "<0.01"
