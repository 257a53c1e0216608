"""What the fit reads: the choices of each unordered pair, merged."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from prefprobe.thurstonian.observations import Floats, Ids, Ints, merge_choices, merge_logits


@dataclass(frozen=True, eq=False)
class Comparisons:
    """What was observed on each unordered pair, in an order that never depends on that of the rows."""

    task_ids: tuple[str, ...]
    """In the order that was given, tasks that were never compared included, else sorted."""
    i: Ints
    """(m,) index of a pair's first task into `task_ids`; always less than `j`. Rows are sorted by (i, j)."""
    j: Ints
    """(m,) index of its second task."""
    wins: Floats
    """(m,) soft count of i chosen over j, from 0 to `count`."""
    count: Floats
    """(m,) number of observations, > 0."""
    exact: bool = False
    """Wins are probabilities that an engine read off, without the noise of sampling answers."""

    @classmethod
    def from_choices(
        cls, task_a: Ids, task_b: Ids, p_a: npt.ArrayLike, count: npt.ArrayLike | None = None, task_ids: Ids = ()
    ) -> "Comparisons":
        """Merge (rows,) observations: `p_a` in [0, 1] is the (soft) choice of `task_a`, `count` its weight (default 1).

        Both orders of a pair are one pair. `task_ids` are all tasks, in the order that the result shall have; without
        them they are those of the rows, sorted. Raises BadConfig naming the row for p_a out of [0, 1] or NaN, for a count
        that is negative or not finite, for a task compared with itself and for one that `task_ids` lacks or has twice.
        """
        return cls(*merge_choices(task_a, task_b, p_a, count, task_ids))

    @classmethod
    def from_logits(cls, task_a: Ids, task_b: Ids, logit: npt.ArrayLike, task_ids: Ids = ()) -> "Comparisons":
        """Merge exact choices given as log P(A) / P(B), with the position bias averaged out in the logit.

        Each pair's wins are its number of observations times the sigmoid of its debiased logit (`merge_logits`).
        `task_ids` as in `from_choices`. Raises BadConfig naming the row for a logit that is not finite, and as there.
        """
        ids, i, j, debiased, count = merge_logits(task_a, task_b, logit, task_ids)
        return cls(ids, i, j, count * expit(debiased), count, exact=True)

    def take(self, rows: Ints) -> "Comparisons":
        """Some of the pairs, in the order of `rows`, of the same tasks."""
        return replace(self, i=self.i[rows], j=self.j[rows], wins=self.wins[rows], count=self.count[rows])

    @property
    def degree(self) -> Ints:
        """(n,) number of distinct tasks that each task was compared with."""
        return np.bincount(np.concatenate([self.i, self.j]), minlength=len(self.task_ids))

    def shares(self) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.str_], Floats]:
        """The ids of both tasks and the share of choosing the first, (m,) each: one row a pair, both orders together.

        So position bias does not pass for preference where a probe is held against choices.
        """
        ids = np.array(self.task_ids, dtype=np.str_)
        return ids[self.i], ids[self.j], self.wins / self.count
