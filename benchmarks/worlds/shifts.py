"""Planted worlds of experiments under system prompts: grids of points whose truth is known.

On target, Δp and Δs have a part that the prompt means (love +, hate -), and parts of prompts, tasks and single cells; off
target there is little but what a prompt does to all tasks alike. The truth of a correlation is that of the pooled sums of
many draws of the same world. A claim is made as in the verdict: `corrected` above the smallest effect, its permutation p
below .05, and `advantage` above 0.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from calibration import World

from prefprobe.shift.cells import Cells, taken
from prefprobe.shift.jackknife import blocks_of, difference_interval, r_interval
from prefprobe.shift.permutation import Orders, permutation_p

Floats = npt.NDArray[np.float64]
Draw = Callable[[Floats, np.random.Generator], Floats]
"""Aims (prompts, tasks) → Δp, Δs, and Δs of the encoder, (3, prompts, tasks)."""

SMALLEST, SIGNIFICANT = 0.2, 0.05
PERMUTATIONS = 199
TRUTH_DRAWS = 400
MEANT, OF_PROMPT, OF_TASK = 0.5, 0.1, 0.1
"""Shares of the on-target variance: what the prompt means, and what its cells and a task's cells share besides."""
HEARD = 0.875
"""On-target r of choices with what is heard in the prompt's text, as an encoder reaches with the published points."""
SPILL = 0.1
"""Standard deviation of what a prompt does to all tasks alike, and of what is left of single cells off target."""


