"""How well predictions agree with what was observed, with bootstrap intervals over tasks.

A statistic that cannot be estimated is None, never NaN: fewer than three values, or no variance.
Intervals are 95 % percentile intervals (Efron 1979) from resamples that are fixed by a seed.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 2000


class Interval(TypedDict):
    """An estimate and its 95 % bounds; bounds are None if too few resamples allow an estimate."""

    value: float
    low: float | None
    high: float | None


def pearson(x: Floats, y: Floats) -> float | None:
    """Pearson correlation of x (n,) and y (n,)."""
    if not (_varies(x) and _varies(y)):
        return None
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def spearman(x: Floats, y: Floats) -> float | None:
    """Spearman rank correlation of x (n,) and y (n,); ties share their mean rank."""
    return pearson(rankdata(x), rankdata(y))


def determination(observed: Floats, predicted: Floats) -> float | None:
    """R2 = 1 - SSE / SST, both (n,); below 0 where the predictions do worse than the mean of what was observed."""
    if not _varies(observed):
        return None
    sse, sst = ((observed - predicted) ** 2).sum(), ((observed - observed.mean()) ** 2).sum()
    return float(1.0 - sse / sst)


def pairwise_accuracy(scores: Floats, a: Ints, b: Ints, p_a: Floats) -> tuple[float | None, int]:
    """Share of choices whose preferred task has the higher score, and the number of choices counted.

    scores is (n,); a and b (m,) index it; p_a (m,) is the probability or share of choosing a. A choice with p_a of
    exactly .5 has no direction and is skipped; equal scores count as half right.
    """
    a, b, right = _decided(scores, a, b, p_a)
    return (float(right.mean()) if len(right) else None), len(right)


def accuracy_interval(scores: Floats, a: Ints, b: Ints, p_a: Floats, *, seed: int) -> Interval | None:
    """`pairwise_accuracy`, resampling tasks: a choice counts as often as its first task times its second is drawn."""
    n = len(scores)
    value, _ = pairwise_accuracy(scores, a, b, p_a)
    if value is None:
        return None
    a, b, right = _decided(scores, a, b, p_a)
    counts = _resample_counts(n, seed)
    total, correct = (
        ((coo_array((weight, (a, b)), shape=(n, n)).T.tocsr() @ counts.T).T * counts).sum(axis=1)
        for weight in (np.ones(len(right)), right)
    )
    return _interval(value, np.divide(correct, total, out=np.full(len(total), np.nan), where=total > 0))


def pearson_interval(x: Floats, y: Floats, *, seed: int, tasks: npt.NDArray[Any] | None = None) -> Interval | None:
    """Pearson correlation, resampling tasks. Rows with the same entry in `tasks` (n,) are drawn together."""
    value = pearson(x, y)
    return None if value is None else _interval(value, _resampled_pearson(x, y, tasks, seed))


def paired_difference(
    observed: Floats, first: Floats, second: Floats, *, seed: int, tasks: npt.NDArray[Any] | None = None
) -> Interval | None:
    """r(observed, first) - r(observed, second), all (n,), both on the same resamples of tasks."""
    one, two = pearson(observed, first), pearson(observed, second)
    if one is None or two is None:
        return None
    draws = _resampled_pearson(observed, first, tasks, seed) - _resampled_pearson(observed, second, tasks, seed)
    return _interval(one - two, draws)


def fold_mean_interval(
    values: Sequence[float | None], held_out: Ints, *, seed: int, weights: Floats | None = None
) -> Interval | None:
    """Mean of one value for each fold, weighted if `weights` (n_folds,) are given; None values are left out.

    held_out (n_folds, k) indexes the topics of each fold. Topics are resampled, and a fold counts as often as the
    product of its topics' draws: for k = 1 that resamples folds, and for k > 1 it allows for their overlap.
    """
    known = np.array([i for i, v in enumerate(values) if v is not None], dtype=np.int64)
    if not len(known):
        return None
    r = np.array([v for v in values if v is not None])
    w = np.ones(len(r)) if weights is None else weights[known]
    topics, of = np.unique(held_out[known], return_inverse=True)
    value = float(w @ r / w.sum())
    if len(topics) < 3:
        return Interval(value=value, low=None, high=None)
    drawn = _resample_counts(len(topics), seed)[:, of.reshape(held_out[known].shape)].prod(axis=2) * w
    total = drawn.sum(axis=1)
    return _interval(value, np.divide(drawn @ r, total, out=np.full(len(total), np.nan), where=total > 0))


def best(values: Sequence[float | None]) -> int:
    """Index of the largest value, the first of equals. If nothing is estimable the last: the strongest penalty."""
    known = [(v, -i) for i, v in enumerate(values) if v is not None]
    return -max(known)[1] if known else len(values) - 1


def _varies(x: Floats) -> bool:
    """Whether x has three values or more, and more variance than the rounding of its own magnitude explains."""
    return len(x) >= 3 and bool(np.std(x) > 4 * np.finfo(np.float64).eps * np.abs(x).max())


def _decided(scores: Floats, a: Ints, b: Ints, p_a: Floats) -> tuple[Ints, Ints, Floats]:
    """The choices with a direction, and for each 1 right, 0 wrong, .5 equal scores."""
    decided = p_a != 0.5
    a, b = a[decided], b[decided]
    agreement = np.sign(scores[a] - scores[b]) * np.sign(p_a[decided] - 0.5)
    return a, b, 0.5 + 0.5 * agreement


def _resampled_pearson(x: Floats, y: Floats, tasks: npt.NDArray[Any] | None, seed: int) -> Floats:
    """(RESAMPLES,) correlations, NaN where a resample has no variance.

    Sums over rows add up over tasks, so one product of draws and sums by task does all resamples.
    """
    x, y = x - x.mean(), y - y.mean()
    sums = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)
    if tasks is not None:
        names, of = np.unique(tasks, return_inverse=True)
        by_task = np.zeros((len(names), sums.shape[1]))
        np.add.at(by_task, of, sums)
        sums = by_task
    n, sx, sy, sxx, syy, sxy = (_resample_counts(len(sums), seed) @ sums).T
    vx, vy = n * sxx - sx * sx, n * syy - sy * sy
    estimable = (vx > 1e-12 * n * sxx) & (vy > 1e-12 * n * syy)
    out = np.full(len(n), np.nan)
    out[estimable] = ((n * sxy - sx * sy)[estimable] / np.sqrt(vx[estimable] * vy[estimable])).clip(-1.0, 1.0)
    return out


def _resample_counts(n: int, seed: int) -> Floats:
    """(RESAMPLES, n): how often each of n things is in each of the resamples, which have n draws."""
    drawn = np.random.default_rng([seed, n]).integers(n, size=(RESAMPLES, n))
    flat = drawn + n * np.arange(RESAMPLES)[:, None]
    return np.bincount(flat.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n).astype(np.float64)


def _interval(value: float, draws: Floats) -> Interval:
    draws = draws[np.isfinite(draws)]
    if len(draws) < RESAMPLES / 2:
        return Interval(value=value, low=None, high=None)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value=value, low=float(low), high=float(high))
