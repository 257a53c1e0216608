"""Held-one-out: does a probe trained on some topics read preferences within topics that it never saw?"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefprobe.errors import BadConfig
from prefprobe.probes.aligned import Floats, TaskSet, align
from prefprobe.probes.metrics import best, fold_mean_interval, pearson, pearson_interval
from prefprobe.probes.ridge import ALPHAS, Decomposition, fit, group_out_predictions, predict, require_finite

MIN_TOPIC_TASKS = 3
"""Fewest train tasks in a topic: a correlation within it takes as many."""


@dataclass(frozen=True, eq=False)
class CrossTopicResult:
    """What `cross_topic` finds."""

    summary: dict[str, Any]
    """`holdout`, `n_folds`, `folds`, `mean`, `sd`, `weighted_mean`, `pooled`, `layers`: ready for JSON."""
    predictions: pa.Table
    """task_id, topic, set, fold, observed, predicted: every task of a fold's held-out topics, in both runs."""


@dataclass(frozen=True, eq=False)
class _Fold:
    """A set of topics held out together, as masks over the train tasks and the eval tasks."""

    topics: tuple[str, ...]
    train: npt.NDArray[np.bool_]
    eval: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Fitted:
    """One fold's probe at one layer, alpha chosen: its predictions of the held-out tasks, and what speaks for it."""

    r_nested: float | None
    alpha: float
    r: float | None
    train: Floats
    eval: Floats


def cross_topic(
    layers: Mapping[int, np.ndarray],
    task_ids: np.ndarray,
    train: Mapping[str, float],
    eval_: Mapping[str, float],
    topics: Mapping[str, str],
    *,
    holdout: int = 1,
    alphas: Floats = ALPHAS,
    compat: bool = False,
    seed: int = 0,
) -> CrossTopicResult:
    """Probes on raw utilities for every set of `holdout` topics of train held out together, C(n, holdout) folds.

    Means, scales and weights of a fold come from the train tasks of its training topics. Its alpha and layer are those
    with the highest Pearson r between these tasks' utilities and their leave-one-topic-out predictions, pooled over the
    training topics (nested selection). With `compat`, as in the published procedure, one alpha serves all folds: that
    with the highest r on the whole eval set, for a probe of all train tasks at the first layer; layers stay nested.

    A fold's r is that of the held-out topics' train tasks, r_eval that of their eval tasks. Reported are the unweighted
    mean of r over folds with its sample standard deviation, the mean weighted by the number of test tasks, and r of
    the eval predictions pooled over folds. `layers` gives mean and standard deviation of r with each layer alone.

    Arguments are as for `heldout_probe`. Raises BadConfig (a topic with fewer than 3 train tasks, fewer than
    holdout + 2 topics, and what `align` refuses) or InputMissing (a task without features or topic).
    """
    tasks, tests = align(layers, task_ids, train, eval_, topics)
    names = fold_topics(tasks.topics, holdout)
    folds = [
        _Fold(held_out, np.isin(tasks.topics, held_out), np.isin(tests.topics, held_out))
        for held_out in combinations(names, holdout)
    ]
    order = sorted(layers)
    if compat:
        alphas = _one_alpha(layers[order[0]], tasks, tests, alphas)
    by_layer = [_probes(layers[layer], tasks, tests, folds, alphas) for layer in order]

    chosen = [best([probe.r_nested for probe in probes]) for probes in zip(*by_layer, strict=True)]
    probes = [by_layer[layer][f] for f, layer in enumerate(chosen)]
    r = [probe.r for probe in probes]
    n = np.array([fold.train.sum() for fold in folds], dtype=np.float64)
    held_out = np.array([[names.index(topic) for topic in fold.topics] for fold in folds])
    observed = np.concatenate([tests.mu[fold.eval] for fold in folds])
    predicted = np.concatenate([probe.eval for probe in probes])
    ids = np.concatenate([tests.ids[fold.eval] for fold in folds])
    summary = {
        "holdout": holdout,
        "n_folds": len(folds),
        "folds": [
            {
                "held_out": list(fold.topics),
                "n": int(fold.train.sum()),
                "layer": order[layer],
                "alpha": probe.alpha,
                "r": probe.r,
                "r_eval": pearson(tests.mu[fold.eval], probe.eval),
                "n_eval": int(fold.eval.sum()),
            }
            for fold, layer, probe in zip(folds, chosen, probes, strict=True)
        ],
        "mean": fold_mean_interval(r, held_out, seed=seed),
        "sd": _mean_sd(r)["sd"],
        "weighted_mean": fold_mean_interval(r, held_out, seed=seed, weights=n),
        "pooled": pearson_interval(observed, predicted, seed=seed, tasks=ids),
        "layers": {str(layer): _mean_sd([p.r for p in probes]) for layer, probes in zip(order, by_layer, strict=True)},
    }
    tables = [
        _table(of, mask, name, f, values)
        for f, (fold, probe) in enumerate(zip(folds, probes, strict=True))
        for of, mask, name, values in (
            (tasks, fold.train, "train", probe.train),
            (tests, fold.eval, "eval", probe.eval),
        )
    ]
    return CrossTopicResult(summary, pa.concat_tables(tables))


