"""What ridge predicts for groups of rows that it was fitted without: exactly, for all sets of groups, without refitting.

With H the matrix that takes targets to fitted values, intercept included, and M = I - H, the errors of rows S under the fit
without S are

    e_S = (M_SS)^-1 (M y)_S

(the block form of the leave-one-out identity, Cook and Weisberg 1982). So one n x n matrix for each penalty holds every way
to leave rows out, one group, two or three. The fit without S is that of all rows to targets in which S holds the predictions
of it, y_S - e_S: that gives its weights. Left-out fits have intercepts of their own; only means and scales of the features
stay those of all n rows, which uses no target.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import dsymm, dsyrk, dtrsm
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs, dtrtrs

from prefprobe.errors import BadConfig
from prefprobe.probes.ridge import ALPHAS, Decomposition, Floats, require_finite


class LeftOut:
    """One penalty's left-out errors, for targets y (n, t) and rows that stand group by group."""

    def __init__(self, decomposition: Decomposition, y: Floats, groups: Sequence[slice], alpha: float):
        """Memory: n x d and n x n, if n > d, else three times n x n; float64."""
        self._decomposition, self._y, self._rows = decomposition, y, groups
        self._factor = decomposition.factor(alpha)
        n = len(y)
        if decomposition.by_rows:  # M = alpha (Z Z^T + alpha)^-1 - 1/n
            self._M = dpotri(self._factor, lower=1)[0]
            self._M *= alpha
            self._M -= 1.0 / n
        else:  # M = I - 1/n - T^T T with T = L^-1 Z^T
            self._T = dtrsm(1.0, self._factor, decomposition.standardised(slice(None)).T, lower=1, overwrite_b=1)
            self._M = np.full((n, n), -1.0 / n, order="F")
            self._M[np.diag_indices(n)] += 1.0
            self._M = dsyrk(-1.0, self._T, trans=1, lower=1, beta=1.0, c=self._M, overwrite_c=1)
        self._residual = dsymm(1.0, self._M, np.asfortranarray(y - y.mean(axis=0)), lower=1)

    def errors(self, groups: Sequence[int]) -> Floats:
        """(rows of these groups, t) errors of the fit without any of them; groups in ascending order."""
        rows = [self._rows[g] for g in groups]
        starts = [0, *accumulate(r.stop - r.start for r in rows)]
        block = np.empty((starts[-1], starts[-1]), order="F")
        for i, below in enumerate(rows):
            for j, left in enumerate(rows[: i + 1]):  # the lower triangle
                block[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] = self._M[below, left]
        factor, failed = dpotrf(block, lower=1, clean=0, overwrite_a=1)
        if failed:
            raise BadConfig(
                "alphas: the smallest ridge penalty is lost in the rounding of these features' second moment once groups "
                "are left out; raise it."
            )
        return np.asarray(dpotrs(factor, np.concatenate([self._residual[r] for r in rows]), lower=1)[0])

    def weights(self, without: Sequence[Sequence[int]], errors: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Weights (d, s) of Z and intercepts (s,) of the fits of the first target, each without some groups, whose errors
        (rows,) are given.
        """
        targets = np.repeat(self._y[:, :1], len(without), axis=1)
        for s, (groups, error) in enumerate(zip(without, errors, strict=True)):
            targets[np.concatenate([np.arange(self._rows[g].start, self._rows[g].stop) for g in groups]), s] -= error
        centre = targets.mean(axis=0)
        targets -= centre
        if self._decomposition.by_rows:
            return self._decomposition.moment(dpotrs(self._factor, targets, lower=1)[0]), centre
        return np.asarray(dtrtrs(self._factor, self._T @ targets, lower=1, trans=1)[0]), centre


def group_out_predictions(
    decomposition: Decomposition, y: Floats, groups: npt.NDArray[Any], alphas: npt.ArrayLike = ALPHAS
) -> Floats:
    """Predictions (n_alphas, n) of every row by the ridge that was fitted without the row's group.

    y and groups are (n,). Raises BadConfig with fewer than two groups, or if y is not finite.
    """
    require_finite(y, "the target")
    names, of = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise BadConfig(f"groups: leaving one group out takes at least two, found {len(names)}.")
    order = np.argsort(of, kind="stable")
    rows = [slice(*ends) for ends in pairwise(np.searchsorted(of[order], np.arange(len(names) + 1)).tolist())]
    sorted_rows = decomposition.reordered(order)
    out = np.empty((len(np.atleast_1d(alphas)), len(y)))
    for a, alpha in enumerate(np.atleast_1d(alphas)):
        left = LeftOut(sorted_rows, y[order, None], rows, float(alpha))
        out[a, order] = y[order] - np.concatenate([left.errors([g])[:, 0] for g in range(len(names))])
    return out
