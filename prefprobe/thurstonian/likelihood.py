"""The Thurstonian posterior and its first two derivatives, each in O(pairs) array operations.

U_i ~ N(mu_i, sigma_i^2), so P(i over j) = Phi(z) with z = (mu_i - mu_j) / sqrt(sigma_i^2 + sigma_j^2) (Thurstone 1927,
case III). With w soft wins of i and l of j in each pair, the objective is

    F = - sum [w log Phi(z) + l log Phi(-z)] + sum mu^2 / (2 prior_sd^2) + penalty * sum (log sigma)^2

Parameters, gradients and directions are (2, n) arrays: row 0 is mu, row 1 is log sigma.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import erfcx, ndtr

from prefprobe.thurstonian.observations import Floats, Ints, sum_by

_SQRT_HALF = float(np.sqrt(0.5))
_SQRT_HALF_PI = float(np.sqrt(0.5 * np.pi))
_SQRT_2PI = float(np.sqrt(2.0 * np.pi))
_FAR = 20.0


@dataclass(frozen=True, eq=False)
class Posterior:
    """What is observed and assumed: pairs `i`, `j` (m,), soft `wins` of i and `losses` (m,), and the two priors."""

    n: int
    i: Ints
    j: Ints
    wins: Floats
    losses: Floats
    prior_sd: float
    log_sigma_penalty: float

    @property
    def prior_curvature(self) -> Floats:
        """(2, 1): second derivative of the priors in mu and in log sigma."""
        return np.array([[self.prior_sd**-2], [2.0 * self.log_sigma_penalty]])

    def scatter(self, to_i: Floats, to_j: Floats) -> Floats:
        """Sum one number for each pair and side, (m,) each, into one number for each task (n,)."""
        return sum_by(self.i, to_i, self.n) + sum_by(self.j, to_j, self.n)


class Point:
    """The objective at one `theta` (2, n): its value at once, its derivatives when first asked for.

    A trial step that is rejected never pays for derivatives.
    """

    def __init__(self, posterior: Posterior, theta: Floats) -> None:
        self.posterior, self.theta = posterior, theta
        i, j = posterior.i, posterior.j
        mu, log_sigma = theta
        variance = np.exp(2.0 * log_sigma)
        total = variance[i] + variance[j]
        self.scale = np.sqrt(total)
        self.share_i, self.share_j = variance[i] / total, variance[j] / total
        self.z = (mu[i] - mu[j]) / self.scale
        # Everything about Phi comes from the Mills ratio of its smaller tail, which loses no digits however large z is,
        # and costs one special function where log_ndtr of both sides costs two. Phi(-|z|) itself underflows at 38; where
        # it is far from that, ndtr gives the ratio in a third of the time of erfcx.
        distance = np.abs(self.z)
        self._density = np.exp(-0.5 * self.z**2) / _SQRT_2PI
        self._mills = ndtr(-distance) / np.maximum(self._density, 1e-300)
        far = distance > _FAR
        self._mills[far] = _SQRT_HALF_PI * erfcx(_SQRT_HALF * distance[far])
        log_tail = np.log(self._mills / _SQRT_2PI) - 0.5 * self.z**2
        log_rest = np.log1p(-self._density * self._mills)
        ahead = self.z > 0.0
        self.log_win, self.log_loss = np.where(ahead, log_rest, log_tail), np.where(ahead, log_tail, log_rest)
        # np.sum and not a dot product: its order of summation does not depend on the number of BLAS threads.
        self.log_likelihood = float(np.sum(posterior.wins * self.log_win + posterior.losses * self.log_loss))
        self.value = 0.5 * float(np.sum(posterior.prior_curvature * theta**2)) - self.log_likelihood

    @cached_property
    def hazards(self) -> tuple[Floats, Floats]:
        """phi(z) / Phi(z) and phi(z) / Phi(-z), (m,) each."""
        tail, rest = 1.0 / self._mills, self._density / (1.0 - self._density * self._mills)
        ahead = self.z > 0.0
        return np.where(ahead, rest, tail), np.where(ahead, tail, rest)

    @cached_property
    def first(self) -> Floats:
        """(m,) derivative of each pair's term of F in z."""
        win, loss = self.hazards
        return self.posterior.losses * loss - self.posterior.wins * win

    @cached_property
    def second(self) -> Floats:
        """(m,) second derivative of each pair's term of F in z.

        That of -log Phi lies strictly between 0 and 1; far out in a tail rounding could leave that interval.
        """
        win, loss = self.hazards
        bent_win, bent_loss = np.clip(win * (win + self.z), 0.0, 1.0), np.clip(loss * (loss - self.z), 0.0, 1.0)
        return np.asarray(self.posterior.wins * bent_win + self.posterior.losses * bent_loss)

    @cached_property
    def information(self) -> Floats:
        """(m,) expected value of `second` when choices follow the model: count * phi^2 / (Phi(z) Phi(-z))."""
        win, loss = self.hazards
        return (self.posterior.wins + self.posterior.losses) * win * loss

    @cached_property
    def slopes(self) -> tuple[Floats, Floats, Floats]:
        """Derivatives of z, (m,) each: in mu_i (that in mu_j is its negative), in log sigma_i and in log sigma_j."""
        return 1.0 / self.scale, -self.z * self.share_i, -self.z * self.share_j

    @cached_property
    def gradient(self) -> Floats:
        """(2, n) gradient of F."""
        by_mu, by_i, by_j = self.slopes
        return self._gather(self.first * by_mu, self.first * by_i, self.first * by_j, self.theta)

    def scoring_product(self, v: Floats) -> Floats:
        """The expected (Fisher) information plus the curvature of the priors, times `v`, (2, n) to (2, n)."""
        return self._product(self._expected, v)

    def hessian_product(self, v: Floats) -> Floats:
        """The exact Hessian of F times `v`, (2, n) to (2, n)."""
        return self._product(self._observed, v)

    @cached_property
    def _expected(self) -> tuple[Floats, ...]:
        return self._curvature(np.zeros_like(self.z), self.information)

    @cached_property
    def _observed(self) -> tuple[Floats, ...]:
        return self._curvature(self.first, self.second)

    def _curvature(self, first: Floats, second: Floats) -> tuple[Floats, ...]:
        """Second derivatives of each pair's term in d = mu_i - mu_j, log sigma_i and log sigma_j: dd, di, dj, ii, ij, jj.

        `first` and `second` are the term's derivatives in z, (m,) each. Its part with `first` is how the slopes of z
        change: 1 / scale with the scale, -z * share with both of its factors.
        """
        z, by_d, share_i, share_j = self.z, 1.0 / self.scale, self.share_i, self.share_j
        both = second * z + first
        z_i, z_j = z * share_i, z * share_j
        return (
            second * by_d**2,
            -by_d * share_i * both,
            -by_d * share_j * both,
            z_i * (both * share_i - 2.0 * first * share_j),
            z_i * share_j * (both + 2.0 * first),
            z_j * (both * share_j - 2.0 * first * share_i),
        )

    def _product(self, curvature: tuple[Floats, ...], v: Floats) -> Floats:
        dd, di, dj, ii, ij, jj = curvature
        i, j = self.posterior.i, self.posterior.j
        d, at_i, at_j = v[0].take(i) - v[0].take(j), v[1].take(i), v[1].take(j)
        return self._gather(
            dd * d + di * at_i + dj * at_j, di * d + ii * at_i + ij * at_j, dj * d + ij * at_i + jj * at_j, v
        )

    def _gather(self, to_mu: Floats, to_sigma_i: Floats, to_sigma_j: Floats, prior_of: Floats) -> Floats:
        """Sum the pairs' terms over tasks and add the priors' curvature times `prior_of`, (2, n)."""
        scatter = self.posterior.scatter
        likelihood = np.stack([scatter(to_mu, -to_mu), scatter(to_sigma_i, to_sigma_j)])
        return likelihood + self.posterior.prior_curvature * prior_of

    def precondition(self, v: Floats) -> Floats:
        """`v` (2, n) through the inverse of every task's own 2 x 2 Gauss-Newton block, which is positive definite."""
        a, b, c = self._blocks
        return np.asarray(np.stack([c * v[0] - b * v[1], a * v[1] - b * v[0]]) / (a * c - b * b))

    @cached_property
    def _blocks(self) -> tuple[Floats, Floats, Floats]:
        by_mu, by_i, by_j = self.slopes
        prior_mu, prior_sigma = self.posterior.prior_curvature.ravel()
        w, scatter = self.second, self.posterior.scatter
        both, across = w * by_mu**2, w * by_mu
        return (
            scatter(both, both) + prior_mu,
            scatter(across * by_i, -across * by_j),
            scatter(w * by_i**2, w * by_j**2) + prior_sigma,
        )
