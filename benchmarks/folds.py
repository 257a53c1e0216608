"""Cross-topic folds of one layer against refits by scikit-learn: seconds, memory, and how far predictions are apart.

The protocol is nested: for every fold of held-out topics, and every further topic left out of its training, ten penalties; then
one fit of the fold. A few refits are timed and multiplied by their number: of one penalty each, as a search over penalties does
them; of ten penalties each, which scikit-learn fits with one sum over the features; and of these without fitting one training
set twice. Folds are measured as the step runs them, eval predictions and the jackknife over topics included, for the true
utilities alone and with permutations of them, which refits do not attempt.

Features are float32 with means of up to 3,000 standard deviations, a constant column and a duplicated one, and both sides get
them standardised by the same means and scales.

    python benchmarks/folds.py [--tasks 10000] [--width 5376] [--growth]

Seconds are of the CPU, of all threads together.
"""

import argparse
import resource
import time
from math import comb

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_info

from prefprobe.probes.aligned import TaskSet
from prefprobe.probes.folds import Folds, LayerFolds, layer_folds
from prefprobe.probes.ridge import ALPHAS, Decomposition

Features = npt.NDArray[np.float32]


def study(tasks: int, width: int, topics: int, holdout: int, tests: int = 300) -> tuple[Features, Folds]:
    """Features, and folds of tasks whose utility follows one direction."""
    rng = np.random.default_rng(0)
    n = tasks + tests
    topic = np.arange(n) % topics
    utility = rng.normal(size=n)
    X = rng.normal(size=(n, width)).astype(np.float32)
    X *= np.geomspace(3, 0.1, width, dtype=np.float32)
    X += np.outer(utility, rng.normal(size=width) / np.sqrt(width)).astype(np.float32)
    X += rng.normal(size=(topics, width)).astype(np.float32)[topic]
    X += (3000 * X.std(axis=0) * rng.uniform(-1, 1, size=width)).astype(np.float32)
    X[:, 3], X[:, 5] = 1234.567, X[:, 4]
    mu, names = utility + rng.normal(size=n), np.array([f"{t:02}" for t in topic])
    ids = np.array([f"{i:06}" for i in range(n)])
    train, test = (
        TaskSet(ids[rows], mu[rows], names[rows], np.arange(n)[rows]) for rows in (slice(tasks), slice(tasks, n))
    )
    return X, Folds.of(train, test, sorted(set(names)), holdout)


def ours(X: Features, folds: Folds, permutations: int = 0) -> tuple[float, LayerFolds]:
    """Seconds, and what the layer gives."""
    started = time.process_time()
    found = layer_folds(X, folds, None, ALPHAS, permutations, 0)
    return time.process_time() - started, found


def refits(X: Features, folds: Folds, found: LayerFolds, times: int) -> tuple[float, float, float]:
    """Seconds of one refit, of one penalty and of ten, and how far predictions are from ours at most, in their spread."""
    decomposition = Decomposition.of(X[folds.tasks.rows])
    y, worst, spent, single, start = folds.tasks.mu, 0.0, 0.0, 0.0, 0
    Z = decomposition.standardised(slice(None))
    for held_out in folds.held_out[:times]:
        out = np.zeros(len(y), dtype=np.bool_)
        for topic in held_out:
            out[folds.train[topic]] = True
        started = time.process_time()
        ridge = Ridge(alpha=ALPHAS, solver="cholesky").fit(Z[~out], np.repeat(y[~out, None], len(ALPHAS), axis=1))
        spent += time.process_time() - started
        started = time.process_time()
        Ridge(alpha=ALPHAS[5]).fit(Z[~out], y[~out])
        single += time.process_time() - started
        expected = ridge.predict(Z[out]).T
        mine = found.predicted[:, start : start + out.sum()]
        worst = max(worst, float((np.abs(mine - expected).max(axis=1) / expected.std(axis=1)).max()))
        start += int(out.sum())
    return single / times, spent / times, worst


def line(tasks: int, width: int, topics: int, holdout: int) -> float:
    """Print and return the seconds of one size."""
    seconds, _ = ours(*study(tasks, width, topics, holdout))
    folds = f"{comb(topics, holdout)} folds of {holdout} out of {topics} topics"
    print(f"{tasks:,} tasks, width {width:,}, {folds}: {seconds:.2f} s", flush=True)
    return seconds


def main() -> None:
    """Print the comparison, or how it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=5_376)
    parser.add_argument("--refits", type=int, default=2)
    parser.add_argument("--permutations", type=int, default=199)
    parser.add_argument("--growth", action="store_true")
    args = parser.parse_args()
    print(f"{max((pool['num_threads'] for pool in threadpool_info()), default=1)} threads")
    if args.growth:
        for tasks, width, topics in (
            (2000, 500, 12),
            (4000, 500, 12),
            (2000, 1000, 12),
            (2000, 500, 24),
            (1000, 2000, 12),
        ):
            line(tasks, width, topics, 1)
        one, two = (line(3000, 1500, 12, k) for k in (1, 2))
        print(f"two topics out: {two / one:.1f} times one topic out")
        return
    topics = 12
    X, folds = study(args.tasks, args.width, topics, 1)
    print(f"{args.tasks:,} tasks, width {args.width:,}, {topics} folds, {len(ALPHAS)} penalties, nested", flush=True)
    seconds, found = ours(X, folds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"folds: {seconds:.1f} s, at most {peak:.2f} GiB", flush=True)
    if args.permutations:
        print(f"with {args.permutations} permutations: {ours(X, folds, args.permutations)[0]:.1f} s", flush=True)
    single, each, worst = refits(X, folds, found, args.refits)
    assert worst < 1e-6
    print(
        f"a refit: {single:.1f} s of one penalty, {each:.1f} s of ten; predictions differ by {worst:.0e} of their spread at most"
    )
    inner = topics * (topics - 1)
    for name, number, one in (
        ("of one penalty each", inner * len(ALPHAS) + topics, single),
        ("of ten penalties each", inner + topics, each),
        ("of ten penalties, no training set twice", comb(topics, 2) + topics, each),
    ):
        print(f"{number:5} refits {name}: {number * one:.0f} s, {number * one / seconds:.1f} times as long")


if __name__ == "__main__":
    main()
