"""What one layer's features give when topics are held out: every penalty, every fold, every permutation of the labels.

A *fold* holds k topics out together. Its penalty is chosen among its training topics by leaving out one more of them at a
time, and the jackknife over topics asks what the fold finds if one more topic had never been measured. Both are the fits
without k + 1 topics, so these and the folds themselves are all that is computed, once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from prefprobe.probes.aligned import Floats, Strings, TaskSet
from prefprobe.probes.leaveout import LeftOut
from prefprobe.probes.ridge import Decomposition, fit, require_finite


@dataclass(frozen=True, eq=False)
class Folds:
    """Which train tasks and eval tasks stand where, and which topics are held out together."""

    tasks: TaskSet
    """Train tasks, topic by topic."""
    tests: TaskSet
    """Eval tasks of these topics, topic by topic."""
    topics: tuple[str, ...]
    held_out: list[tuple[int, ...]]
    """For each fold the topics that it holds out, as indices of `topics`."""
    train: list[slice]
    """For each topic, its rows among `tasks`."""
    eval: list[slice]
    """For each topic, its rows among `tests`; empty where eval has none."""

    @classmethod
    def of(cls, tasks: TaskSet, tests: TaskSet, topics: Sequence[str], holdout: int) -> "Folds":
        """All C(n, holdout) folds of these topics."""
        names = np.array(topics, dtype=np.str_)
        ours = tests.at(np.flatnonzero(np.isin(tests.topics, names)))
        tasks, tests = (of.at(np.argsort(of.topics, kind="stable")) for of in (tasks, ours))
        held_out = list(combinations(range(len(topics)), holdout))
        return cls(tasks, tests, tuple(topics), held_out, _slices(tasks.topics, names), _slices(tests.topics, names))

    def eval_moments(self, topics: Sequence[int], predicted: Floats) -> Floats:
        """(3, topics) means, squares and products of predictions of these topics' eval tasks, as in `LayerFolds`."""
        y = np.concatenate([self.tests.mu[self.eval[topic]] for topic in topics])
        n = [self.eval[topic].stop - self.eval[topic].start for topic in topics]
        rows = [slice(stop - size, stop) for size, stop in zip(n, accumulate(n), strict=True)]
        return Blocks.of(y[:, None], rows).moments(predicted[:, None])[..., 0]


NO_R = 2.0
"""In files, where there is no r to estimate: no r is as large."""


