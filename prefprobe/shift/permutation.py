"""How often a correlation over (prompt, task) cells would come about if scores had nothing to do with choices."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prefprobe.shift.cells import ROUNDING, Cells, Floats

Ints = npt.NDArray[np.int64]

_AT_ONCE = 2**18
"""Cells of permuted grids that are held in memory together."""


@dataclass(frozen=True, eq=False)
class Orders:
    """The permutations of one experiment, the same for all of its correlations."""

    prompts: Ints
    """(permutations, prompts)."""
    tasks: Ints
    """(permutations, tasks)."""

    @classmethod
    def of(cls, shape: tuple[int, ...], permutations: int, seed: int) -> "Orders":
        """Independent orders of the prompts and the tasks of a grid of this shape (prompts, tasks)."""
        rng = np.random.default_rng([seed, 4])
        prompts, tasks = (rng.permuted(np.tile(np.arange(n), (permutations, 1)), axis=1) for n in shape)
        return cls(prompts, tasks)


def permutation_p(r: float, x: Floats, y: Floats, cells: Cells, orders: Orders) -> float:
    """One-sided p of the correlation `r` of x and y over `cells`: (k + 1) / (N + 1), k of N permutations reach r.

    All rows (prompts) and all columns (tasks) of y, which must be a full grid, are permuted whole; what `cells` takes
    away is then taken away anew, and the cells of x are correlated with what came to stand there. What rows and columns
    have in common stays together, so effects of prompts alone or of tasks alone are no evidence.
    """
    fixed = cells.values(x)
    fixed = fixed - fixed.mean()
    inside, prompt = np.flatnonzero(cells.of), np.nonzero(cells.of)[0]
    weight = None if cells.reference is None else cells.reference / cells.reference.sum(axis=1, keepdims=True)
    tiny = ROUNDING * np.abs(y).max() * np.sqrt(len(fixed))
    reached, step = 0, max(1, _AT_ONCE // y.size)
    for start in range(0, len(orders.prompts), step):
        prompts, tasks = (order[start : start + step] for order in (orders.prompts, orders.tasks))
        grids = y.ravel().take(prompts[:, :, None] * y.shape[1] + tasks[:, None, :])
        moved = grids.reshape(len(grids), -1).take(inside, axis=1)
        if weight is not None:
            moved -= np.einsum("ipt,pt->ip", grids, weight).take(prompt, axis=1)
        moved -= moved.mean(axis=1, keepdims=True)
        spread = np.sqrt(np.einsum("ij,ij->i", moved, moved))
        # one that leaves nothing to correlate counts as reaching r, so that p errs upwards
        chance = np.divide(
            moved @ fixed, np.sqrt(fixed @ fixed) * spread, out=np.ones(len(spread)), where=spread > tiny
        )
        reached += int((chance >= r - 1e-12).sum())
    return (1 + reached) / (1 + len(orders.prompts))
