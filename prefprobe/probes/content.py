"""Does the model know more of preferences than what a text is about? Its probe against an encoder's, two ways.

*Residual*: what an encoder's embedding predicts is taken out of the utilities and out of the activations, and a probe is
trained on what is left of both (partialling out: Robinson 1988; Chernozhukov et al. 2018). Both predictions are
cross-fitted, or a regression that has seen a train task would take more out of it than of an eval task. Activations are
residualised too, since ridge shrinks: some of what the encoder knows stays in the utilities' residual, where features with
the same content find it again (with residuals of the utilities alone, 11 to 17 % of intervals lay above 0 in null worlds).

*Nested*: do the model's predictions add to the encoder's? Least squares of train utilities on cross-fitted predictions, of
one or of both (stacking: Wolpert 1992; Breiman 1996), tested on eval.

Both say what a linear probe can read out of the encoder with so many train tasks, not what an encoder could know: one that
is wider than there are tasks may lose to features that hold no more, but in fewer dimensions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from prefprobe.probes.aligned import Floats, Ints, TaskSet, align
from prefprobe.probes.heldout import PERMUTATIONS, require_tasks
from prefprobe.probes.metrics import determination, paired_difference, pearson, r_interval
from prefprobe.probes.ridge import ALPHAS, Decomposition, fit, predict, require_finite
from prefprobe.probes.turns import Labels, fit_layer, in_turn, permutation_p, turns

FOLDS = 5
_TARGETS = 100
"""Targets solved at a time: their left-out predictions at all penalties are held together."""
_DUST = 1e-4
"""A feature of which the encoder leaves less variance than this share is one of the encoder's."""

Rows = tuple[np.ndarray, np.ndarray]
"""Task ids (n,) and features (n, d), a row each."""


