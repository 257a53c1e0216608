"""Intervals over folds of held-out topics, which are no independent samples: every two of them share training topics.

Worse, each topic is tested with the others' help and helps when they are tested, so that where there is nothing to find, what
two topics have in common by chance counts in both folds. Taking folds as independent gives intervals that are some 1.3 times
too narrow. A jackknife over topics with refits (every other fold trained without the topic too) sees all of that, and is wide
enough (Efron and Stein 1981), but counts what belongs to pairs of topics twice: where there is nothing to find that is all
there is, and its variance more than twice the true one. So there a smaller variance takes its place,

- for a correlation, that of a jackknife that leaves out folds without refitting others, times 1 + T / (T - k) for T topics of
  which k are held out together: what sharing training data adds by Nadeau and Bengio (2003, Machine Learning 52: 239-281);
- for the difference of two kinds of features, the jackknife's less the part of pairs, once (Efron and Stein's correction), and
  no less than that without refits.

Where the estimate lies outside of the interval about 0 that this gives, what topics do on their own counts more and more: from
its bound to twice its bound the variance goes over to the jackknife's. Bounds are Student's t with T - 1 degrees of freedom,
correlations on Fisher's scale. How often they hold the truth is measured by benchmarks/calibration.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from prefprobe.probes.folds import Blocks, Folds, pooled_correlation
from prefprobe.probes.intervals import Floats, Interval, around, around_r, fisher, jackknife_se

_FEWEST = 3
"""Topics that can be left out, for an interval."""


def mean_of_folds(folds: Sequence[dict[str, Any]], *, weighted: bool = False) -> Interval | None:
    """Mean of r over folds, weighted by their test tasks if asked, from `folds` of hoo.json; None if no fold has an r.

    Each entry has `held_out`, `n`, `r`, and `r_without` {topic: r when trained without it too}; folds without r are left out.
    """
    table = _Table.of(folds)
    weights = np.array([fold["n"] if weighted else 1.0 for fold in folds])
    value = table.mean(table.r, weights)
    if value is None:
        return None
    plain, refitted = table.left_out(weights)
    if plain is None or refitted is None:
        return around_r(value, None, None)
    return _correlation(value, plain, refitted, len(folds[0]["held_out"]))


def difference_of_folds(first: dict[str, Any], second: dict[str, Any]) -> Interval | None:
    """Mean of r(first) - r(second) over the folds that both have an r of, from two hoo.json of the same tasks and topics.

    None if there is no such fold. Without bounds if fewer than 3 topics can be left out.
    """
    other = {tuple(fold["held_out"]): fold for fold in second["folds"]}
    pairs = [(fold, other[tuple(fold["held_out"])]) for fold in first["folds"] if tuple(fold["held_out"]) in other]
    if not pairs:
        return None
    table = _Table.of([fold for fold, _ in pairs])
    of_second = _Table.of([fold for _, fold in pairs])
    table = _Table(table.topics, table.held_out, table.r - of_second.r, table.r_without - of_second.r_without)
    weights = np.ones(len(pairs))
    value = table.mean(table.r, weights)
    if value is None:
        return None
    plain, refitted = table.left_out(weights)
    if plain is None or refitted is None:
        return around(value, None, None)
    least = max(_variance(plain), _variance(refitted) - table.of_pairs())
    return around(value, *_se(value, least, refitted))


def pooled_over_folds(folds: Folds, value: float | None, predicted: Floats, without: Floats) -> Interval | None:
    """Interval of `value`, r of the eval predictions pooled over folds.

    predicted is (f, 3, k), without (f, t, 3, k): means, squares and products of each fold's predictions, by held-out topic,
    as `LayerFolds.eval_without` has them; the first trained as the fold is, the other without one more topic.
    """
    if value is None:
        return None
    held_out = np.array(folds.held_out)
    about = Blocks.of(folds.tests.mu[:, None], folds.eval).about(held_out)  # (f, k, 1) each
    left_out = []
    for t in range(len(folds.topics)):
        inside = ~(held_out == t).any(axis=1)
        left_out.append([_pooled(about, moments, inside) for moments in (predicted, without[:, t])])
    plain, refitted = np.array(left_out).T
    known = ~(np.isnan(plain) | np.isnan(refitted))
    if known.sum() < _FEWEST:
        return around_r(value, None, None)
    return _correlation(value, plain[known], refitted[known], held_out.shape[1])


def _pooled(about: tuple[Floats, Floats, Floats], moments: Floats, inside: Any) -> float:
    rows = [values[inside].reshape(-1, 1) for values in about]
    return float(pooled_correlation(*rows, *moments[inside].transpose(1, 0, 2).reshape(3, -1, 1))[0])


def _correlation(value: float, plain: Floats, refitted: Floats, holdout: int) -> Interval:
    """From values with one topic left out, without refits and with them."""
    topics = len(plain)
    least = _variance(fisher(plain)) * (1.0 + topics / (topics - holdout))
    return around_r(value, *_se(float(fisher(value)), least, fisher(refitted)))


def _se(value: float, least: float, refitted: Floats) -> tuple[float, int]:
    """Standard error and degrees of freedom, between the variance where there is nothing and the jackknife's."""
    whole, df = _variance(refitted), len(refitted) - 1
    least = min(least, whole)
    bound = float(stdtrit(df, 0.975)) * np.sqrt(least)
    share = float(np.clip(abs(value) / bound - 1.0, 0.0, 1.0)) if bound > 0 else 1.0
    return float(np.sqrt(least + share * (whole - least))), df


