"""Ridge probes as a study trains them: CPU time of `probes/ridge.py` against scikit-learn's Ridge, which fits one penalty.

A held-out probe is 10 penalties for 42 targets (two kinds of utility, each with 20 permutations of its labels). Both get the
same float32 features; predictions are compared before anything is printed. Seconds are CPU seconds, the least of three runs.
Folds of held-out topics are in benchmarks/folds.py.
"""

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from prefprobe.probes.ridge import ALPHAS, Decomposition, fit, predict

TASKS, WIDTH, TARGETS = 2_000, 1_024, 42

Floats = npt.NDArray[np.float64]


def scaled(X: npt.NDArray[np.float32]) -> Floats:
    """The features as scikit-learn is given them."""
    return np.asarray(StandardScaler().fit_transform(X.astype(np.float64)))


def sklearn_fits(X: npt.NDArray[np.float32], Y: Floats) -> Floats:
    """(penalties, tasks, targets) predictions, by one fit for each penalty."""
    Z = scaled(X)
    return np.stack([Ridge(alpha=alpha).fit(Z, Y).predict(Z) for alpha in ALPHAS])


def cost(run: Callable[[], Floats], rounds: int) -> tuple[float, Floats]:
    """CPU seconds and the result."""
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        result = run()
        seconds.append(time.process_time() - started)
    return min(seconds), result


def compare(name: str, ours: Callable[[], Floats], theirs: Callable[[], Floats], rounds: int) -> None:
    """Print the ratio and how far predictions differ."""
    (seconds, mine), (their_seconds, other) = cost(ours, rounds), cost(theirs, rounds)
    worst = float(np.abs(mine - other).max() / other.std())
    assert worst < 1e-6
    print(
        f"{name}: {seconds:.2f} s against {their_seconds:.2f} s, ratio {their_seconds / seconds:.1f}; "
        f"predictions differ by {worst:.0e} of their spread at most"
    )


def main() -> None:
    """Run the comparison."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(TASKS, WIDTH)) * np.geomspace(3, 0.1, WIDTH) + 10 * rng.normal(size=WIDTH)).astype(np.float32)
    Y = X[:, :TARGETS] + rng.normal(size=(TASKS, TARGETS))
    print(f"{TASKS:,} tasks, width {WIDTH:,}, {len(ALPHAS)} penalties")
    compare(
        f"held-out, {TARGETS} targets",
        lambda: predict(X, *fit(Decomposition.of(X), Y)),
        lambda: sklearn_fits(X, Y),
        3,
    )


if __name__ == "__main__":
    main()
