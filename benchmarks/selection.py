"""Choosing pairs of 10,000 tasks: CPU time and peak memory of `pairs.py` against the plain ways to do the same.

The start graph against networkx.random_regular_graph, selection against an enumeration of all 50 million pairs in numpy.
The results of both ways are compared before anything is printed. Seconds are CPU seconds, the least of three runs on a
side; memory is the peak of what Python and numpy allocate, in a run of its own because tracing takes time.
"""

import time
import tracemalloc
from collections.abc import Callable

import networkx  # type: ignore[import-untyped]
import numpy as np
from scipy.stats import ks_2samp

from prefprobe.choices.pairs import Pairs, initial_pairs, select_pairs

TASKS, DEGREE, SEEN, NEW = 10_000, 5, 50_000, 5_000
PERCENTILE, RELAX = 0.3, 1.5


def plain_graph(rng: np.random.Generator) -> Pairs:
    """A random regular graph of networkx, which need not be connected."""
    graph = networkx.random_regular_graph(DEGREE, TASKS, seed=int(rng.integers(2**32)))
    return np.array([sorted(edge) for edge in graph.edges], dtype=np.int64)


def plain_selection(mu: np.ndarray, seen: Pairs, rng: np.random.Generator) -> Pairs:
    """The published rule by the book: every pair, its distance and its joint degree."""
    i, j = np.triu_indices(TASKS, 1)
    unseen = ~np.isin(i * TASKS + j, seen[:, 0] * TASKS + seen[:, 1])
    i, j = i[unseen], j[unseen]
    distance = np.abs(mu[i] - mu[j])
    degree = np.bincount(seen.ravel(), minlength=TASKS)
    joint = degree[i] + degree[j]
    percentile = PERCENTILE
    while True:
        close, rare = np.quantile(distance, percentile), np.quantile(joint, percentile)
        eligible = np.flatnonzero((distance <= close) & (joint <= rare))
        if len(eligible) >= NEW:
            chosen = np.sort(rng.choice(eligible, NEW, replace=False))
            return np.stack([i[chosen], j[chosen]], axis=1)
        percentile = min(1.0, percentile * RELAX)


def cost(run: Callable[[], Pairs], rounds: int) -> tuple[float, float, Pairs]:
    """CPU seconds, peak in MB, and the result."""
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    tracemalloc.start()
    try:
        result = run()
        peak = tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
    return min(seconds), peak, result


def compare(
    name: str, ours: Callable[[], Pairs], plain: Callable[[], Pairs], same: Callable[[Pairs, Pairs], str]
) -> None:
    """Print both ratios and their inputs."""
    (seconds, peak, mine), (plain_seconds, plain_peak, other) = cost(ours, 3), cost(plain, 3)
    agreed = same(mine, other)
    print(
        f"{name}: {seconds:.3f} s against {plain_seconds:.3f} s, ratio {plain_seconds / seconds:.1f}; "
        f"peak {peak:,.0f} MB against {plain_peak:,.0f} MB, ratio {plain_peak / peak:.1f}; {agreed}"
    )


def regular(*graphs: Pairs) -> str:
    """Raises unless each task has DEGREE comparisons in both graphs."""
    for pairs in graphs:
        assert set(np.bincount(pairs.ravel(), minlength=TASKS)) == {DEGREE}
    return f"both {len(graphs[0]):,} pairs, each task in {DEGREE}"


def main() -> None:
    """Run both comparisons."""
    rng = np.random.default_rng(0)
    compare(
        f"start graph, {TASKS:,} tasks",
        lambda: initial_pairs(TASKS, DEGREE, np.random.default_rng(1)),
        lambda: plain_graph(np.random.default_rng(1)),
        regular,
    )
    mu = rng.normal(size=TASKS)
    seen = initial_pairs(TASKS, DEGREE, rng)
    while len(seen) < SEEN:
        seen = np.concatenate([seen, select_pairs(mu, seen, NEW, rng)])

    def alike(mine: Pairs, other: Pairs) -> str:
        """Two samples of one distribution of |mu_i - mu_j|, nothing of it seen."""
        known = set(map(tuple, seen.tolist()))
        assert not known & {tuple(pair) for pair in [*mine.tolist(), *other.tolist()]}
        p = ks_2samp(*(np.abs(mu[pairs[:, 0]] - mu[pairs[:, 1]]) for pairs in (mine, other))).pvalue
        assert p > 1e-3
        return f"the same distribution of distances (Kolmogorov-Smirnov p = {p:.2f})"

    compare(
        f"selection, {len(seen):,} pairs seen, {NEW:,} new",
        lambda: select_pairs(mu, seen, NEW, np.random.default_rng(1)),
        lambda: plain_selection(mu, seen, np.random.default_rng(1)),
        alike,
    )


if __name__ == "__main__":
    main()