def _variance(left_out: Floats) -> float:
    se = jackknife_se(left_out)
    assert se is not None
    return se * se


class _Table:
    """r of folds, and without one more topic, as arrays; NaN where not estimable."""

    def __init__(self, topics: list[str], held_out: Any, r: Floats, r_without: Floats):
        self.topics, self.held_out, self.r, self.r_without = topics, held_out, r, r_without

    @classmethod
    def of(cls, folds: Sequence[dict[str, Any]]) -> "_Table":
        topics = sorted({topic for fold in folds for topic in fold["held_out"]})
        held_out = np.array([[topic in fold["held_out"] for topic in topics] for fold in folds], dtype=np.bool_)
        r = np.array([fold["r"] for fold in folds], dtype=np.float64)
        r_without = [[fold["r_without"].get(topic) for topic in topics] for fold in folds]
        return cls(topics, held_out, r, np.array(r_without, dtype=np.float64))

    @staticmethod
    def mean(r: Floats, weights: Floats) -> float | None:
        known = ~np.isnan(r)
        return float(weights[known] @ r[known] / weights[known].sum()) if known.any() else None

    def left_out(self, weights: Floats) -> tuple[Floats | None, Floats | None]:
        """(t,) means over the folds without each topic, as they are and with it left out of training; None of too few."""
        found = []
        for t in range(len(self.topics)):
            rest = ~self.held_out[:, t]
            known = ~np.isnan(self.r[rest])
            of_topic = (np.where(known, r[rest], np.nan) for r in (self.r, self.r_without[:, t]))
            means = [self.mean(r, weights[rest]) for r in of_topic]
            if None not in means:
                found.append(means)
        if len(found) < _FEWEST:
            return None, None
        plain, refitted = np.array(found, dtype=np.float64).T
        return plain, refitted

    def of_pairs(self) -> float:
        """What the variance of the mean has from pairs of topics: how much less either helps where the other is tested."""
        changed = np.nan_to_num(self.r[:, None] - self.r_without)
        helped = self.held_out.T.astype(np.float64) @ changed / max(int((~np.isnan(self.r)).sum()), 1)
        pairs = (helped + helped.T)[np.triu_indices(len(self.topics), 1)]
        return float((pairs**2).sum())
