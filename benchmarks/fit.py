"""The Thurstonian fit against the published procedure: 10,000 tasks, 312,000 sampled choices, one core, one run.

Both sides start from zero, read the same arrays and stop at the same largest gradient entry, each of its own objective.
They are timed in turns and the minimum counts. Seconds are CPU seconds of the one thread: on an idle machine those on the
clock, while on a busy one the clock would measure the others. The published procedure gets the vectorised objective over
pairs of `thurstonian/published.py`; as published it fills a dense matrix of tasks by tasks.
"""

import os
import resource
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import ndtr
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from prefprobe.choices.pairs import initial_pairs, select_pairs
from prefprobe.thurstonian import laplace, newton
from prefprobe.thurstonian.fit import Comparisons, fit_mu, fit_utilities, posterior_of
from prefprobe.thurstonian.likelihood import Point
from prefprobe.thurstonian.published import fit_published, published_objective
from prefprobe.thurstonian.reliability import split_half

TASKS, DEGREE, BATCH, SAMPLES, PAIRS, MORE = 10_000, 5, 5_000, 5, 62_400, 5_000
GRADIENT = 1e-2
ROUNDS = 3


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and the result."""
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


def simulate(seed: int) -> tuple[np.ndarray, list[Comparisons]]:
    """True mu, and the choices of active learning after PAIRS pairs and after MORE on top of them."""
    rng = np.random.default_rng(seed)
    mu, sigma = rng.normal(size=TASKS), np.exp(rng.normal(0.0, 0.5, TASKS))
    ids = tuple(f"t{k:05d}" for k in range(TASKS))
    pairs, wins, stages = np.zeros((0, 2), dtype=np.int64), np.zeros(0), []
    new = initial_pairs(TASKS, DEGREE, rng)
    while True:
        i, j = new.T
        won = rng.binomial(SAMPLES, ndtr((mu[i] - mu[j]) / np.hypot(sigma[i], sigma[j])))
        pairs, wins = np.concatenate([pairs, new]), np.concatenate([wins, won])
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        count = np.full(len(pairs), float(SAMPLES))
        current = Comparisons(ids, pairs[order, 0], pairs[order, 1], wins[order], count)
        if len(pairs) >= PAIRS:
            stages.append(current)
        if len(pairs) == PAIRS + MORE:
            return mu, stages
        size = min(BATCH, PAIRS - len(pairs)) if len(pairs) < PAIRS else MORE
        new = select_pairs(fit_mu(current), pairs, size, rng)


def main() -> None:
    """Print every figure."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    mu, (comparisons, more) = simulate(0)
    posterior, zero = posterior_of(comparisons), np.zeros((2, TASKS))
    print(
        f"{TASKS} tasks, {len(comparisons.i)} pairs, {comparisons.count.sum():.0f} choices; one core; minimum of {ROUNDS}; "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: newton.minimise(posterior, zero, GRADIENT, 1000),
        "published": lambda: fit_published(posterior, 20_000, gtol=GRADIENT, ftol=0.0),
        "published, as it stops": lambda: fit_published(posterior, 1000),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, Any] = {}
    for _ in range(ROUNDS):
        for name, run in sides.items():
            took, results[name] = timed(run)
            seconds[name].append(took)
    point, steps = results.pop("ours")
    ours = min(seconds["ours"])
    whole_s, utilities = min((timed(lambda: fit_utilities(comparisons)) for _ in range(ROUNDS)), key=lambda t: t[0])
    form = published_objective(comparisons, *point.theta)
    print(
        f"ours to gradient {GRADIENT}: {ours:.2f} s, {steps} steps, gradient {np.abs(point.gradient).max():.1e}, "
        f"published form {form:.1f}, r with the true mu {np.corrcoef(point.theta[0], mu)[0, 1]:.4f}"
    )
    for name, (theta, _, gradient, iterations, _) in results.items():
        took = min(seconds[name])
        print(
            f"{name}: {took:.2f} s, {iterations} iterations, gradient {gradient:.1e}, "
            f"published form {published_objective(comparisons, *theta):.1f}, r with the true mu "
            f"{np.corrcoef(theta[0], mu)[0, 1]:.4f}, with ours {np.corrcoef(theta[0], point.theta[0])[0, 1]:.4f} "
            f"(Spearman {spearmanr(theta[0], point.theta[0]).statistic:.4f}); ratio {took / ours:.1f}"
        )
    errors_s = min(timed(lambda: laplace.standard_errors(Point(posterior, point.theta)))[0] for _ in range(ROUNDS))
    print(
        f"fit with all it reports: {whole_s:.2f} s, gradient {utilities.report.max_gradient:.1e}; of it standard errors: "
        f"{errors_s:.2f} s"
    )
    start = utilities.mu, np.log(utilities.sigma)
    cold_s = min(timed(lambda: fit_mu(more))[0] for _ in range(ROUNDS))
    warm_s = min(timed(lambda: fit_mu(more, start=start))[0] for _ in range(ROUNDS))
    print(f"after {MORE} more pairs: warm {warm_s:.2f} s, cold {cold_s:.2f} s, to gradient {GRADIENT}")
    half_s, halves = min((timed(lambda: split_half(comparisons, seed=0)) for _ in range(ROUNDS)), key=lambda t: t[0])
    print(f"split_half, {halves['splits']} splits: {half_s:.2f} s, {halves['spearman_brown']:.4f}")
    tracemalloc.start()
    fit_utilities(comparisons)
    peak = tracemalloc.get_traced_memory()[1]
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"peak memory: {peak / 2**20:.0f} MiB in the fit, {whole / 2**10:.0f} MiB in this process; load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