def category() -> Floats:
    """38 prompts that love or hate one of six categories, ten tasks in each: the direction meant, 0 off target."""
    of, sign = np.arange(38) % 6, np.where(np.arange(38) // 6 % 2, -1.0, 1.0)
    return sign[:, None] * (of[:, None] == np.repeat(np.arange(6), 10))


def targeted(wordings: int, tasks: int) -> Floats:
    """Eight subjects, each loved and hated in so many wordings, and so many tasks for each."""
    of, sign = np.repeat(np.arange(8), 2 * wordings), np.tile([1.0, -1.0], 8 * wordings)
    return sign[:, None] * (of[:, None] == np.repeat(np.arange(8), tasks))


def competing() -> Floats:
    """48 prompts that love one of eight subjects and hate one of three kinds of task, or the reverse; 48 tasks."""
    subject, kind, sign = np.repeat(np.arange(8), 6), np.tile(np.repeat(np.arange(3), 2), 8), np.tile([1.0, -1.0], 24)
    return sign[:, None] * ((subject[:, None] == subject) * 1.0 - (kind[:, None] == kind))


def persona() -> Floats:
    """50 personas that like or dislike one or two of ten topics, five tasks in each."""
    rng, aims = np.random.default_rng(5), np.zeros((50, 10))
    for p in range(50):
        chosen = rng.choice(10, size=1 + p % 2, replace=False)
        aims[p, chosen] = rng.choice([1.0, -1.0], size=len(chosen))
    return aims[:, np.repeat(np.arange(10), 5)]


DESIGNS = {
    "category 38 x 60": category(),
    "targeted 16 x 16": targeted(1, 2),
    "targeted 32 x 64": targeted(2, 8),
    "competing 48 x 48": competing(),
    "persona 50 x 50": persona(),
    "diagonal 8 x 8": np.diag(np.tile([1.0, -1.0], 4)),
}


def follows(r: float, aim: Floats, rng: np.random.Generator) -> Floats:
    """Scores follow choices with r on target; the encoder hears the prompt's valence and whom it is about."""
    rho = (r - MEANT) / (1 - MEANT)  # scores know all of what is meant
    x, y = np.where(aim != 0, np.sqrt(MEANT) * aim + np.sqrt(1 - MEANT) * _rest(rho, aim.shape, rng), 0.0)
    return np.stack([x, y, _heard(aim, rng)]) + _spill(aim.shape, rng)


def nothing(aim: Floats, rng: np.random.Generator) -> Floats:
    """Choices are moved as meant, and scores by something else of the same make."""
    x, y = np.where(aim != 0, np.sqrt(1 - MEANT) * _rest(0.0, aim.shape, rng), 0.0)
    other = np.where(aim != 0, rng.choice([-1.0, 1.0], size=(len(aim), 1)), 0.0)
    moved = [x + np.sqrt(MEANT) * aim, y + np.sqrt(MEANT) * other, _heard(aim, rng)]
    return np.stack(moved) + _spill(aim.shape, rng)


def valence(aim: Floats, rng: np.random.Generator) -> Floats:
    """Choices are moved as meant; scores of all tasks by whether the prompt loves or hates."""
    x, y = np.sqrt(1 - HEARD) * _rest(0.0, aim.shape, rng)
    tone = np.sqrt(HEARD) * np.sign(aim.sum(axis=1, keepdims=True))
    moved = [np.where(aim != 0, np.sqrt(HEARD) * aim + x, 0.0), tone + y, tone + 0.3 * rng.normal(size=aim.shape)]
    return np.stack(moved) + _spill(aim.shape, rng)


def text(aim: Floats, rng: np.random.Generator) -> Floats:
    """Choices are moved as meant; probe and encoder hear the text: its valence, and whom it is about."""
    x, _ = np.sqrt(1 - HEARD) * _rest(0.0, aim.shape, rng)
    moved = [np.where(aim != 0, np.sqrt(HEARD) * aim + x, 0.0), _heard(aim, rng), _heard(aim, rng)]
    return np.stack(moved) + _spill(aim.shape, rng)


def _heard(aim: Floats, rng: np.random.Generator) -> Floats:
    """Half of it in all tasks of the prompt, the other half in those that it is about."""
    tone = 0.5 * np.sign(aim.sum(axis=1, keepdims=True)) + 0.5 * aim
    return np.sqrt(HEARD) * tone + np.sqrt(1 - HEARD) * _rest(0.0, aim.shape, rng)[0]


def _rest(rho: float, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """(2, prompts, tasks) of variance 1 that correlate with rho: parts of prompts, of tasks, and of single cells."""
    of_cell = 1 - MEANT - OF_PROMPT - OF_TASK
    parts = ((OF_PROMPT, (shape[0], 1)), (OF_TASK, (1, shape[1])), (of_cell, shape))
    x, y = (sum(np.sqrt(v / (1 - MEANT)) * rng.normal(size=of) for v, of in parts) for _ in "xy")
    return np.stack([x, rho * x + np.sqrt(1 - rho**2) * y])


def _spill(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    return SPILL * (rng.normal(size=(3, shape[0], 1)) + rng.normal(size=(3, *shape)))


@cache
def _truth(world: str, design: str) -> dict[str, float]:
    """What r of corrected on-target cells is, and the difference of r over the corrected grid, in the limit of many draws."""
    aim, rng = DESIGNS[design], np.random.default_rng(10**6)
    kept = [taken(DRAWS[world](aim, rng), aim == 0) for _ in range(TRUTH_DRAWS)]
    on, grid = (np.concatenate([m[:, of] for m in kept], axis=1) for of in (aim != 0, np.ones_like(aim, dtype=bool)))
    return {"corrected r": _r(on[0], on[1]), "advantage": _r(grid[0], grid[1]) - _r(grid[0], grid[2])}


def _r(x: Floats, y: Floats) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def _drawn(world: str, design: str, seed: int) -> dict[tuple[str, str], bool | None]:
    aim = DESIGNS[design]
    x, probe, encoder = DRAWS[world](aim, np.random.default_rng(seed))
    on, blocks = aim != 0, blocks_of(aim != 0)
    targets, grid = Cells(on, ~on), Cells(np.ones_like(on), ~on)
    r, one, other = targets.pearson(x, probe), grid.pearson(x, probe), grid.pearson(x, encoder)
    assert r is not None
    assert one is not None
    assert other is not None
    p = permutation_p(r, x, probe, targets, Orders.of(aim.shape, PERMUTATIONS, seed))
    found: dict[str, Any] = {"corrected r": r_interval(r, x, probe, targets, blocks)}
    found["advantage"] = difference_interval(one - other, x, probe, encoder, grid, blocks)
    made = bool(found["corrected r"]["low"] > SMALLEST and p < SIGNIFICANT and found["advantage"]["low"] > 0)
    told: dict[tuple[str, str], bool | None] = {("claim", "false" if world in FALSE else "power"): made}
    for name, interval in found.items():
        told[name, "covers"] = bool(interval["low"] <= _truth(world, design)[name] <= interval["high"])
    if world in ("nothing", "valence"):
        told["corrected r > 0", "false"] = bool(found["corrected r"]["low"] > 0)
    return told


FALSE: dict[str, Draw] = {"nothing": nothing, "valence": valence, "text": text}
DRAWS = FALSE | {f"r = {r}": partial(follows, r) for r in (0.7, 0.85, 0.947)}
WORLDS = [World(f"{design}: {world}", partial(_drawn, world, design)) for design in DESIGNS for world in DRAWS]