def fold_topics(of_train: Iterable[str], holdout: int) -> list[str]:
    """The topics that folds hold out, sorted, by the topic of every train task. Raises BadConfig if one is too small, or
    if too few are left to train on.
    """
    counts = sorted(Counter(map(str, of_train)).items())
    small = min(counts, key=lambda named: named[1], default=("", MIN_TOPIC_TASKS))
    if small[1] < MIN_TOPIC_TASKS:
        raise BadConfig(
            f"topics: {small[0]!r} has {small[1]} train tasks, and a fold needs {MIN_TOPIC_TASKS} or more of each topic; "
            f"merge small topics, as `topics.min_tasks: {MIN_TOPIC_TASKS}` of a preset does, or add tasks."
        )
    if holdout < 1 or len(counts) < holdout + 2:
        listed = ", ".join(f"{name!r} of {n}" for name, n in counts[:3]) + (" …" if len(counts) > 3 else "")
        raise BadConfig(
            f"topics: {len(counts)} ({listed} train tasks) are too few to hold out {holdout}, which takes {holdout + 2}: "
            f"two must be left to train on; {'' if holdout == 1 else 'hold out 1 (`probes.holdout` of a preset), or '}add topics."
        )
    return [name for name, _ in counts]


def _one_alpha(X: np.ndarray, tasks: TaskSet, tests: TaskSet, alphas: Floats) -> Floats:
    """(1,) the alpha with which a probe of all train tasks has the highest r on the whole eval set."""
    require_finite(X[tests.rows], "the features", tests.ids)
    W, b = fit(Decomposition.of(X[tasks.rows], tasks.ids), tasks.mu, alphas)
    a = best([pearson(tests.mu, predicted) for predicted in predict(X[tests.rows], W, b)[:, :, 0]])
    return alphas[a : a + 1]


def _probes(X: np.ndarray, tasks: TaskSet, tests: TaskSet, folds: Sequence[_Fold], alphas: Floats) -> list[_Fitted]:
    """One layer's probe of each fold."""
    X_train, X_eval = X[tasks.rows], X[tests.rows]
    require_finite(X_eval, "the features", tests.ids)
    out = []
    for fold in folds:
        inside = ~fold.train
        y = tasks.mu[inside]
        decomposition = Decomposition.of(X_train[inside], tasks.ids[inside])
        nested = group_out_predictions(decomposition, y, tasks.topics[inside], alphas)
        sweep = [pearson(y, predicted) for predicted in nested]
        a = best(sweep)
        W, b = fit(decomposition, y, alphas[a : a + 1])
        train = predict(X_train[fold.train], W, b)[0, :, 0]
        evaluation = predict(X_eval[fold.eval], W, b)[0, :, 0]
        out.append(_Fitted(sweep[a], float(alphas[a]), pearson(tasks.mu[fold.train], train), train, evaluation))
    return out


def _mean_sd(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and sample standard deviation of the values that could be estimated."""
    known = [v for v in values if v is not None]
    mean = float(np.mean(known)) if known else None
    return {"mean": mean, "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None}


def _table(tasks: TaskSet, mask: npt.NDArray[np.bool_], name: str, fold: int, predicted: Floats) -> pa.Table:
    n = len(predicted)
    return pa.table(
        {
            "task_id": pa.array(tasks.ids[mask].tolist(), pa.string()),
            "topic": pa.array(tasks.topics[mask].tolist(), pa.string()),
            "set": pa.array([name] * n, pa.string()),
            "fold": pa.array([fold] * n, pa.int32()),
            "observed": tasks.mu[mask],
            "predicted": predicted,
        }
    )
