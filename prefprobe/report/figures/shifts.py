"""Charts of the system-prompt experiments: how much moved, and whether probe scores moved along."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefprobe.numbers import number, shortened
from prefprobe.report.figures.axes import ON_PAPER, evenly, frame, key, plain, sheet
from prefprobe.report.figures.svg import BASE, CONTROL, ENCODER, FG, GRID, MODEL, MUTED, WIDTH, blank, panel, text_width
from prefprobe.report.rows import Rows

_SOLID: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 7, "markeredgewidth": 0, "alpha": 0.85}
_OPEN: dict[str, Any] = {**_SOLID, "markerfacecolor": "none", "markeredgecolor": CONTROL}
KINDS: dict[str, dict[str, Any]] = {
    "off target": {**_OPEN, "markersize": 5, "markeredgewidth": 1.1},
    "torn": {**_SOLID, "color": BASE, "marker": "D", "markersize": 6},
    "meant to rise": {**_SOLID, "color": MODEL},
    "meant to fall": {**_SOLID, "color": ENCODER, "marker": "s", "markersize": 6.5},
}
"""The marks of a shift scatter, in the order in which they are drawn. A prompt pulls a torn task both ways."""


def effects(rows: Rows) -> Figure:
    """Root-mean-square Δp on and off target by experiment, over a bar that is what neutral paraphrases of the baseline do."""
    names = [row["experiment"] for row in rows]
    shorts = [shortened(name, 20) for name in names]
    left, right, pitch = text_width(shorts) + 14, 60.0, 30.0
    figure = blank(58 + pitch * len(rows) + 46)
    axes, paper = panel(figure, left, 58, right, 46), sheet(figure)
    known = [row[k] for row in rows for k in ("rms_on_target", "rms_off_target", "noise") if row[k] is not None]
    axes.set(xlim=(0, max(known, default=0.0) * 1.12 or 0.01), ylim=(len(rows) - 0.5, -0.5), yticks=[])
    axes.set_xlabel("root mean square of Δp")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    plain(axes, "x")
    on = {**_SOLID, "color": MODEL, "markersize": 9}
    off = {**_OPEN, "markeredgewidth": 1.8, "markersize": 7}
    noise: dict[str, Any] = {"color": GRID, "linewidth": 13, "solid_capstyle": "butt"}
    key(paper, 0, 14, [(on, "on target"), (off, "off target"), (noise, "neutral paraphrases")])
    paper.text(WIDTH, 42, "on / neutral", color=MUTED, ha="right", va="center_baseline")
    for i, row in enumerate(rows):
        y = 58 + pitch * (i + 0.5)
        paper.text(left - 12, y, shorts[i], ha="right", va="center_baseline")
        paper.text(WIDTH, y, number(row["signal_to_noise"], 1), ha="right", va="center_baseline", color=FG)
        if row["noise"] is not None:
            axes.plot([0, row["noise"]], [i, i], zorder=1, **noise)
        for column, style in (("rms_off_target", off), ("rms_on_target", on)):
            if row[column] is not None:
                axes.plot([row[column]], [i], zorder=3, **style)
    return figure


def scatter(rows: Rows, found: dict[str, Any]) -> Figure:
    """Δs over Δp, a mark for every (system prompt, task), and the on-target fit where r is estimable."""
    figure = blank(372)
    axes, paper = panel(figure, 76, 36, 12, 50), sheet(figure)
    drawn = evenly(sorted(rows, key=lambda row: (list(KINDS).index(_kind(row)), row["prompt_id"], row["task_id"])))
    noise = found["effect"]["noise"]
    reach = max([abs(row["dp"]) for row in rows] + [1.5 * (noise or 0.0)], default=0.0) * 1.1 or 0.01
    tall = max((abs(row["ds"]) for row in rows), default=0.0) * 1.1 or 0.01
    axes.set(
        xlim=(-reach, reach),
        ylim=(-1.2 * tall, tall),
        xlabel="Δp, change in choices",
    )
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(color=GRID)
    frame(axes)
    paper.text(10, 36 + (372 - 86) / 2, "Δs, change in probe score", color=MUTED, rotation=90, ha="center", va="center")
    axes.axhline(0, color=MUTED, linewidth=1.0, zorder=1)
    axes.axvline(0, color=MUTED, linewidth=1.0, zorder=1)
    for name, style in KINDS.items():
        of = [row for row in drawn if _kind(row) == name]
        axes.plot([row["dp"] for row in of], [row["ds"] for row in of], zorder=3, **style)
    there = {_kind(row) for row in drawn}
    key(paper, 0, 14, [(KINDS[name], name) for name in reversed(KINDS) if name in there])
    slope, intercept = found["fit"]["slope"], found["fit"]["intercept"]
    if found["estimable"] and slope is not None:
        on_target = [row["dp"] for row in rows if row["on_target"]]
        ends = np.array([min(on_target), max(on_target)])
        axes.plot(ends, intercept + slope * ends, color=FG, linewidth=1.6, zorder=4)
    if noise:
        y = -1.11 * tall  # below all points
        axes.plot(
            [-reach * 0.93, -reach * 0.93 + 2 * noise], [y, y], color=FG, linewidth=2, solid_capstyle="butt", zorder=5
        )
        axes.annotate("± neutral paraphrases", (-reach * 0.93 + 2 * noise, y), (7, 0), textcoords="offset points",
                      color=MUTED, va="center_baseline", zorder=5, bbox=ON_PAPER)  # fmt: skip
    return figure


def _kind(row: dict[str, Any]) -> str:
    if not row["on_target"]:
        return "off target"
    return "torn" if row["intended"] == 0 else "meant to rise" if row["intended"] > 0 else "meant to fall"
