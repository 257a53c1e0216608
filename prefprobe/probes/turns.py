"""Selection and test on the same tasks without a leak: both halves of the eval set in turn.

Alpha and layer are chosen on one half and predict the other, and the reverse, so every task is predicted once by a probe
in whose choice it had no say.

Permuted labels go through all of it like true ones. Those of train and of eval are permuted, each within its set: the null
is that features know nothing of utilities. With labels of train alone permuted, a probe still falls on the activations'
largest component, with either sign; where that one has to do with utilities, half of such probes predict them, and no r
could be told from chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefprobe.probes.aligned import Floats, Ints
from prefprobe.probes.intervals import fisher
from prefprobe.probes.metrics import correlations
from prefprobe.probes.ridge import Decomposition, fit, predict

SPLIT_SEED = 42
_TARGETS = 400
"""Targets solved at a time: at 3,000 eval tasks, ten penalties and d = 5,376 that is some 270 MB, for one factor each."""


@dataclass(frozen=True, eq=False)
class Turn:
    """Positions among the sorted eval tasks."""

    half: int
    """1 or 2: which half is predicted."""
    select: Ints
    final: Ints


def turns(n: int, *, compat: bool = False) -> list[Turn]:
    """Half 1, the first floor(n / 2) of the permutation of `default_rng(42)`, selects for half 2, and the reverse.

    With `compat`, as published, half 1 only selects and half 2 alone is predicted.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(n)
    one, two = np.sort(order[: n // 2]), np.sort(order[n // 2 :])
    both = [Turn(1, two, one), Turn(2, one, two)]
    return both[1:] if compat else both


@dataclass(frozen=True, eq=False)
class Labels:
    """What probes are trained on and tested against, as it is (variant 0) and permuted."""

    train: Floats
    """(variants, n_train, t)."""
    eval: Floats
    """(variants, n_eval, t)."""

    @classmethod
    def of(cls, train: Floats, eval_: Floats, permutations: int, seed: int) -> "Labels":
        """Labels (n, t) of both sets, whose rows are permuted within each set."""
        shuffles = [np.random.default_rng([seed, k]) for k in range(permutations)]
        orders = [(rng.permutation(len(train)), rng.permutation(len(eval_))) for rng in shuffles]
        return cls(
            np.stack([train, *(train[order] for order, _ in orders)]),
            np.stack([eval_, *(eval_[order] for _, order in orders)]),
        )


@dataclass(frozen=True, eq=False)
class LayerFit:
    """One layer's probes for true labels (variant 0) and permuted ones, t targets each."""

    alphas: Floats
    r_select: Floats
    """(turns, variants, t): r on the selecting half at the best alpha there; NaN where nothing varies."""
    alpha: Ints
    """(turns, variants, t): index of that alpha."""
    predicted: Floats
    """(variants, n_eval, t): each half at the alpha of its turn; NaN where no turn predicts."""
    sweep: Floats
    """(n_alphas, t): r of the true labels on all tasks that select for the probe that is kept."""
    kept: Ints
    """(t,) index of its alpha."""
    w: Floats
    """(d, t) the probe that is kept."""
    b: Floats
    """(t,)."""


def fit_layer(
    X_train: np.ndarray, X_eval: np.ndarray, labels: Labels, of: Sequence[Turn], alphas: Floats,
    names: np.ndarray | None = None,
) -> LayerFit:  # fmt: skip
    """Probes of one layer, trained on features (n_train, d), that predict (n_eval, d).

    The probe that is kept has the alpha of the highest r on all tasks that select: the whole eval set, or half 1 if that
    alone selects. Raises BadConfig for features that are not finite, by the names of the train rows.
    """
    variants, _, t = labels.train.shape
    y, y_eval = (part.transpose(1, 0, 2).reshape(part.shape[1], -1) for part in (labels.train, labels.eval))
    decomposition = Decomposition.of(X_train, names)
    r_select, alpha = np.empty((len(of), variants * t)), np.empty((len(of), variants * t), np.int64)
    predicted = np.full((len(y_eval), variants * t), np.nan)
    choosers = np.sort(np.concatenate([turn.select for turn in of]))
    # true labels alone come first: their last digits then do not depend on how many permutations follow
    for block in (slice(0, t), *(slice(k, min(k + _TARGETS, variants * t)) for k in range(t, variants * t, _TARGETS))):
        W, b = fit(decomposition, y[:, block], alphas)
        scores = predict(X_eval, W, b)
        for k, turn in enumerate(of):
            sweep = correlations(y_eval[turn.select, block], scores[:, turn.select])
            a = best_of(sweep)
            alpha[k, block], r_select[k, block] = a, np.take_along_axis(sweep, a[None], 0)[0]
            predicted[turn.final, block] = np.take_along_axis(scores[:, turn.final], a[None, None], 0)[0]
        if block.start == 0:
            sweep = correlations(y_eval[choosers, :t], scores[:, choosers, :t])
            kept = best_of(sweep)
            w, intercept = np.stack([W[a, :, i] for i, a in enumerate(kept)], axis=1), b[kept, np.arange(t)]
            whole = (sweep, kept, w, intercept)
    return LayerFit(
        alphas, r_select.reshape(len(of), variants, t), alpha.reshape(len(of), variants, t),
        predicted.reshape(len(y_eval), variants, t).transpose(1, 0, 2), *whole,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class InTurn:
    """One target's predictions, alpha and layer chosen in turn, and what permuted labels give in the same way."""

    predicted: Floats
    """(n_eval,) of true labels; NaN where no turn predicts."""
    selected: dict[str, dict[str, Any]]
    """`layer` and `alpha` for each predicted half, "1" and "2"."""
    shuffled: Floats
    """(permutations,) r of permuted labels within halves; NaN where nothing varies."""


def in_turn(fits: Mapping[int, LayerFit], of: Sequence[Turn], labels: Labels, target: int) -> InTurn:
    """Choose each half's layer by the r of the other at its best alpha, for every permutation of the labels anew."""
    layers = sorted(fits)
    predicted = np.full_like(fits[layers[0]].predicted[:, :, target], np.nan)
    selected = {}
    for k, turn in enumerate(of):
        top = best_of(np.stack([fits[layer].r_select[k, :, target] for layer in layers]))
        for i, layer in enumerate(layers):
            variants = np.flatnonzero(top == i)
            cells = np.ix_(variants, turn.final)
            predicted[cells] = fits[layer].predicted[:, :, target][cells]
        chosen = layers[top[0]]
        alpha = float(fits[chosen].alphas[fits[chosen].alpha[k, 0, target]])
        selected[str(turn.half)] = {"layer": chosen, "alpha": alpha}
    # within halves, as `metrics.r_within`
    z = sum(
        len(turn.final) * fisher(correlations(labels.eval[1:, turn.final, target].T, predicted[1:, turn.final].T))
        for turn in of
    )
    return InTurn(predicted[0], selected, np.tanh(z / len(final_tasks(of))))


def final_tasks(of: Sequence[Turn]) -> Ints:
    """Sorted positions of the tasks that are predicted."""
    return np.sort(np.concatenate([turn.final for turn in of]))


def permutation_p(r: float | None, shuffled: Floats) -> dict[str, Any] | None:
    """One-sided p of r: (k + 1) / (N + 1), where k of N permutations reach it (Phipson and Smyth 2010).

    One whose predictions do not vary counts as one that does. None without r or permutations.
    """
    if r is None or not len(shuffled):
        return None
    reach = len(shuffled) - int((shuffled < r).sum())
    return {"value": (reach + 1) / (len(shuffled) + 1), "permutations": len(shuffled)}


def best_of(values: Floats) -> Ints:
    """`best` along the first axis of values (k, ...), NaN where nothing can be estimated."""
    known = np.where(np.isnan(values), -np.inf, values)
    return np.asarray(np.where(np.isnan(values).all(axis=0), len(values) - 1, known.argmax(axis=0)))
