"""Laplace standard errors of mu: the curvature of the posterior, inverted.

The curvature is the expected (Fisher) information J'WJ of (mu, log sigma) plus that of the two priors. Unlike the
observed Hessian of this non-convex model it is positive definite at every point, converged or not: J'WJ is positive
semi-definite and the priors add positive numbers to its diagonal.

Only differences of utilities are measured, so the errors are those of mu less its mean over all compared tasks. The
constant direction of a connected component has J (1, 0) = 0: it is an exact eigenvector with variance prior_sd^2. A
component of c among n compared tasks therefore keeps prior_sd^2 (1/c - 1/n) for its unknown offset from the others.

A component of more than EXACT_TASKS tasks takes too long to invert. A comparison graph of bounded degree looks like a
tree from each of its tasks, and on a tree elimination from the leaves is exact and linear: a pair tells about i as much
as a comparison with an opponent whose own uncertainty, from its other pairs, adds to the noise. These messages
(Gaussian belief propagation, one number for each pair and side) give each task's variance. They miss what returns along
cycles, which matters for the least certain tasks at the ends of the scale, compared mostly among themselves. So the
EXACT_TASKS least certain tasks are then inverted together, with messages only from outside.
"""

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from prefprobe.thurstonian.likelihood import Point, Posterior
from prefprobe.thurstonian.observations import Floats, Ints, sum_by

EXACT_TASKS = 1000

_MAX_SWEEPS = 1000


def components(posterior: Posterior) -> tuple[int, Ints]:
    """Number of connected components of the comparison graph and the component of each task (n,)."""
    edges = coo_array((np.ones(len(posterior.i)), (posterior.i, posterior.j)), shape=(posterior.n, posterior.n))
    count, label = connected_components(edges, directed=False)
    return int(count), label.astype(np.int64)


def standard_errors(point: Point, exact_tasks: int = EXACT_TASKS) -> Floats:
    """(n,) standard errors of mu in the gauge sum mu = 0 over compared tasks; prior_sd for a task never compared.

    Exact in components of at most `exact_tasks` tasks. In larger ones, with pairs chosen at random and by closeness in
    mu, the median is within 1 % of the exact one and the worst up to 7 % short.
    """
    posterior = point.posterior
    compared = np.flatnonzero(np.bincount(np.concatenate([posterior.i, posterior.j]), minlength=posterior.n))
    prior_variance = posterior.prior_sd**2
    variance = np.full(posterior.n, prior_variance, dtype=np.float64)
    if not len(compared):
        return np.full(posterior.n, posterior.prior_sd, dtype=np.float64)
    label = components(posterior)[1][compared]
    order = np.argsort(label, kind="stable")
    sides = _Sides(point)
    for group in np.split(compared[order], np.flatnonzero(np.diff(label[order])) + 1):
        offset = prior_variance * (1.0 / len(group) - 1.0 / len(compared))
        if len(group) <= exact_tasks:
            variance[group] = sides.dense_variance(group, whole=True) + offset
            continue
        # Messages do not see the constant direction of a graph with many cycles: they are errors about the mean as is.
        tree = sides.tree_variance()[group]
        variance[group] = tree + offset
        uncertain = group[np.argsort(-tree, kind="stable")[:exact_tasks]]
        variance[uncertain] = sides.dense_variance(uncertain, whole=False) + offset
    return np.asarray(np.sqrt(variance), dtype=np.float64)


class _Sides:
    """Each pair seen from i (entries 0 .. m-1) and from j (m .. 2m-1): its weight and the slopes of z at that task."""

    def __init__(self, point: Point) -> None:
        posterior = point.posterior
        self.n, m = posterior.n, len(posterior.i)
        self.prior_mu, self.prior_sigma = posterior.prior_curvature.ravel()
        self.task = np.concatenate([posterior.i, posterior.j])
        self.other_side = np.roll(np.arange(2 * m), m)
        by_mu, by_i, by_j = point.slopes
        self.mu, self.sigma = np.concatenate([by_mu, -by_mu]), np.concatenate([by_i, by_j])
        self.weight = np.tile(point.information, 2)
        self.message = self.weight

    def blocks(self, weight: Floats) -> tuple[Floats, Floats, Floats]:
        """(mu mu), (mu log sigma), (log sigma log sigma) precision of each task (n,) when its sides carry `weight`."""
        return (
            sum_by(self.task, weight * self.mu**2, self.n) + self.prior_mu,
            sum_by(self.task, weight * self.mu * self.sigma, self.n),
            sum_by(self.task, weight * self.sigma**2, self.n) + self.prior_sigma,
        )

    def tree_variance(self) -> Floats:
        """Run the messages to their fixed point and return the variance of each mu (n,), as if cycles were open.

        Started from opponents known exactly, messages can only shrink from sweep to sweep, so they converge.
        """
        for _ in range(_MAX_SWEEPS):
            before = self.message
            a, b, c = (block[self.task] for block in self.blocks(before))
            # What the opponent knows without this pair, and the variance that leaves to its part of z.
            a, b, c = a - before * self.mu**2, b - before * self.mu * self.sigma, c - before * self.sigma**2
            spread = (c * self.mu**2 - 2.0 * b * self.mu * self.sigma + a * self.sigma**2) / (a * c - b**2)
            self.message = self.weight / (1.0 + self.weight * spread[self.other_side])
            if np.all(before - self.message <= 1e-6 * before):
                break
        a, b, c = self.blocks(self.message)
        return c / (a * c - b**2)

    def dense_variance(self, members: Ints, *, whole: bool) -> Floats:
        """Variance of the mu of `members` (k,), exact but for pairs with other tasks, which enter by their messages.

        With `whole` the members are a connected component and the variance is that of mu less their mean.
        """
        k = len(members)
        place = np.full(self.n, -1)
        place[members] = np.arange(k)
        at, opponent = place[self.task], place[self.task][self.other_side]
        diagonal = self.blocks(np.where(opponent >= 0, self.weight, self.message))
        inside = np.flatnonzero((at >= 0) & (opponent >= 0))
        row, column, facing = at[inside], opponent[inside], self.other_side[inside]
        # log sigma first and mu last: the last block of the Cholesky factor is then that of mu alone.
        slopes = (self.sigma, self.mu)
        precision = np.zeros((2 * k, 2 * k))
        for p in range(2):
            for q in range(2):
                precision[p * k + row, q * k + column] = self.weight[inside] * slopes[p][inside] * slopes[q][facing]
        each = np.arange(k)
        precision[each, each] = diagonal[2][members]
        precision[each, k + each] = precision[k + each, each] = diagonal[1][members]
        precision[k + each, k + each] = diagonal[0][members]
        # A wide prior leaves the constant direction nearly singular. Stiffening this eigenvector changes nothing else.
        stiffness = float(np.mean(diagonal[0][members])) if whole else 0.0
        precision[k:, k:] += stiffness / k
        factor = cholesky(precision, lower=True, overwrite_a=True)[k:, k:]
        inverse = solve_triangular(factor, np.eye(k), lower=True, overwrite_b=True)
        constant = 1.0 / (k * (self.prior_mu + stiffness)) if whole else 0.0
        return np.asarray(np.sum(inverse**2, axis=0) - constant, dtype=np.float64)
