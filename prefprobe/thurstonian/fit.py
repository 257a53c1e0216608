"""Utilities of tasks from pairwise choices: the Thurstonian fit, its uncertainty and its predictions.

U_i ~ N(mu_i, sigma_i^2), P(i over j) = Phi((mu_i - mu_j) / sqrt(sigma_i^2 + sigma_j^2)). Soft counts are allowed: an
exact probability p counts as p wins and 1 - p losses.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import ndtr

from prefprobe.errors import BadConfig
from prefprobe.thurstonian import laplace, newton
from prefprobe.thurstonian.comparisons import Comparisons as Comparisons
from prefprobe.thurstonian.likelihood import Point, Posterior
from prefprobe.thurstonian.observations import Floats, Ids, Ints, as_strings
from prefprobe.thurstonian.published import fit_published

PRIOR_SD, LOG_SIGMA_PENALTY, TOLERANCE, MAX_ITERATIONS = 10.0, 1.0, 1e-2, 1000
"""Defaults of the fit, here because reliability repeats it with the same ones."""

_ONE_SIDED = 0.999
"""A pair counts as won outright above this share of its observations, as lost outright below its complement."""


@dataclass(frozen=True)
class FitReport:
    """How the fit went, and what in the data limits it."""

    objective: float
    """Minus log-likelihood plus the penalties of both priors (published procedure: no prior on mu, clipped)."""
    log_likelihood: float
    """Sum over observations, in nats, without clipping."""
    max_gradient: float
    """Largest absolute entry of the objective's gradient at the result (published procedure: bounds respected)."""
    iterations: int
    converged: bool
    components: int
    """Connected components of the comparison graph; a task never compared is one of its own. Utilities of different
    components are tied by the prior alone."""
    always_win: tuple[str, ...]
    """Tasks that won every one of their pairs outright (share > .999): the prior alone keeps their mu finite."""
    always_lose: tuple[str, ...]
    dispersion: float
    """Pearson's statistic over its degrees of freedom: how much the pairs scatter about the fit, as a share of what
    sampled answers would (McCullagh and Nelder, quasi-likelihood). 1 by definition unless probabilities are exact."""
    agreement: float | None
    """Share of observations whose preferred side has the higher mu; equal mu counts half. None without observations."""


@dataclass(frozen=True, eq=False)
class Utilities:
    """Fitted utilities, one entry for each task, in units in which a typical sigma is 1."""

    task_ids: tuple[str, ...]
    mu: Floats
    sigma: Floats
    se: Floats
    """Standard error of mu relative to the mean mu of the compared tasks; prior_sd for a task never compared.

    With few observations for each task the joint mode overstates differences, most where pairs were chosen for being
    close; the errors are then too small about the true mu. Correlations do not suffer from a stretched scale."""
    comparisons: Ints
    """Number of distinct tasks each was compared with."""
    report: FitReport

    def locate(self, ids: Ids) -> Ints:
        """(k,) positions of task ids. Raises BadConfig for an id that has no utility."""
        found = pc.index_in(as_strings("task id", ids), pa.array(self.task_ids, pa.string()))
        if found.null_count:
            row = int(np.argmax(found.is_null().to_numpy(zero_copy_only=False)))
            raise BadConfig(f"Task {ids[row]!r} (row {row}) has no utility; measure it or leave it out.")
        return np.asarray(found.to_numpy(), dtype=np.int64)


