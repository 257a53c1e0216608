"""How sure a correlation over (prompt, task) cells is, when prompts and tasks are both samples of many more.

A correlation is computed again with parts of the grid left out in turn, together with everything that it rests on. Which
parts these are follows from where the on-target cells lie:

- In blocks: no on-target cell joins a prompt of one block to a task of another, as where every subject has prompts and
  tasks of its own. What a subject's cells share (how much the model cares for it) makes blocks the independent things,
  so they are left out whole, prompts and tasks, from MIN_BLOCKS blocks on. A diagonal design is blocks of one pair each.
- Else prompts and tasks are left out one by one, two ways: V = V(prompts) + V(tasks) - V(cells) (Cameron, Gelbach &
  Miller 2011, Journal of Business & Economic Statistics 29:238), each V a jackknife's. V can come out too small, even
  below 0, so it is never taken below V(prompts) or V(tasks) (MacKinnon, Nielsen & Webb 2024, arXiv:2406.08880).

The degrees of freedom are the units less 1, and of two ways those of the rarer one, as in the same paper.
`benchmarks/calibration.py --only shifts` prints how often these intervals hold what is true.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from prefprobe.probes.intervals import Interval, around, around_r, fisher
from prefprobe.shift.cells import Cells, Floats, Mask

MIN_BLOCKS = 6
"""Fewest blocks with on-target cells that are left out as blocks."""

MIN_UNITS = 3
"""Fewest prompts and tasks for bounds: two points always correlate perfectly."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks of a design; prompts and tasks with no on-target cell are blocks of their own."""

    prompts: Mask
    """(n, prompts): which are in each."""
    tasks: Mask
    """(n, tasks)."""
    n_on_target: int
    """Blocks that have an on-target cell."""


def blocks_of(on: Mask) -> Blocks | None:
    """The connected blocks of on-target cells `on` (prompts, tasks); None where they are fewer than MIN_BLOCKS."""
    p, t = np.nonzero(on)
    links = coo_array((np.ones(len(p)), (p, on.shape[0] + t)), shape=(sum(on.shape),) * 2)
    n, of = connected_components(links, directed=False)
    n_on_target = len(np.unique(of[p]))
    if n_on_target < MIN_BLOCKS:
        return None
    member = of == np.arange(n)[:, None]
    return Blocks(member[:, : on.shape[0]], member[:, on.shape[0] :], n_on_target)


def r_interval(r: float, x: Floats, y: Floats, cells: Cells, blocks: Blocks | None) -> Interval:
    """`r`, the correlation of x and y (prompts, tasks) over `cells`, with bounds that are symmetric in Fisher's z.

    There are no bounds with fewer than MIN_UNITS prompts or tasks, or if nothing correlates once a part is left out.
    """
    left_out = [fisher(values) for values in _left_out(x, y, cells, blocks)]
    return around_r(r, *_error(left_out, cells, blocks))


def difference_interval(
    difference: float, x: Floats, first: Floats, second: Floats, cells: Cells, blocks: Blocks | None
) -> Interval:
    """`difference`, r(x, first) - r(x, second) over the same cells, with bounds from the same parts left out of both."""
    pairs = zip(_left_out(x, first, cells, blocks), _left_out(x, second, cells, blocks), strict=True)
    return around(difference, *_error([one - two for one, two in pairs], cells, blocks))


def _error(left_out: list[Floats], cells: Cells, blocks: Blocks | None) -> tuple[float | None, float | None]:
    """Standard error and degrees of freedom from an estimate with each part left out."""
    n = [int(cells.of.any(axis=axis).sum()) for axis in (0, 1)]
    if min(n) < MIN_UNITS or not all(np.isfinite(values).all() for values in left_out):
        return None, None
    variances = [(len(v) - 1) / len(v) * float(((v - v.mean()) ** 2).sum()) for v in left_out]
    if blocks is not None:
        return float(np.sqrt(variances[0])), blocks.n_on_target - 1
    prompts, tasks, single = variances
    return float(np.sqrt(max(prompts, tasks, prompts + tasks - single))), min(n) - 1


def _left_out(x: Floats, y: Floats, cells: Cells, blocks: Blocks | None) -> list[Floats]:
    """Correlations with every block left out; without blocks: with every prompt, every task, and every cell.

    A correlation follows from sums over cells, and taking a prompt's mean away changes its prompt's sums alone: so sums
    by prompt, less those of what is left out, do all of them at once.
    """
    used = cells.used
    x, y = (np.where(used, m - m[used].mean(), 0.0) if used.any() else m for m in (x, y))
    ones = np.ones_like(x)
    # (6, prompts, tasks) and (3, prompts, tasks)
    moments = np.stack([ones, x, y, x * x, y * y, x * y]) * cells.of
    means = None if cells.reference is None else np.stack([ones, x, y]) * cells.reference
    scale = moments[3:5].sum(axis=(1, 2))
    whole = moments.sum(axis=2)
    mean = None if means is None else means.sum(axis=2)
    if blocks is not None:
        kept = whole[..., None] - moments @ blocks.tasks.T
        less = None if means is None or mean is None else mean[..., None] - means @ blocks.tasks.T
        return [_r((_less_mean(kept, less) * ~blocks.prompts.T).sum(axis=1), scale)]
    by_prompt = _less_mean(whole, mean)
    less = None if means is None or mean is None else mean[..., None] - means
    without = _less_mean(whole[..., None] - moments, less)
    others = by_prompt.sum(axis=1)[:, None] - by_prompt
    return [
        _r(others[:, used.any(axis=1)], scale),
        _r(without.sum(axis=1)[:, used.any(axis=0)], scale),
        _r((others[..., None] + without)[:, used], scale),
    ]


def _less_mean(moments: Floats, means: Floats | None) -> Floats:
    """Sums (6, …) of 1, x, y, x², y², xy after a mean is taken from x and y: that of `means`, sums (3, …) of 1, x, y.

    NaN where there are cells and no mean to take from them.
    """
    if means is None:
        return moments
    n, sx, sy, sxx, syy, sxy = moments
    some = np.where(means[0] > 0.5, means[0], np.nan)  # counts, but for the rounding of sums
    mx, my = (np.where(n > 0.5, total / some, 0.0) for total in means[1:])
    xx, yy = sxx - 2 * mx * sx + n * mx * mx, syy - 2 * my * sy + n * my * my
    return np.stack([n, sx - n * mx, sy - n * my, xx, yy, sxy - mx * sy - my * sx + n * mx * my])


def _r(sums: Floats, scale: npt.NDArray[np.float64]) -> Floats:
    """Correlations (…) of sums (6, …); NaN of fewer than three cells, or without more variance than rounding's."""
    n, sx, sy, sxx, syy, sxy = sums
    n = np.maximum(n, 1.0)
    vx, vy = sxx - sx * sx / n, syy - sy * sy / n
    known = (n > 2.5) & (vx > 1e-12 * scale[0]) & (vy > 1e-12 * scale[1])
    r = (sxy - sx * sy / n) / np.sqrt(np.where(known, vx * vy, 1.0))
    return np.where(known, r.clip(-1.0, 1.0), np.nan)
