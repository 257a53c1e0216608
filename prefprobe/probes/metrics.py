"""How well predictions agree with what was observed, with 95 % intervals over tasks.

A statistic that cannot be estimated is None, never NaN: fewer than three values, or no variance.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from prefprobe.probes.intervals import Interval, around, around_r, fisher, jackknife_se

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def pearson(x: Floats, y: Floats) -> float | None:
    """Pearson correlation of x (n,) and y (n,)."""
    if not (_varies(x) and _varies(y)):
        return None
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def spearman(x: Floats, y: Floats) -> float | None:
    """Spearman rank correlation of x (n,) and y (n,); ties share their mean rank."""
    from scipy.stats import rankdata  # takes longer to import than all else here, and most steps rank nothing

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


def r_within(x: Floats, y: Floats, groups: Ints) -> float | None:
    """Pearson r of x and y (n,) within groups (n,), one number: tanh of the mean Fisher z, weighted by rows.

    Where each group's y comes from another probe, as of two halves that chose different penalties, the level and the
    scale of one probe say nothing of the other's: they are not compared. None if a group has no r.
    """
    z = [(len(rows), pearson(x[rows], y[rows])) for rows in _rows(groups)]
    known = [(n, float(fisher(r))) for n, r in z if r is not None]
    if not z or len(known) < len(z):
        return None
    return z[0][1] if len(z) == 1 else float(np.tanh(sum(n * value for n, value in known) / len(x)))


def r_interval(x: Floats, y: Floats, groups: Ints | None = None) -> Interval | None:
    """Pearson r of x and y (n,), whose rows are a sample of tasks: jackknife over rows on Fisher's z.

    With `groups` (n,) it is `r_within` them. Unlike 1 / sqrt(n - 3), the jackknife holds where the two are not normal
    (Miller 1974). No bounds where a group has fewer than 4 rows.
    """
    groups = np.zeros(len(x), np.int64) if groups is None else groups
    r = r_within(x, y, groups)
    return None if r is None else around_r(r, _se(_left_out_z(x, y, groups)), _df(groups))


def paired_difference(observed: Floats, first: Floats, second: Floats, groups: Ints | None = None) -> Interval | None:
    """r(observed, first) - r(observed, second), all (n,), of the same tasks: jackknife over tasks of the difference.

    With `groups` (n,) both are `r_within` them.
    """
    groups = np.zeros(len(observed), np.int64) if groups is None else groups
    one, two = (r_within(observed, scores, groups) for scores in (first, second))
    if one is None or two is None:
        return None
    left_out = [np.tanh(_left_out_z(observed, scores, groups)) for scores in (first, second)]
    return around(one - two, _se(left_out[0] - left_out[1]), _df(groups))


def accuracy_interval(scores: Floats, a: Ints, b: Ints, p_a: Floats) -> Interval | None:
    """`pairwise_accuracy`, with the errors of choices that share a task: other tasks would have been drawn, and chosen.

    The jackknife over tasks (one left out with all its choices) less that over pairs: a pair's own error, in which the
    answer was given by chance, is in the sums of both of its tasks and would count twice. To first order this is the
    variance for dyadic data of Fafchamps and Gubert (2007) and Aronow, Samii and Assenova (2015); it is never less than
    that of independent choices. Its degrees of freedom are Satterthwaite's (1946) for such a difference, the second term
    taken as known: with tasks - 1 of them 93 % of intervals covered at 60 tasks, where it is half of the first. Bounds lie
    between 0 and 1; where all choices are right, or none, the interval is not 0 wide.
    """
    value, n = pairwise_accuracy(scores, a, b, p_a)
    if value is None:
        return None
    a, b, right = _decided(scores, a, b, p_a)
    error = right - value
    low, high = np.minimum(a, b), np.maximum(a, b)
    _, pair = np.unique(low * len(scores) + high, return_inverse=True)
    ends = np.concatenate([a, b[a != b]])
    errors = np.concatenate([error, error[a != b]])
    of_task, of_pair, n_task = np.bincount(ends, errors), np.bincount(pair, error), np.bincount(ends)
    tasks = int((n_task > 0).sum())
    if tasks < 3 or (n_task >= n).any():
        return around(value, None, None)
    # leaving a task out moves the accuracy by its sum of errors over the number of the other choices
    over_tasks = (tasks - 1) / tasks * ((of_task / (n - n_task)) ** 2).sum()
    own = (of_pair**2).sum() / n**2
    # where all are right, or none, bounds reach as far as Wilson's (1927), 1.96² / (n + 1.96²)
    independent = (error**2).sum() / n**2 or (2 / (n + 4)) ** 2
    variance = max(over_tasks - own, independent)
    df = (tasks - 1) * min(1.0, variance / over_tasks) ** 2 if over_tasks else tasks - 1
    found = around(value, float(np.sqrt(variance)), df)
    if found["low"] is None or found["high"] is None:
        return found
    return {**found, "low": max(0.0, found["low"]), "high": min(1.0, found["high"])}


def correlations(x: Floats, y: Floats) -> Floats:
    """`pearson` of each column: x (n, k) with y (..., n, k), (..., k); NaN where it is None."""
    n = y.shape[-2]
    if n < 3:
        return np.full((*y.shape[:-2], y.shape[-1]), np.nan)
    eps = _rounding(n)
    magnitude = [np.abs(v).max(axis=-2) for v in (x, y)]
    x, y = x - x.mean(axis=0), y - y.mean(axis=-2, keepdims=True)
    xx, yy = (x * x).sum(axis=0), (y * y).sum(axis=-2)
    vary = [np.sqrt(square / n) > eps * most for square, most in zip((xx, yy), magnitude, strict=True)]
    xy = (x * y).sum(axis=-2)
    out = np.divide(xy, np.sqrt(xx * yy), out=np.full(xy.shape, np.nan), where=vary[0] & vary[1])
    return np.asarray(out.clip(-1.0, 1.0))


def best(values: Sequence[float | None]) -> int:
    """Index of the largest value, the first of equals. If nothing is estimable the last: the strongest penalty."""
    known = [(v, -i) for i, v in enumerate(values) if v is not None]
    return -max(known)[1] if known else len(values) - 1


def _varies(x: Floats) -> bool:
    """Whether x has three values or more, and more variance than the rounding of its own magnitude explains."""
    return len(x) >= 3 and bool(np.std(x) > _rounding(len(x)) * np.abs(x).max())


def _rounding(n: int) -> float:
    """What a mean of n equal values may be off by, in units of them."""
    return max(4, n) * float(np.finfo(np.float64).eps)


def _left_out(x: Floats, y: Floats) -> Floats:
    """(n,) Pearson r of x and y (n,) with one row left out; NaN where nothing that varies is left."""
    n = len(x)
    x, y = x - x.mean(), y - y.mean()
    again = n / (n - 1)  # without row i a sum of products about the new means loses x_i y_i n / (n - 1)
    xx, yy, xy = ((u * v).sum() - u * v * again for u, v in ((x, x), (y, y), (x, y)))
    vary = (xx > 1e-12 * (x @ x)) & (yy > 1e-12 * (y @ y)) & (n > 3)
    return np.asarray(np.divide(xy, np.sqrt(np.where(vary, xx * yy, 1.0)), out=np.full(n, np.nan), where=vary))


def _left_out_z(x: Floats, y: Floats, groups: Ints) -> Floats:
    """(n,) Fisher's z of `r_within` with one row left out, groups weighted as before; NaN where nothing varies."""
    rows = list(_rows(groups))
    left_out = [fisher(_left_out(x[of], y[of])) for of in rows]
    whole = [np.nan if (r := pearson(x[of], y[of])) is None else float(fisher(r)) for of in rows]
    out = np.empty(len(x))
    for k, of in enumerate(rows):
        others = sum(len(rows[i]) * z for i, z in enumerate(whole) if i != k)
        out[of] = (len(of) * left_out[k] + others) / len(x)
    return out


def _rows(groups: Ints) -> Iterator[Ints]:
    return (np.flatnonzero(groups == group) for group in np.unique(groups))


def _df(groups: Ints) -> int:
    return len(groups) - len(np.unique(groups))


def _se(left_out: Floats) -> float | None:
    """The jackknife's standard error; None where an estimate hangs on a single row."""
    return jackknife_se(left_out) if np.isfinite(left_out).all() else None


def _decided(scores: Floats, a: Ints, b: Ints, p_a: Floats) -> tuple[Ints, Ints, Floats]:
    """The choices with a direction, and for each 1 right, 0 wrong, .5 equal scores."""
    decided = p_a != 0.5
    a, b = a[decided], b[decided]
    agreement = np.sign(scores[a] - scores[b]) * np.sign(p_a[decided] - 0.5)
    return a, b, 0.5 + 0.5 * agreement