def fit_utilities(
    comparisons: Comparisons,
    *,
    prior_sd: float = PRIOR_SD,
    log_sigma_penalty: float = LOG_SIGMA_PENALTY,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
    start: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    compat: bool = False,
) -> Utilities:
    """Maximum a posteriori utilities with Laplace standard errors, for exact probabilities times √dispersion.

    Minimises - sum log Phi + sum mu^2 / (2 prior_sd^2) + log_sigma_penalty * sum (log sigma)^2 over mu and log sigma.
    The gauge is sum mu = 0, in every connected component too, where the prior itself puts the optimum. A task never
    compared has mu 0, sigma 1 and se prior_sd. `start` is (mu, log sigma) for a warm start, (n,) each in the order of
    `comparisons.task_ids`.

    The optimiser is a trust-region Newton method with Hessian products in O(pairs) (newton.py). Its convergence is
    quadratic, so going on to a gradient of 1e-6 * `tolerance` costs a few products more, and within one mode the result
    depends on the start by less than 1e-6; L-BFGS-B took twice as long to 1e-5 at 10,000 tasks. `converged` means
    max_gradient <= `tolerance`. The objective is not convex in log sigma: in large noisy data a few tasks have a second
    mode of nearly the same objective, where another start may end.

    `compat` is the published procedure (published.py): it ignores both priors, `tolerance` and `start`; the first of
    `comparisons.task_ids` has mu 0, and another first task gives a slightly other result. Its standard errors are those
    that the priors would give at its result, since it defines none of its own.

    Raises BadConfig for a prior or tolerance that is too small to be meant and for a start of the wrong shape.
    """
    # With less of a penalty one-sided choices drive some sigma to 0, where the posterior has no usable mode.
    for name, number, least in (
        ("prior_sd", prior_sd, 1e-6),
        ("log_sigma_penalty", log_sigma_penalty, 1e-2),
        ("tolerance", tolerance, 1e-12),
    ):
        if not least <= number < np.inf:
            raise BadConfig(f"The fit has {name} = {number}, expected a finite number >= {least:g}; change it.")
    posterior = posterior_of(comparisons, prior_sd, log_sigma_penalty)
    if compat:
        theta, objective, max_gradient, iterations, converged = fit_published(posterior, max_iterations)
        point = Point(posterior, theta)
    else:
        point, iterations = _mode(posterior, start, 1e-6 * tolerance, max_iterations)
        objective, max_gradient = point.value, float(np.abs(point.gradient).max())
        converged = max_gradient <= tolerance
    mu, log_sigma = point.theta
    always_win, always_lose = _one_sided(comparisons)
    components = laplace.components(posterior)[0]
    report = FitReport(
        objective=objective,
        log_likelihood=point.log_likelihood,
        max_gradient=max_gradient,
        iterations=iterations,
        converged=converged,
        components=components,
        always_win=always_win,
        always_lose=always_lose,
        dispersion=_dispersion(comparisons, mu, np.exp(log_sigma), components),
        agreement=_agreement(comparisons, mu),
    )
    known = np.where(comparisons.degree > 0, np.sqrt(report.dispersion), 1.0)
    se = np.minimum(prior_sd, known * laplace.standard_errors(point))
    return Utilities(comparisons.task_ids, mu, np.exp(log_sigma), se, comparisons.degree, report)


def fit_mu(comparisons: Comparisons, *, start: tuple[npt.ArrayLike, npt.ArrayLike] | None = None) -> Floats:
    """(n,) mu of `fit_utilities` at its defaults, without standard errors, report and last digits, of no use to a repeated fit.

    It stops at a gradient of TOLERANCE. At 10,000 tasks that halves the time and moves a mu by at most 0.02.
    """
    posterior = posterior_of(comparisons)
    return np.asarray(_mode(posterior, start, TOLERANCE, MAX_ITERATIONS)[0].theta[0])


def predict(utilities: Utilities, a: Ids, b: Ids) -> Floats:
    """P(a chosen over b) for (k,) pairs of task ids. Raises BadConfig for an id that has no utility."""
    first, second = utilities.locate(a), utilities.locate(b)
    spread = np.hypot(utilities.sigma[first], utilities.sigma[second])
    return np.asarray(ndtr((utilities.mu[first] - utilities.mu[second]) / spread))