@dataclass(frozen=True, eq=False)
class LayerFolds:
    """Of one layer, for a penalties, 1 + N targets (true labels first), f folds and t topics. NaN is not estimable."""

    nested: Floats
    """(a, 1 + N, f) r of leave-one-topic-out predictions, pooled over a fold's training topics: what chooses alpha and layer."""
    r: Floats
    """(a, 1 + N, f) r over the held-out topics' train tasks."""
    whole: Floats
    """(a, 1 + N) r on all eval tasks of a probe of all train tasks; (a, 0) if not asked for."""
    r_without: Floats
    """(a, f, t) r of a fold that is trained without topic t too; NaN where the fold holds t out."""
    eval_without: Floats
    """(a, f, t, 3, k) what it then predicts of eval, by held-out topic: mean, sum of squares about it, and sum of products with
    utilities about both means; 0 where the fold holds t out, or eval has no task of the topic.
    """
    predicted: Floats
    """(a, m) predictions of every fold's held-out train tasks, fold by fold, topic by topic."""
    predicted_eval: Floats
    """(a, m') the same of eval tasks."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """By name, for an NPZ, with NO_R in place of NaN."""
        return {field.name: np.nan_to_num(getattr(self, field.name), nan=NO_R) for field in fields(self)}

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "LayerFolds":
        """Of what `arrays` gives."""
        r = {
            name: np.where(arrays[name] == NO_R, np.nan, arrays[name]) for name in ("nested", "r", "whole", "r_without")
        }
        return cls(**{**arrays, **r})


def layer_folds(
    X: npt.NDArray[Any], folds: Folds, whole_eval: TaskSet | None, alphas: Floats, permutations: int, seed: int
) -> LayerFolds:
    """Fit and test one layer's features X, (tasks, d), whose rows `folds` knows.

    Means and scales of features are those of all train tasks, held-out ones too: no utility is used for them. Permuted
    labels are train utilities permuted within topics. `whole_eval`, all eval tasks, asks for `whole`.
    """
    tasks, tests, held_out = folds.tasks, folds.tests, folds.held_out
    require_finite(X[tests.rows], "the features", tests.ids)
    decomposition = Decomposition.of(X[tasks.rows], tasks.ids)
    Z_eval = (X[tests.rows] - decomposition.mean) / decomposition.scale
    y = labels(folds, permutations, seed)
    train, of_eval = Blocks.of(y, folds.train), Blocks.of(tests.mu[:, None], folds.eval)
    a, v, f, t, k = len(alphas), y.shape[1], len(held_out), len(folds.topics), len(held_out[0])
    more = list(combinations(range(t), k + 1))
    # The fit without the topics of `more[q]` is, for each j, that of fold without[q, j] with its topic left out too.
    number = {topics: fold for fold, topics in enumerate(held_out)}
    left_out = np.array(more)
    without = np.array([[number[(*topics[:j], *topics[j + 1 :])] for j in range(k + 1)] for topics in more])
    others = np.array([[i for i in range(k + 1) if i != j] for j in range(k + 1)])
    rest = np.array([[topic not in topics for topics in held_out] for topic in range(t)])

    nested, r, r_without = np.empty((a, v, f)), np.empty((a, v, f)), np.full((a, f, t), np.nan)
    eval_without = np.zeros((a, f, t, 3, k))
    predicted, predicted_eval = [], []
    for i, alpha in enumerate(alphas):
        left = LeftOut(decomposition, y, folds.train, float(alpha))
        errors = [left.errors(topics) for topics in [*held_out, *more]]
        found = [train.predicted(topics, e) for topics, e in zip([*held_out, *more], errors, strict=True)]
        true = [e[:, 0] for e in errors]
        moments, moments_more = (
            np.stack([m for _, m in part], axis=2) for part in (found[:f], found[f:])
        )  # (3, k, f, v)
        r[i] = pooled_correlation(*train.about(np.array(held_out).T), *moments).T
        inner = np.zeros((3, t, f, v))
        inner[:, left_out.T, without.T] = moments_more
        n_rest, mean_y, yy = train.about(np.arange(t)[:, None])
        nested[i] = pooled_correlation(n_rest * rest[:, :, None], mean_y, yy, *inner).T
        predicted.append(np.concatenate([values[:, 0] for values, _ in found[:f]]))

        w, b = left.weights([*held_out, *more], true)
        on_eval = Z_eval @ w + b
        predicted_eval.append(
            np.concatenate([on_eval[folds.eval[topic], fold] for fold in range(f) for topic in held_out[fold]])
        )
        of_topic = of_eval.moments(on_eval[:, f:])  # (3, t, q)
        for j in range(k + 1):
            topics = left_out[:, others[j]].T
            of_fold = moments_more[:, others[j], :, :1]
            r_without[i, without[:, j], left_out[:, j]] = pooled_correlation(
                *(x[..., :1] for x in train.about(topics)), *of_fold
            )[:, 0]
            eval_without[i, without[:, j], left_out[:, j]] = of_topic[:, topics, np.arange(len(more))].transpose(
                2, 0, 1
            )
        del left  # before the next one takes as much memory
    whole = np.empty((a, 0)) if whole_eval is None else _whole(X, decomposition, y, whole_eval, alphas)
    return LayerFolds(nested, r, whole, r_without, eval_without, np.stack(predicted), np.stack(predicted_eval))


@dataclass(frozen=True, eq=False)
class Blocks:
    """Utilities of rows that stand topic by topic: v targets, t topics."""

    y: Floats
    """(rows, v)."""
    rows: list[slice]
    about_mean: Floats
    """(rows, v) less the topic's mean."""
    n: Floats
    """(t,) rows of each topic; 0 where there are none."""
    mean: Floats
    """(t, v)."""
    squares: Floats
    """(t, v) sum of squares about the mean."""

    @classmethod
    def of(cls, y: Floats, rows: list[slice]) -> "Blocks":
        """Of targets y (rows, v), whose topics stand one after the other."""
        n = np.array([r.stop - r.start for r in rows], dtype=np.float64)
        mean = _sums(y, n) / np.maximum(n, 1.0)[:, None]
        about = y - np.repeat(mean, n.astype(np.int64), axis=0)
        return cls(y, rows, about, n, mean, _sums(about**2, n))

    def about(self, topics: npt.NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        """Of these topics: rows (…, 1), means and sums of squares (…, v)."""
        return self.n[topics][..., None], self.mean[topics], self.squares[topics]

    def moments(self, predicted: Floats) -> Floats:
        """(3, t, s): means of predictions (rows, s), their squares and their products with the first target about both means."""
        mean = _sums(predicted, self.n) / np.maximum(self.n, 1.0)[:, None]
        about = predicted - np.repeat(mean, self.n.astype(np.int64), axis=0)
        return np.stack([mean, _sums(about * about, self.n), _sums(about * self.about_mean[:, :1], self.n)])

    def predicted(self, topics: Sequence[int], errors: Floats) -> tuple[Floats, Floats]:
        """Predictions of these topics' rows, (rows, v), from their errors, and (3, topics, v) as `moments` gives them."""
        y, about_mean = (
            np.concatenate([values[self.rows[topic]] for topic in topics]) for values in (self.y, self.about_mean)
        )
        n = self.n[list(topics)]
        values = y - errors
        mean = _sums(values, n) / n[:, None]
        about = values - np.repeat(mean, n.astype(np.int64), axis=0)
        return values, np.stack([mean, _sums(about * about, n), _sums(about * about_mean, n)])


def _sums(values: Floats, n: Floats) -> Floats:
    """(t, v) sums over consecutive blocks of n rows; 0 of an empty one."""
    out = np.zeros((len(n), values.shape[1]))
    if len(values):
        starts = (np.cumsum(n) - n).astype(np.int64)
        out[n > 0] = np.add.reduceat(values, starts[n > 0], axis=0)
    return out


def labels(folds: Folds, permutations: int, seed: int) -> Floats:
    """(n, 1 + permutations) train utilities, and permutations of them within topics."""
    out = np.repeat(folds.tasks.mu[:, None], 1 + permutations, axis=1)
    for k in range(permutations):
        rng = np.random.default_rng([seed, k])
        for rows in folds.train:
            out[rows, k + 1] = rng.permutation(out[rows, 0])
    return out


def pooled_correlation(n: Floats, mean_y: Floats, yy: Floats, mean_p: Floats, pp: Floats, yp: Floats) -> Floats:
    """Pearson r over blocks of rows, along the first axis, from each block's means and sums of squares and products about
    them; a block with n of 0 is not there. NaN where fewer than three rows are left, or nothing varies.
    """
    total = n.sum(axis=0)
    dy, dp = (mean - (n * mean).sum(axis=0) / np.maximum(total, 1.0) for mean in (mean_y, mean_p))
    there = n > 0
    syy, spp = ((there * squares + n * about**2).sum(axis=0) for squares, about in ((yy, dy), (pp, dp)))
    # as metrics.pearson: what rounding of the values' own magnitude may leave is no variance
    eps = 16 * np.finfo(np.float64).eps ** 2
    least_y, least_p = (eps * total * (there * np.abs(mean)).max(axis=0) ** 2 for mean in (mean_y, mean_p))
    varies = (total >= 3) & (syy > least_y) & (spp > least_p)
    out = np.full(varies.shape, np.nan)
    products = (there * yp + n * dy * dp).sum(axis=0)
    np.divide(products, np.sqrt(syy * spp), out=out, where=varies)
    return np.clip(out, -1.0, 1.0)


def _whole(X: npt.NDArray[Any], decomposition: Decomposition, y: Floats, tests: TaskSet, alphas: Floats) -> Floats:
    """(a, 1 + N) r on all eval tasks of probes of all train tasks."""
    require_finite(X[tests.rows], "the features", tests.ids)
    features, one = X[tests.rows].astype(np.float64), Blocks.of(tests.mu[:, None], [slice(0, len(tests.mu))])
    out = np.empty((len(alphas), y.shape[1]))
    for a in range(len(alphas)):
        W, b = fit(decomposition, y, alphas[a : a + 1])
        out[a] = pooled_correlation(*one.about(np.array([0])), *one.moments(features @ W[0] + b[0]))
    return out


def _slices(topics: Strings, names: Strings) -> list[slice]:
    ends = zip(np.searchsorted(topics, names), np.searchsorted(topics, names, side="right"), strict=True)
    return [slice(int(start), int(stop)) for start, stop in ends]
