"""The pictures of the concepts, drawn like the report's and from the suite's own functions; worlds are planted."""

import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from scipy.special import expit
from scipy.stats import norm

from prefprobe.numbers import number, signed
from prefprobe.probes.heldout import HeldoutResult, heldout_probe
from prefprobe.report.figures import probes, shifts
from prefprobe.report.figures.axes import plain, sheet
from prefprobe.report.figures.svg import (
    BAND,
    CONTROL,
    ENCODER,
    FG,
    GRID,
    MODEL,
    MUTED,
    PALETTE,
    PAPER,
    WIDTH,
    blank,
    draw,
    panel,
)
from prefprobe.report.rows import Rows
from prefprobe.shift.points import POINTS
from prefprobe.shift.statistics import shift_statistics
from prefprobe.thurstonian.observations import merge_logits

DEMO = Path(__file__).parent / "demo"
_MIDDLE: dict[str, Any] = {"ha": "center", "va": "center_baseline"}


def chain() -> Figure:
    """The five things that a study makes, each out of the one before."""
    figure = blank(132)
    paper = sheet(figure)
    names = ("choice", "utility", "activation", "probe", "shift")
    small = ("A or B?", "μ, σ", "after block L", "x · w + b", "Δp and Δs")
    for i, (name, under) in enumerate(zip(names, small, strict=True)):
        x = WIDTH * (i + 0.5) / 5
        paper.add_patch(Rectangle((x - 30, 8), 60, 60, facecolor=BAND, edgecolor="none"))
        paper.text(x, 88, name, color=FG, weight="bold", **_MIDDLE)
        paper.text(x, 110, under, color=MUTED, fontsize=11.5, **_MIDDLE)
        if i:
            _arrow(paper, (x - 62, 38), (x - 34, 38))
    at = [WIDTH * (i + 0.5) / 5 for i in range(5)]
    for x, filled in ((at[0] - 12, True), (at[0] + 12, False)):
        box: dict[str, Any] = {"facecolor": MODEL if filled else PAPER, "edgecolor": MODEL, "linewidth": 1.5}
        paper.add_patch(Rectangle((x - 9, 24), 18, 28, **box))
    paper.plot([at[1] - 24, at[1] + 24], [48, 48], color=MUTED, linewidth=1.5)
    for offset, size in ((-18, 4), (-4, 6), (3, 5), (19, 8)):
        paper.plot([at[1] + offset], [48 - 2 * size], marker="o", markersize=size, color=MODEL, markeredgewidth=0)
        paper.plot([at[1] + offset] * 2, [48, 48 - 2 * size], color=MODEL, linewidth=1)
    for row in range(5):
        for column in range(4):
            on = row == 1 and column == 3
            box = {"facecolor": MODEL if on else PAPER, "edgecolor": MODEL if on else CONTROL, "linewidth": 1}
            paper.add_patch(Rectangle((at[2] - 22 + 11.5 * column, 14 + 10 * row), 8, 7, **box))
    rng = np.random.default_rng(2)
    along = np.linspace(-18, 18, 13)
    paper.scatter(at[3] + along, 38 - along * 0.9 + 5 * rng.normal(size=13), s=16, color=CONTROL, linewidths=0)
    _arrow(paper, (at[3] - 22, 58), (at[3] + 23, 17), colour=MODEL)
    for y, colour, head in ((30, MODEL, 20), (46, ENCODER, -20)):
        _arrow(paper, (at[4] - 0.9 * head, y), (at[4] + head, y), colour=colour)
    return figure


