"""The published maximum-likelihood procedure, kept for comparison with published numbers (`compat: reference`).

Differences from the default fit: no prior on mu; gauge mu = 0 for the first task; mu in [-10, 10] and log sigma in
[-2, 2]; probabilities clipped to [1e-10, 1 - 1e-10], so a hopeless pair has no gradient; L-BFGS-B from zero stopped at the
loose gtol 1 and ftol 1e-8, where the result still depends on the path taken, and so on which task is the first.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtr

from prefprobe.thurstonian.comparisons import Comparisons
from prefprobe.thurstonian.likelihood import Posterior
from prefprobe.thurstonian.observations import Floats

_MU_BOUND, _LOG_SIGMA_BOUND, _CLIP, _PENALTY = 10.0, 2.0, 1e-10, 1.0


def published_objective(comparisons: Comparisons, mu: Floats, log_sigma: Floats) -> float:
    """Clipped minus log-likelihood plus sum (log sigma)^2, for mu and log sigma (n,) of any fit: to compare fits by."""
    i, j, sigma = comparisons.i, comparisons.j, np.exp(log_sigma)
    p = np.clip(ndtr((mu[i] - mu[j]) / np.hypot(sigma[i], sigma[j])), _CLIP, 1.0 - _CLIP)
    losses = comparisons.count - comparisons.wins
    return float(_PENALTY * np.sum(log_sigma**2) - np.sum(comparisons.wins * np.log(p) + losses * np.log1p(-p)))


def fit_published(
    posterior: Posterior, max_iterations: int, *, gtol: float = 1.0, ftol: float = 1e-8
) -> tuple[Floats, float, float, int, bool]:
    """Returns theta (2, n), its objective, the largest free gradient entry, iterations and success.

    The objective is that of `published_objective`; the priors of `posterior` are not used. A gradient entry that only
    pushes against a bound is not free.
    """
    n, i, j = posterior.n, posterior.i, posterior.j

    def objective(free: Floats) -> tuple[float, Floats]:
        mu, log_sigma = np.concatenate([[0.0], free]).reshape(2, n)
        variance = np.exp(2.0 * log_sigma)
        total = variance[i] + variance[j]
        z = (mu[i] - mu[j]) / np.sqrt(total)
        density = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
        value, slope = _PENALTY * float(np.sum(log_sigma**2)), np.zeros(len(z))
        for count, sign in ((posterior.wins, 1.0), (posterior.losses, -1.0)):
            p = ndtr(sign * z)
            clipped = np.clip(p, _CLIP, 1.0 - _CLIP)
            value -= float(np.sum(count * np.log(clipped)))
            slope -= sign * count * np.where(p == clipped, density / clipped, 0.0)
        by_mu = slope / np.sqrt(total)
        by_log_sigma = -slope * z / total
        to_sigma_i, to_sigma_j = by_log_sigma * variance[i], by_log_sigma * variance[j]
        by_sigma = posterior.scatter(to_sigma_i, to_sigma_j) + 2.0 * _PENALTY * log_sigma
        gradient = np.concatenate([posterior.scatter(by_mu, -by_mu), by_sigma])
        return value, gradient[1:]

    bound = np.concatenate([np.full(n - 1, _MU_BOUND), np.full(n, _LOG_SIGMA_BOUND)])
    result = minimize(
        objective,
        np.zeros(2 * n - 1),
        jac=True,
        method="L-BFGS-B",
        bounds=np.stack([-bound, bound], axis=1),
        options={"maxiter": max_iterations, "maxfun": 50 * max_iterations, "gtol": gtol, "ftol": ftol},
    )
    theta = np.concatenate([[0.0], result.x]).reshape(2, n)
    free_gradient = np.abs(result.x - np.clip(result.x - result.jac, -bound, bound))
    return theta, float(result.fun), float(free_gradient.max(initial=0.0)), int(result.nit), bool(result.success)
