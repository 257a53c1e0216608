"""Figures as SVG text: one drawing serves a light page, a dark page and a file of its own.

Colours are drawn as marks that stand for a role; a page gets CSS variables for them, a file the light palette.
"""

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

WIDTH = 460
"""px, and units of every viewBox: at 13 px the text is still legible where a figure is 360 px wide."""
FONT = 13

FG, MUTED, GRID, PAPER = "#fe0001", "#fe0002", "#fe0003", "#fe0004"
MODEL, BASE, ENCODER, CONTROL, BAND = "#fe0011", "#fe0012", "#fe0013", "#fe0014", "#fe0015"

PALETTE = {
    FG: ("fg", "#1b1e21", "#e8e6e1"),
    MUTED: ("muted", "#5a6169", "#a3a9af"),
    GRID: ("grid", "#dcdfe2", "#3a4047"),
    PAPER: ("paper", "#ffffff", "#16191c"),
    MODEL: ("c1", "#1c5fa8", "#6fb0f2"),
    BASE: ("c2", "#0c7c68", "#4fc3aa"),
    ENCODER: ("c3", "#b8520a", "#f09a58"),
    CONTROL: ("c4", "#8d949c", "#7d858d"),
    BAND: ("band", "#e6e9ec", "#2b3036"),
}
"""mark → CSS variable, its colour on a light page, its colour on a dark page."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "prefprobe",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that the layout is the same everywhere
    "font.size": FONT,
    "text.color": FG,
    "axes.labelcolor": MUTED,
    "axes.labelsize": FONT,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.linewidth": 1.0,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 1.0,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "xtick.major.pad": 6.0,
    "ytick.major.pad": 6.0,
    "path.simplify": False,
    "text.parse_math": False,  # a $ in a name is a $
}
_SANS = "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Drawing:
    """A figure with marks for colours, and ids of its own."""

    svg: str
    """From `<svg` to `</svg>`, without width and height."""
    height: int

    def in_page(self) -> str:
        """To stand in an HTML page that defines the CSS variables."""
        svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", self.svg)
        for mark, (variable, _, _) in PALETTE.items():
            svg = svg.replace(mark, f"var(--{variable})")
        return svg.replace("'DejaVu Sans'", "var(--sans)")

    def as_file(self) -> str:
        """A file of its own, light on a white ground."""
        svg = self.svg
        for mark, (_, light, _) in PALETTE.items():
            svg = svg.replace(mark, light)
        ground = f'<rect width="100%" height="100%" fill="{PALETTE[PAPER][1]}"/>'
        svg = svg.replace("<svg ", f'<svg width="{WIDTH}" height="{self.height}" ', 1).replace(">", f">{ground}", 1)
        return svg.replace("'DejaVu Sans'", _SANS) + "\n"


def draw(name: str, label: str, build: Callable[[], Figure]) -> Drawing:
    """Run `build` in the report's style. `name` is unique in the page, `label` says what there is to see."""
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a reader's fonts have letters that the layout's has not
        figure = build()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    height = round(figure.get_figheight() * 72)
    return Drawing(_clean(buffer.getvalue(), name, label, height), height)


def blank(height: float) -> Figure:
    """An empty figure, `height` px high."""
    return Figure(figsize=(WIDTH / 72, height / 72), dpi=72)


def panel(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Axes whose edges are that many px away from the figure's."""
    height = figure.get_figheight() * 72
    box = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - top - bottom) / height)
    return figure.add_axes(box)


def text_width(texts: Sequence[str]) -> float:
    """Width in px of the longest of these at the normal size."""
    font = FontProperties(family="DejaVu Sans", size=FONT)
    return max((text_to_path.get_text_width_height_descent(t, font, False)[0] for t in texts), default=0.0)


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """The same positions, moved as little as a simple sweep manages until neighbours are `gap` apart."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    moved = list(positions)
    for _ in range(100):
        clash = [(i, j) for i, j in pairwise(order) if moved[j] - moved[i] < gap * 0.999]
        for i, j in clash:
            push = (gap - (moved[j] - moved[i])) / 2
            moved[i] -= push
            moved[j] += push
        if not clash:
            break
    return moved


def _clean(svg: str, name: str, label: str, height: int) -> str:
    svg = svg[svg.index("<svg ") :].strip()
    svg = re.sub(r"<svg [^>]*>", "", svg, count=1)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL).replace("xlink:href", "href")
    svg = re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", svg)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg).replace("<defs>\n</defs>\n", "")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
    return f'{head} aria-label="{html.escape(label)}" stroke-linejoin="round" stroke-linecap="butt">{svg}'