def to_table(utilities: Utilities) -> pa.Table:
    """`utilities.parquet`: task_id string, mu, sigma, se float64, comparisons int64; in the order of `task_ids`."""
    return pa.table(
        {
            "task_id": pa.array(utilities.task_ids, pa.string()),
            "mu": utilities.mu,
            "sigma": utilities.sigma,
            "se": utilities.se,
            "comparisons": utilities.comparisons,
        }
    )


def posterior_of(
    comparisons: Comparisons, prior_sd: float = PRIOR_SD, log_sigma_penalty: float = LOG_SIGMA_PENALTY
) -> Posterior:
    """What `fit_utilities` minimises, with its defaults. Raises BadConfig if there are no tasks."""
    if not comparisons.task_ids:
        raise BadConfig("There are no tasks to fit; check that the choices of this run were read.")
    losses = comparisons.count - comparisons.wins
    return Posterior(
        len(comparisons.task_ids), comparisons.i, comparisons.j, comparisons.wins, losses, prior_sd, log_sigma_penalty
    )


def _mode(
    posterior: Posterior, start: tuple[npt.ArrayLike, npt.ArrayLike] | None, target: float, max_iterations: int
) -> tuple[Point, int]:
    """The posterior's mode with mean mu = 0 in every component, to a gradient of `target`, and the Newton steps tried."""
    n = posterior.n
    theta = np.zeros((2, n))
    count, label = laplace.components(posterior)
    size = np.bincount(label, minlength=count)
    if start is not None:
        given = [np.asarray(part, dtype=np.float64) for part in start]
        if any(part.shape != (n,) or not np.isfinite(part).all() for part in given) or np.abs(given[1]).max() > 20.0:
            raise BadConfig(f"The start must be {n} finite mu and {n} log sigma in [-20, 20]; take them from a fit.")
        # A task without comparisons starts where it ends: at the prior's mode.
        theta = np.stack(given) * (size[label] > 1)

    def centred(theta: Floats) -> Floats:
        return np.stack([theta[0] - (np.bincount(label, theta[0]) / size)[label], theta[1]])

    point, iterations = newton.minimise(posterior, centred(theta), target, max_iterations)
    return Point(posterior, centred(point.theta)), iterations


def _dispersion(comparisons: Comparisons, mu: Floats, sigma: Floats, components: int) -> float:
    """See `FitReport.dispersion`. The model's rank is taken as tasks - components, as if sigma were known."""
    i, j, count = comparisons.i, comparisons.j, comparisons.count
    freedom = len(i) - (len(mu) - components)
    if not comparisons.exact or freedom <= 0:
        return 1.0
    p = ndtr((mu[i] - mu[j]) / np.hypot(sigma[i], sigma[j]))
    scatter = count * (comparisons.wins / count - p) ** 2 / np.maximum(p * (1.0 - p), 1e-12)
    return float(scatter.sum() / freedom)


def _one_sided(comparisons: Comparisons) -> tuple[tuple[str, ...], tuple[str, ...]]:
    share = comparisons.wins / comparisons.count
    won, lost = share > _ONE_SIDED, share < 1.0 - _ONE_SIDED
    n, degree = len(comparisons.task_ids), comparisons.degree
    wins = np.bincount(comparisons.i[won], minlength=n) + np.bincount(comparisons.j[lost], minlength=n)
    losses = np.bincount(comparisons.i[lost], minlength=n) + np.bincount(comparisons.j[won], minlength=n)
    ids = np.array(comparisons.task_ids, dtype=object)
    return tuple(ids[(wins == degree) & (degree > 0)]), tuple(ids[(losses == degree) & (degree > 0)])


def _agreement(comparisons: Comparisons, mu: Floats) -> float | None:
    if not len(comparisons.count):
        return None
    direction = np.sign(mu[comparisons.i] - mu[comparisons.j])
    agreed = 0.5 * (comparisons.count + direction * (2.0 * comparisons.wins - comparisons.count))
    return float(np.sum(agreed) / np.sum(comparisons.count))
