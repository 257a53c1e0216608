"""What several charts share: a sheet in pixels to write on, keys, plain axes, and which rows are few enough to draw."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prefprobe.report.figures.svg import FG, GRID, MUTED, PAPER, WIDTH, text_width

T = TypeVar("T")

HOLLOW: dict[str, Any] = {"markerfacecolor": PAPER, "markeredgecolor": FG, "markeredgewidth": 1.3}
ON_PAPER: dict[str, Any] = {"facecolor": PAPER, "edgecolor": "none", "pad": 2.0}
"""Keeps grid lines out of a text."""
MOST_DOTS = 1200
"""More would make a page heavy and a chart dark; a chart then draws an even selection and its caption says so."""


def sheet(figure: Figure) -> Axes:
    """Invisible axes over the whole figure, in px from its top left corner."""
    height = figure.get_figheight() * 72
    axes = figure.add_axes((0, 0, 1, 1), zorder=5)
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    return axes


def key(paper: Axes, x: float, y: float, items: Sequence[tuple[dict[str, Any], str]]) -> None:
    """A row of marks with their meaning; each mark is keywords of `plot`, a line where it has no marker."""
    for style, text in items:
        width = 9.0 if "marker" in style else 20.0
        paper.plot(
            [x + width / 2] if "marker" in style else [x, x + width], [y] * (1 if "marker" in style else 2), **style
        )
        paper.text(x + width + 6, y, text, color=MUTED, va="center_baseline")
        x += width + 24 + text_width([text])


def plain(axes: Axes, grid: str, *, baseline: bool = True) -> None:
    """Grid lines along one axis ("x" or "y"), no frame but the baseline."""
    axes.grid(axis=grid, zorder=0)  # type: ignore[arg-type]
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(baseline and grid == "y")


def beside(axes: Axes, y: float, text: str, colour: str) -> None:
    """A label to the right of the axes, at height `y` of the data."""
    where: Any = ("axes fraction", "data")
    style: dict[str, Any] = {"color": colour, "va": "center_baseline", "annotation_clip": False}
    axes.annotate(text, (1, y), (8, 0), xycoords=where, textcoords="offset points", **style)


def zero(axes: Axes, at: float = 0.0, *, vertical: bool = False) -> None:
    """A line that stands out from the grid, at zero or at chance."""
    (axes.axvline if vertical else axes.axhline)(at, color=MUTED, linewidth=1.0, zorder=1)


def evenly(rows: Sequence[T], most: int = MOST_DOTS) -> Sequence[T]:
    """At most `most` rows at even steps, the first and the last among them."""
    if len(rows) <= most:
        return rows
    return [rows[i] for i in np.linspace(0, len(rows) - 1, most).round().astype(int)]


def bounds(values: Sequence[float | None], *include: float, step: float = 0.2) -> tuple[float, float]:
    """Limits at multiples of `step` around all values and `include`."""
    known = [v for v in values if v is not None] + list(include)
    return float(np.floor(min(known) / step + 1e-9) * step), float(np.ceil(max(known) / step - 1e-9) * step)


def gap(values: Sequence[float | None]) -> list[float]:
    """Values for a line that breaks where one is missing."""
    return [float("nan") if v is None else v for v in values]


def frame(axes: Axes) -> None:
    """A light frame on all four sides, for a plane of two measured axes."""
    for spine in axes.spines.values():
        spine.set(visible=True, color=GRID)