def choice() -> Figure:
    """What the mean of both orders' logits leaves: the preference, without the position."""
    preference, bias = 0.5, 1.2
    shown = (("poem first", preference + bias), ("sum first", preference - bias))
    _, _, _, (debiased,), _ = merge_logits(["poem", "sum"], ["sum", "poem"], [shown[0][1], -shown[1][1]])
    bars = [(name, logit, CONTROL) for name, logit in shown] + [("both orders", float(debiased), MODEL)]
    figure = blank(186)
    axes, paper = panel(figure, 92, 34, 104, 50), sheet(figure)
    axes.set(xlim=(0, 1), ylim=(2.6, -0.6), yticks=[], xticks=[0, 0.5, 1], xlabel="P(the poem is chosen)")
    plain(axes, "x")
    for x, head in ((WIDTH - 56, "P"), (WIDTH, "logit")):
        paper.text(x, 16, head, color=MUTED, ha="right", va="center_baseline")
    for i, (name, logit, colour) in enumerate(bars):
        p, y = float(expit(logit)), 34 + 102 * (i + 0.6) / 3.2
        axes.barh([i], [p], height=0.56, color=colour, zorder=2)
        paper.text(82, y, name, ha="right", va="center_baseline")
        paper.text(WIDTH - 56, y, number(p, 2), ha="right", va="center_baseline")
        paper.text(WIDTH, y, signed(logit, 1), ha="right", va="center_baseline")
    axes.axvline(0.5, color=MUTED, linewidth=1, zorder=3)
    return figure


def utility() -> Figure:
    """Two tasks as normal distributions, and the share of draws in which one is above the other."""
    tasks = (("sum", -0.6, 0.9, ENCODER), ("poem", 0.7, 0.7, MODEL))
    (_, low, s, _), (_, high, t, _) = tasks
    p = float(norm.cdf((high - low) / np.hypot(s, t)))
    figure = blank(210)
    axes, paper = panel(figure, 12, 34, 12, 50), sheet(figure)
    axes.set(xlim=(-3.6, 3.6), ylim=(0, 0.68), yticks=[], xlabel="utility U, in units of a typical σ")
    plain(axes, "x")
    x = np.linspace(-3.6, 3.6, 121)
    for name, mu, sigma, colour in tasks:
        y = norm.pdf(x, mu, sigma)
        axes.fill_between(x, y, color=colour, alpha=0.22, linewidth=0)
        axes.plot(x, y, color=colour, linewidth=2)
        axes.plot([mu, mu], [0, norm.pdf(0) / sigma], color=colour, linewidth=1)
        text = f"{name}\nμ = {signed(mu, 1)}\nσ = {number(sigma, 1)}"
        axes.text(np.copysign(3.5, mu), 0.36, text, color=colour, ha="right" if mu > 0 else "left")
    said = f"P(poem over sum) = Φ((μ − μ′) / √(σ² + σ′²)) = {p:.2f}"
    paper.text(WIDTH / 2, 12, said, color=FG, **_MIDDLE)
    return figure


def activation() -> Figure:
    """Tokens across, blocks upwards: what is kept is the residual stream at the last token after some blocks."""
    tokens, blocks, kept = ("<user>", "Write", "a", "poem", "<model>"), 9, (2, 5, 8)
    figure = blank(258)
    paper = sheet(figure)
    left, top, width, height, pitch = 78.0, 14.0, 44.0, 15.0, 22.0
    for column, token in enumerate(tokens):
        x = left + 58 * column
        for block in range(blocks):
            y = top + pitch * (blocks - 1 - block)
            on = column == len(tokens) - 1 and block in kept
            box: dict[str, Any] = {"facecolor": MODEL if on else BAND, "edgecolor": "none"}
            paper.add_patch(Rectangle((x, y), width, height, **box))
        paper.plot([x + width / 2] * 2, [top, top + pitch * blocks + 4], color=GRID, linewidth=1, zorder=0)
        paper.text(x + width / 2, top + pitch * blocks + 16, token, color=FG, fontsize=12, **_MIDDLE)
    for block in (0, 4, 8):
        paper.text(
            left - 12,
            top + pitch * (blocks - 1 - block) + height / 2,
            f"block {block}",
            color=MUTED,
            ha="right",
            va="center_baseline",
        )
    for block in kept:
        y = top + pitch * (blocks - 1 - block) + height / 2
        _arrow(paper, (left + 58 * 4 + width + 4, y), (WIDTH - 52, y), colour=MODEL)
        paper.text(WIDTH - 48, y, f"layer_{block}", color=FG, fontsize=11.5, va="center_baseline")
    paper.text(
        left + 58 * 4 + width / 2,
        top + pitch * blocks + 34,
        "last token of the prompt",
        color=MUTED,
        ha="center",
        va="center_baseline",
    )
    return figure


