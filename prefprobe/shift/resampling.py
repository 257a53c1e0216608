"""How sure a correlation over (prompt, task) cells is, when prompts and tasks are both samples of many more."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prefprobe.probes.metrics import Interval

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MIN_UNITS = 3
"""Fewest prompts, tasks and distinct cells that a resample may rest on: two points always correlate perfectly."""


@dataclass(frozen=True, eq=False)
class Draws:
    """The resamples and permutations of one experiment, the same for all of its correlations."""

    prompt_counts: Floats
    """(bootstrap, prompts): how often each prompt is drawn."""
    task_counts: Floats
    """(bootstrap, tasks)."""
    prompt_orders: Ints
    """(permutations, prompts)."""
    task_orders: Ints
    """(permutations, tasks)."""

    @classmethod
    def of(cls, cells: Mask, bootstrap: int, permutations: int, seed: int) -> "Draws":
        """Independent draws for the prompts and the tasks of `cells` (prompts, tasks)."""
        rng = np.random.default_rng([seed, 4])

        def counts(n: int) -> Floats:
            if not n:
                return np.zeros((bootstrap, 0))
            return rng.multinomial(n, np.full(n, 1 / n), size=bootstrap).astype(np.float64)

        def orders(n: int) -> Ints:
            return rng.permuted(np.tile(np.arange(n), (permutations, 1)), axis=1)

        prompts, tasks = cells.shape
        return cls(counts(prompts), counts(tasks), orders(prompts), orders(tasks))


def interval(r: float, x: Floats, y: Floats, cells: Mask, draws: Draws, *, centred: bool = False) -> Interval:
    """`r` with 95 % percentile bounds for the correlation of x and y (prompts, tasks) over `cells`.

    Two-way pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1:386): prompts and tasks are resampled
    independently, and a cell counts as often as its prompt times its task is drawn. This allows for prompts and for
    tasks that differ, and is wider than need be where cells hardly share them. With `centred`, each resample takes away
    its own mean of every prompt. Bounds are None with fewer than MIN_UNITS prompts or tasks, and if over half of the
    resamples rest on fewer than MIN_UNITS distinct cells or do not vary.
    """
    w, v = draws.prompt_counts, draws.task_counts
    x, y = (np.where(cells, m - m[cells].mean(), 0.0) for m in (x, y))
    # moments add up over cells, so products of the draws with matrices of moments do all resamples at once
    moments = np.stack([cells.astype(np.float64), x, y, x * x, y * y, x * y])
    sums = w * (v @ moments.transpose(0, 2, 1))  # (6, bootstrap, prompts)
    squares = sums[3:5].sum(axis=2)
    distinct = (((v > 0).astype(np.float64) @ cells.T) * (w > 0)).sum(axis=1)
    if not centred:
        sums = sums.sum(axis=2, keepdims=True)
    n, sx, sy = sums[:3]
    means = np.stack([sx * sx, sy * sy, sx * sy]) / np.where(n > 0, n, 1.0)
    vx, vy, cxy = (sums[3:] - means).sum(axis=2)
    known = (distinct >= MIN_UNITS) & (vx > 1e-12 * squares[0]) & (vy > 1e-12 * squares[1])
    units = min(cells.any(axis=0).sum(), cells.any(axis=1).sum())
    if units < MIN_UNITS or 2 * known.sum() < len(known):
        return Interval(value=r, low=None, high=None)
    resampled = (cxy[known] / np.sqrt(vx[known] * vy[known])).clip(-1.0, 1.0)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(value=r, low=float(low), high=float(high))


def permutation_p(r: float, x: Floats, y: Floats, cells: Mask, draws: Draws) -> float:
    """One-sided p of the correlation `r` of x and y over `cells`: (k + 1) / (N + 1), k of N permutations reach r.

    All rows (prompts) and all columns (tasks) of y, which must be a full grid, are permuted whole; the cells of x are
    then correlated with what came to stand there. What rows and columns have in common stays together, so effects of
    prompts alone or of tasks alone are no evidence.
    """
    row, column = np.nonzero(cells)
    fixed = x[cells] - x[cells].mean()
    moved = y[draws.prompt_orders[:, row], draws.task_orders[:, column]]
    tiny = 1e-12 * np.abs(moved).max(axis=1, initial=0.0) * np.sqrt(len(fixed))
    moved = moved - moved.mean(axis=1, keepdims=True)
    spread = np.sqrt((moved * moved).sum(axis=1))
    # a permutation that leaves nothing to correlate counts as reaching r, so that p errs upwards
    chance = np.divide(moved @ fixed, np.sqrt(fixed @ fixed) * spread, out=np.ones(len(spread)), where=spread > tiny)
    return float((1 + (chance >= r - 1e-12).sum()) / (1 + len(chance)))
