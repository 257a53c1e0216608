"""Charts of what was measured: utilities by topic, and how the rounds of measuring went."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from prefprobe.numbers import number, shortened
from prefprobe.report.figures.axes import MOST_DOTS, beside, bounds, evenly, gap, key, plain, sheet, zero
from prefprobe.report.figures.svg import BAND, CONTROL, FG, MODEL, MUTED, blank, panel, spread, text_width
from prefprobe.report.rows import Rows


def topics(rows: Rows) -> Figure:
    """Utilities of all train tasks in rows by topic, the most preferred topic on top: dots, quartiles, means."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row["topic"], []).append(row["mu"])
    order = sorted(groups, key=lambda topic: (-float(np.mean(groups[topic])), topic))
    names = [shortened(topic, 22) for topic in order]
    left, pitch = text_width(names) + 14, 26.0
    figure = blank(34 + pitch * len(order) + 46)
    axes, paper = panel(figure, left, 34, 12, 46), sheet(figure)
    axes.set(ylim=(len(order) - 0.5, -0.5), yticks=[], xlabel="utility μ, in units of a typical σ")
    most = max(MOST_DOTS // max(len(order), 1), 5)
    for i, topic in enumerate(order):
        mu = sorted(groups[topic])
        low, high = np.quantile(mu, [0.25, 0.75])
        axes.plot([low, high], [i, i], color=BAND, linewidth=15, solid_capstyle="butt", zorder=1)
        dots = evenly(mu, most)
        axes.plot(dots, [i] * len(dots), "o", color=MODEL, markersize=5.5, alpha=0.5, markeredgewidth=0, zorder=3)
        axes.plot([np.mean(mu)] * 2, [i - 0.33, i + 0.33], color=FG, linewidth=2.2, solid_capstyle="butt", zorder=4)
        paper.text(left - 12, 34 + pitch * (i + 0.5), names[i], ha="right", va="center_baseline")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    plain(axes, "x")
    zero(axes, vertical=True)
    dot = {"marker": "o", "markersize": 6, "alpha": 0.6, "markeredgewidth": 0, "linestyle": "none", "color": MODEL}
    box = {"color": BAND, "linewidth": 11, "solid_capstyle": "butt"}
    key(paper, 0, 14, [(dot, "a task"), (box, "middle half"), ({"color": FG, "linewidth": 2.2}, "mean of a topic")])
    return figure


def rounds(rows: Rows) -> Figure:
    """After each round, for both sets: how often the first task is chosen, label mass, split-half reliability.

    Where answers are sampled there is no label mass: then the share of answers that choose neither task.
    """
    answers = (
        ("label_mass", "label mass: probability that an answer begins with a label", (1.0,)),
        ("neither", "share of answers that choose neither task", (0.0, 0.25)),
    )
    drawn = [
        ("p_first", "P(the task shown first is chosen); 0.5 is no position bias", (0.5,)),
        *[of for of in answers if any(row[of[0]] is not None for row in rows)][:1],
        ("split_half", "split-half reliability of μ", (1.0,)),
    ]
    height = len(drawn) * 136 + 40
    figure = blank(height)
    paper = sheet(figure)
    for index, (name, text, include) in enumerate(drawn):
        top = 32 + 136 * index
        axes = panel(figure, 40, top, 92, height - top - 92)
        paper.text(0, top - 18, text, color=FG, va="center_baseline")
        low, high = bounds([row[name] for row in rows], *include, step=0.25)
        low = min(low, high - 0.25)
        axes.set(ylim=(low - 0.02, high + 0.02))
        axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2.5, 5, 10]))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        plain(axes, "y", baseline=False)
        if name == "p_first":
            zero(axes, 0.5)
        ends = []
        for set_, colour in (("train", MODEL), ("eval", CONTROL)):
            of = [row for row in rows if row["set"] == set_]
            axes.plot(
                [r["pairs"] for r in of],
                gap([r[name] for r in of]),
                color=colour,
                linewidth=2,
                marker="o",
                markersize=5,
            )
            axes.update_datalim([(r["pairs"], 0.0) for r in of], updatey=False)  # of rounds without a value too
            last = next((row[name] for row in reversed(of) if row[name] is not None), None)
            if last is not None:
                ends.append((last, f"{set_} {number(last, 2)}", colour))
        per_px = (high - low + 0.04) / 92
        for y, (_, said, colour) in zip(spread([end[0] for end in ends], 17 * per_px), ends, strict=True):
            beside(axes, y, said, MUTED if colour == CONTROL else colour)
        axes.tick_params(labelbottom=index == len(drawn) - 1)
    axes.set_xlabel("pairs measured so far")
    return figure