@cache
def planted() -> HeldoutResult:
    """A probe of planted utilities: activations hold the utility along one direction, under louder ones."""
    rng = np.random.default_rng(5)
    ids = np.array([f"t{i:03d}" for i in range(400)])
    mu = rng.normal(size=400)
    loud = 2.0 * rng.normal(size=(400, 12))  # what else varies: it hides the utility in each coordinate by itself
    features = np.hstack([loud + mu[:, None], loud + 1.5 * rng.normal(size=(400, 12))])
    topics = dict(zip(ids.tolist(), (f"topic {i % 4}" for i in range(400)), strict=True))
    utilities = dict(zip(ids.tolist(), mu.tolist(), strict=True))
    train, eval_ = dict(list(utilities.items())[:280]), dict(list(utilities.items())[280:])
    a, b = rng.choice(list(eval_), size=(2, 300))
    p_a = expit([eval_[i] - eval_[j] for i, j in zip(a, b, strict=True)])
    return heldout_probe({9: features}, ids, train, eval_, topics, (a, b, p_a), permutations=0)


def probe() -> Figure:
    """Observed over predicted utility of tasks that the planted probe never saw."""
    return probes.scatter([row for row in planted().predictions.to_pylist() if row["target"] == "raw"])


def shift() -> Figure:
    """A planted experiment: six prompts that love or hate one of three things, ten tasks each."""
    rows = _moved()
    points = pa.Table.from_pylist(rows, schema=POINTS)
    return shifts.scatter(rows, shift_statistics(points, encoder=None, permutations=2)["planted"])


def _moved() -> Rows:
    rng, rows = np.random.default_rng(3), []
    for prompt in range(6):
        for task in range(9):
            on, sign = task % 3 == prompt // 2, 1 if prompt % 2 else -1
            moved = (0.9 * sign if on else 0.0) + 0.12 * rng.normal()
            base = rng.normal(0, 0.5)
            before, after = float(expit(base)), float(expit(base + moved))
            row = {"experiment": "planted", "prompt_id": f"p{prompt}", "task_id": f"t{task}", "on_target": on}
            row |= {"intended": sign if on else 0, "neutral": False, "n": 8, "p_baseline": before, "p_prompt": after}
            row |= {"dp": after - before, "dp_se": 0.015}
            rows.append(row | {"ds": float(moved + 0.1 * rng.normal()), "ds_encoder": None})
    return rows


def _arrow(paper: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = MUTED) -> None:
    paper.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=9, shrinkA=0, shrinkB=0, color=colour, linewidth=1.5
        )
    )


def of_demo(name: str) -> str:
    """A figure of the demo's report, as its file lies in docs/demo, with the page's colours for the light ones."""
    svg = (DEMO / f"{name}.svg").read_text("utf-8")
    svg = re.sub(r'<svg width="\d+" height="\d+" ', "<svg ", svg, count=1)
    svg = re.sub(r'<rect width="100%" height="100%" fill="#ffffff"/>', "", svg, count=1)
    for variable, light, _ in PALETTE.values():
        svg = svg.replace(light, f"var(--{variable})")
    return svg.replace("\n", " ")


def _page(name: str, label: str, build: Callable[[], Figure]) -> Callable[[], str]:
    return lambda: draw(name, label, build).in_page().replace("\n", " ")


FIGURES: dict[str, Callable[[], str]] = {
    "chain": _page("chain", "From a choice to a utility, an activation, a probe and a shift", chain),
    "choice": _page("choice", "P(A) of one pair in both orders, and of the mean of both logits", choice),
    "utility": _page("utility", "The utilities of two tasks as two normal distributions", utility),
    "activation": _page("activation", "Which cells of tokens times blocks are kept", activation),
    "probe": _page("probe", "Observed over predicted utilities", probe),
    "shift": _page("shift", "Change in probe score over change in choices", shift),
    **{f"demo {name}": partial(of_demo, name) for name in ("overview", "layers", "shift-category")},
}
"""Name → the figure as SVG on one line, in colours that the page's style sheet defines."""
