"""Charts of what probes read: the study at a glance, layers, penalties, predictions, folds."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from prefprobe.findings import published
from prefprobe.numbers import count, number, shortened, significant
from prefprobe.report import rows as rows_of
from prefprobe.report.figures.axes import HOLLOW, ON_PAPER, beside, bounds, evenly, frame, gap, key, plain, sheet, zero
from prefprobe.report.figures.svg import (
    BASE,
    CONTROL,
    ENCODER,
    FG,
    GRID,
    MODEL,
    MUTED,
    PAPER,
    WIDTH,
    blank,
    panel,
    spread,
    text_width,
)

COLOURS = {"model": MODEL, "base": BASE, "encoder": ENCODER}
GROUPS = {
    "held_out_raw": "Held-out tasks",
    "held_out_demeaned": "Held-out tasks, topic means removed",
    "cross_topic": "Held-out topics, mean over folds",
}
_LINES = {"raw": ("raw", MODEL), "demeaned": ("means removed", ENCODER), "cross_topic": ("unseen topics", BASE)}


def overview(rows: rows_of.Rows) -> Figure:
    """Bars of r with their intervals and values, one block for each way of testing; diamonds are published values."""
    names = {row["label"]: shortened(row["label"], 28) for row in rows}
    left, right, pitch = text_width(list(names.values())) + 12, 50.0, 23.0
    groups = {group: [row for row in rows if row["group"] == group] for group in GROUPS}
    tall = sum(34 + pitch * len(of) for of in groups.values())
    figure = blank(34 + tall + 44)
    paper, axes = sheet(figure), panel(figure, left, 30, right, 44)
    low, high = bounds([row[k] for row in rows for k in ("value", "low", "high")], 0.0, 1.0)
    axes.set(xlim=(low, high), ylim=(tall + 4, 0), yticks=[], xlabel="Pearson r")
    axes.xaxis.set_major_locator(_r_ticks(low, high))
    plain(axes, "x")
    zero(axes, vertical=True)
    mark = {"marker": "D", "markersize": 6, "linestyle": "none", **HOLLOW}
    key(paper, 0, 14, [(mark, f"published, {published.SHORT}"), ({"color": FG, "linewidth": 1.6}, "95 % interval")])
    y, bars = 0.0, COLOURS | {"position": MODEL}
    for group, of in groups.items():
        paper.text(0, 30 + y + 20, GROUPS[group], weight="bold", va="center_baseline", bbox=ON_PAPER)
        y += 34
        for row in of:
            at = y + pitch / 2
            paper.text(left - 10, 30 + at, names[row["label"]], ha="right", va="center_baseline")
            paper.text(WIDTH, 30 + at, number(row["value"]), ha="right", va="center_baseline")
            if row["value"] is not None:
                axes.barh(at, row["value"], 14, color=bars.get(row["role"], CONTROL), alpha=0.7, zorder=2)
            if row["low"] is not None and row["high"] is not None:
                axes.plot([row["low"], row["high"]], [at, at], color=FG, linewidth=1.6, solid_capstyle="butt", zorder=4)
            if row["published"] is not None:
                axes.plot([row["published"]], [at], clip_on=False, zorder=5, **mark)
            y += pitch
    return figure


def layers(rows: rows_of.Rows) -> Figure:
    """Correlation by layer: raw, demeaned, and within topics that were not trained on; rings mark selected layers."""
    figure = blank(290)
    axes, paper = panel(figure, 36, 34, 116, 46), sheet(figure)
    low, high = bounds([row["r"] for row in rows], 0.0)
    known = sorted({row["layer"] for row in rows})
    axes.set(ylim=(low - 0.02, max(high, 0.2) + 0.02), xlabel="block", xticks=_ticks(known))
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    plain(axes, "y", baseline=False)
    zero(axes)
    paper.text(0, 14, "Pearson r", color=MUTED, va="center_baseline")
    ring: dict[str, Any] = {"marker": "o", "linestyle": "none", **HOLLOW}
    key(paper, 96, 14, [({**ring, "markersize": 9}, "selected on the other half of eval")])
    ends = []
    for target, (name, colour) in _LINES.items():
        of = [row for row in rows if row["target"] == target]
        axes.plot(
            [r["layer"] for r in of], gap([r["r"] for r in of]), color=colour, linewidth=2, marker="o", markersize=4.5
        )
        for row in of:
            if row["selected"] and row["r"] is not None:
                edge = {"markersize": 10, "markeredgecolor": colour, "markeredgewidth": 2.2}
                axes.plot([row["layer"]], [row["r"]], **{**ring, **edge})
        last = next((row["r"] for row in reversed(of) if row["r"] is not None), None)
        if last is not None:
            ends.append((last, name, colour))
    per_px = (axes.get_ylim()[1] - axes.get_ylim()[0]) / (290 - 80)
    for y, (_, name, colour) in zip(spread([end[0] for end in ends], 17 * per_px), ends, strict=True):
        beside(axes, y, name, colour)
    return figure


def alphas(rows: rows_of.Rows) -> Figure:
    """Correlation on the selection half by penalty: every layer thin, the selected one thick, its choice a dot."""
    figure = blank(400)
    paper = sheet(figure)
    values = sorted({row["alpha"] for row in rows})
    low, high = bounds([row["r_select"] for row in rows], 0.0)
    for index, (target, colour) in enumerate((("raw", MODEL), ("demeaned", ENCODER))):
        axes = panel(figure, 36, 34 + 180 * index, 32, 400 - 166 - 180 * index)
        of = [row for row in rows if row["target"] == target]
        for layer in sorted(
            {row["layer"] for row in of}, key=lambda x: any(r["selected_layer"] for r in of if r["layer"] == x)
        ):
            line = [row for row in of if row["layer"] == layer]
            best = line[0]["selected_layer"]
            style = (
                {"color": colour, "linewidth": 2.4, "zorder": 4}
                if best
                else {"color": CONTROL, "linewidth": 1.1, "alpha": 0.75}
            )
            axes.plot([r["alpha"] for r in line], gap([r["r_select"] for r in line]), **style)  # type: ignore[arg-type]
            chosen = next((r for r in line if best and r["chosen"] and r["r_select"] is not None), None)
            if chosen:
                axes.plot([chosen["alpha"]], [chosen["r_select"]], "o", color=colour, markersize=8, zorder=5)
        head = next(
            (row for row in of if row["selected_layer"] and row["chosen"] and row["r_select"] is not None), None
        )
        said = f": block {head['layer']}, α = {significant(head['alpha'])}" if head else ""
        name = "topic means removed" if target == "demeaned" else target
        paper.text(36, 18 + 180 * index, f"{name}{said}", color=colour, weight="bold", va="center_baseline")
        axes.set(xscale="log", xlim=(values[0] / 1.5, values[-1] * 1.5), ylim=(low - 0.02, max(high, 0.2) + 0.02))
        axes.minorticks_off()
        axes.set_xticks([a for a in values if np.isclose(np.log10(a) % 1, 0) or np.isclose(np.log10(a) % 1, 1)])
        axes.set_xticklabels([significant(a) for a in axes.get_xticks()] if index else [])
        axes.yaxis.set_major_locator(MultipleLocator(0.2))
        plain(axes, "y", baseline=False)
        zero(axes)
    axes.set_xlabel("ridge penalty α (standardised features)")
    return figure


def scatter(rows: rows_of.Rows) -> Figure:
    """Predicted against observed utility of each eval task; on the dashed line they would be equal."""
    figure = blank(400)
    axes, paper = panel(figure, 68, 14, 56, 50), sheet(figure)
    drawn = evenly([row for row in rows if row["target"] == "raw"])
    x, y = ([row[name] for row in drawn] for name in ("predicted", "observed"))
    reach = max((abs(v) for v in [*x, *y]), default=0.0) * 1.08 or 1.0
    axes.plot([-reach, reach], [-reach, reach], color=MUTED, linewidth=1.1, dashes=(4, 4), zorder=1)
    axes.plot(x, y, "o", color=MODEL, markersize=6, markeredgewidth=0, alpha=0.6 if len(drawn) < 400 else 0.35)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="predicted utility")
    paper.text(10, 14 + (400 - 64) / 2, "observed utility", color=MUTED, rotation=90, ha="center", va="center")
    axes.grid(color=GRID)
    frame(axes)
    return figure


def folds(rows: rows_of.Rows, roles: dict[str, str], labels: dict[str, str]) -> Figure:
    """Correlation within each held-out topic, sorted by the model's, for the model, its base and the encoders."""
    counts = {row["held_out"]: row["n"] for row in rows}
    names = [name for name in labels if roles[name] in COLOURS]
    by_topic = {name: rows_of.by_topic(rows, name) for name in names}
    model = by_topic["model"]
    order = sorted(model, key=lambda topic: (model[topic] is None, -(model[topic] or 0.0), topic))
    shorts = [shortened(topic, 22) for topic in order]
    left, right, pitch = text_width(shorts) + 16, 46.0, 24.0
    figure = blank(40 + pitch * len(order) + 46)
    axes, paper = panel(figure, left, 40, right, 46), sheet(figure)
    low, high = bounds([r for of in by_topic.values() for r in of.values()], 0.0, 1.0)
    axes.set(xlim=(low, high), ylim=(len(order) - 0.5, -0.5), yticks=[], xlabel="Pearson r within the held-out topic")
    axes.xaxis.set_major_locator(_r_ticks(low, high))
    plain(axes, "x")
    zero(axes, vertical=True)
    items = [(_dot(roles[name]), shortened(labels[name], 28)) for name in names]
    key(paper, 0, 14, items)
    paper.text(
        WIDTH, 14, "tasks" if set(order) == set(counts) else "folds", color=MUTED, ha="right", va="center_baseline"
    )
    for name in reversed(names):  # the model on top
        known = [(r, i) for i, r in enumerate(by_topic[name].get(topic) for topic in order) if r is not None]
        axes.plot([r for r, _ in known], [i for _, i in known], clip_on=False, zorder=3, **_dot(roles[name]))
    for i, (topic, short) in enumerate(zip(order, shorts, strict=True)):
        y = 40 + pitch * (i + 0.5)
        n = counts.get(topic, sum(topic in held_out.split(" + ") for held_out in counts))
        paper.text(left - 12, y, short, ha="right", va="center_baseline")
        paper.text(WIDTH, y, count(n), color=MUTED, ha="right", va="center_baseline")
        if model[topic] is None:
            paper.text(left + 8, y, "not estimable", color=MUTED, va="center_baseline")
    return figure


def _dot(role: str) -> dict[str, Any]:
    solid = {"marker": "o", "linestyle": "none", "markersize": 9, "color": MODEL, "markeredgewidth": 0}
    edge = {"markersize": 7, "markerfacecolor": PAPER, "markeredgecolor": COLOURS[role], "markeredgewidth": 1.8}
    return solid if role == "model" else solid | edge


def _r_ticks(low: float, high: float) -> MultipleLocator:
    return MultipleLocator(0.2 if high - low < 1.3 else 0.5)


def _ticks(known: list[int]) -> list[int]:
    """Every measured layer, or every other one where they are many."""
    step = -(-len(known) // 12)
    return known[::-1][::step][::-1]
