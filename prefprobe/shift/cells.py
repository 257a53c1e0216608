"""Which cells of a grid of prompts and tasks are correlated, and what is first taken from them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prefprobe.probes.metrics import pearson, spearman

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ROUNDING = 1e-9
"""A difference from the prompt's mean that is below this part of the largest shift is rounding."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of a grid (prompts, tasks)."""

    of: Mask
    """Those that are correlated."""
    reference: Mask | None = None
    """Those whose mean, prompt by prompt, is first taken from every cell of that prompt; None: nothing is taken."""

    @property
    def used(self) -> Mask:
        """Those that a correlation depends on."""
        return self.of if self.reference is None else self.of | self.reference

    def values(self, m: Floats) -> Floats:
        """What is correlated, (n,), out of `m` (prompts, tasks). Where a prompt moves all tasks alike, that is 0."""
        return m[self.of] if self.reference is None else taken(m, self.reference)[self.of]

    def within(self, prompts: Mask, tasks: Mask) -> "Cells":
        """The cells of the smaller grid of those `prompts` (prompts,) and `tasks` (tasks,)."""
        inside = np.ix_(prompts, tasks)
        return Cells(self.of[inside], None if self.reference is None else self.reference[inside])

    def pearson(self, x: Floats, y: Floats) -> float | None:
        """Pearson correlation of x and y (prompts, tasks) over these cells."""
        return pearson(self.values(x), self.values(y))

    def spearman(self, x: Floats, y: Floats) -> float | None:
        """Spearman correlation of the same."""
        return spearman(self.values(x), self.values(y))


def whole(there: Mask) -> tuple[Mask, Mask]:
    """Prompts (prompts,) and tasks (tasks,) that make a full grid out of `there` (prompts, tasks), all but a few.

    While a cell is missing, the task or the prompt that lacks the greatest part of its cells is left out.
    """
    prompts, tasks = (np.ones(n, dtype=bool) for n in there.shape)
    missing = ~there
    of_prompt, of_task = missing.sum(axis=1), missing.sum(axis=0)
    while of_task.any():
        if of_task.max() * tasks.sum() >= of_prompt.max() * prompts.sum():
            out = of_task.argmax()
            of_prompt -= missing[:, out]
            tasks[out], of_task[out], missing[:, out] = False, 0, False
        else:
            out = of_prompt.argmax()
            of_task -= missing[out]
            prompts[out], of_prompt[out], missing[out] = False, 0, False
    return prompts, tasks


def taken(m: Floats, reference: Mask) -> Floats:
    """`m` (…, prompts, tasks) less each prompt's mean over its `reference` cells (prompts, tasks).

    Prompts without such a cell, and what is left of rounding alone, are 0.
    """
    n = reference.sum(axis=1, keepdims=True)
    rest = m - np.where(reference, m, 0.0).sum(axis=-1, keepdims=True) / np.maximum(n, 1)
    tiny = ROUNDING * np.abs(m).max(axis=(-2, -1), initial=0.0, keepdims=True)
    return np.where((np.abs(rest) > tiny) & (n > 0), rest, 0.0)