def content_controls(
    model: Rows,
    encoders: Mapping[str, Rows],
    train: Mapping[str, float],
    eval_: Mapping[str, float],
    *,
    alphas: Floats = ALPHAS,
    folds: int = FOLDS,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> dict[str, dict[str, Any]]:
    """{encoder: {`residual`, `nested`}} for one layer of the model, ready for JSON; None where nothing can be estimated.

    `residual`: `r` (Interval over eval tasks) between the eval residual and what a probe of the model's residual
    activations makes of it, its penalty chosen on each half of eval for the other; `p` over permutations of both
    residuals, the penalty chosen anew in each; `alpha` has the penalties.

    `nested`: `r` and `R2` on eval of `encoder`, `model` and `both`; `gain` (Interval) is r of both less r of the encoder
    alone, `gain_of_encoder` that less r of the model alone. All penalties are those of the least squared error of
    predictions left out of `folds` folds of train.

    train and eval_ give utilities by task id. Raises as `heldout_probe` does.
    """
    require_tasks(train, eval_)
    activations = _CrossFit.of(model, train, eval_, folds, seed)
    y, y_eval = activations.train.mu[:, None], activations.tests.mu[:, None]
    by_model = activations.predictions(y, alphas)
    found = {}
    for name, rows in encoders.items():
        encoder = _CrossFit.of(rows, train, eval_, folds, seed)
        by_encoder = encoder.predictions(y, alphas)
        residual = (y - by_encoder[0], y_eval - by_encoder[1])
        left = encoder.residual(activations.X_train, activations.X_eval, alphas)
        found[name] = {
            "residual": _residual(*left, *residual, alphas, seed, permutations),
            "nested": _nested(y[:, 0], y_eval[:, 0], by_encoder, by_model),
        }
    return found


class _CrossFit:
    """Ridge from one kind of features to any targets: of train rows by folds that left them out, of eval rows by all."""

    def __init__(self, X_train: np.ndarray, X_eval: np.ndarray, train: TaskSet, tests: TaskSet, fold: Ints) -> None:
        self.X_train, self.X_eval, self.train, self.tests = X_train, X_eval, train, tests
        self._whole = Decomposition.of(X_train, train.ids)
        self._parts = [(fold == k, Decomposition.of(X_train[fold != k])) for k in np.unique(fold)]

    @classmethod
    def of(
        cls, rows: Rows, train: Mapping[str, float], eval_: Mapping[str, float], folds: int, seed: int
    ) -> "_CrossFit":
        ids, X = rows
        tasks, tests = align({0: X}, ids, train, eval_, dict.fromkeys([*train, *eval_], ""))
        require_finite(X[tests.rows], "the features", tests.ids)
        fold = np.random.default_rng(seed).permutation(len(tasks.ids)) % folds
        return cls(X[tasks.rows], X[tests.rows], tasks, tests, fold)

    def predictions(self, y: Floats, alphas: Floats) -> tuple[Floats, Floats]:
        """(n, t) and (n_eval, t) for targets y (n, t), each at the penalty of its least squared left-out error."""
        left_out = np.empty((len(alphas), *y.shape))
        for inside, part in self._parts:
            W, b = fit(part, y[~inside], alphas)
            left_out[:, inside] = predict(self.X_train[inside], W, b)
        a = ((left_out - y) ** 2).sum(axis=1).argmin(axis=0)
        out = np.empty((len(self.X_eval), y.shape[1]))
        for chosen in np.unique(a):
            W, b = fit(self._whole, y[:, a == chosen], alphas[chosen : chosen + 1])
            out[:, a == chosen] = predict(self.X_eval, W, b)[0]
        return np.take_along_axis(left_out, a[None, None], axis=0)[0], out

    def residual(self, X_train: np.ndarray, X_eval: np.ndarray, alphas: Floats) -> tuple[np.ndarray, np.ndarray]:
        """Both matrices without what these features predict of them, float32; a column that is all predicted is 0."""
        left = np.empty(X_train.shape, np.float32), np.empty(X_eval.shape, np.float32)
        for start in range(0, X_train.shape[1], _TARGETS):
            block = slice(start, start + _TARGETS)
            values = tuple(X[:, block].astype(np.float64) for X in (X_train, X_eval))
            rest = [v - p for v, p in zip(values, self.predictions(values[0], alphas), strict=True)]
            known = rest[0].var(axis=0) <= _DUST * values[0].var(axis=0)
            for out, value in zip(left, rest, strict=True):
                out[:, block] = np.where(known, 0.0, value)
        return left


def _residual(
    X_train: np.ndarray, X_eval: np.ndarray, y: Floats, y_eval: Floats, alphas: Floats, seed: int, permutations: int
) -> dict[str, Any]:
    both, labels = turns(len(y_eval)), Labels.of(y, y_eval, permutations, seed)
    found = in_turn({0: fit_layer(X_train, X_eval, labels, both, alphas)}, both, labels, 0)
    half = np.zeros(len(y_eval), np.int64)
    for turn in both:
        half[turn.final] = turn.half
    r = r_interval(y_eval[:, 0], found.predicted, half)
    selected = {half: choice["alpha"] for half, choice in found.selected.items()}
    return {"r": r, "p": permutation_p(r and r["value"], found.shuffled), "alpha": selected}


def _nested(y: Floats, y_eval: Floats, encoder: tuple[Floats, Floats], model: tuple[Floats, Floats]) -> dict[str, Any]:
    stacked = {
        name: _stack(y, [of[0] for of in some], [of[1] for of in some])
        for name, some in (("encoder", [encoder]), ("model", [model]), ("both", [encoder, model]))
    }
    scores = {name: {"r": pearson(y_eval, p), "R2": determination(y_eval, p)} for name, p in stacked.items()}
    return {
        **scores,
        "gain": paired_difference(y_eval, stacked["both"], stacked["encoder"]),
        "gain_of_encoder": paired_difference(y_eval, stacked["both"], stacked["model"]),
    }


def _stack(y: Floats, train: list[Floats], tests: list[Floats]) -> Floats:
    """(n_eval,): least squares of y (n,) on an intercept and left-out predictions (n, 1) each, applied to `tests`."""
    design = np.hstack([np.ones((len(y), 1)), *train])
    weights = np.linalg.lstsq(design, y, rcond=None)[0]
    return np.asarray(np.hstack([np.ones((len(tests[0]), 1)), *tests]) @ weights)
