"""Held-one-out: does a probe trained on some topics read preferences within topics that it never saw?"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefprobe.errors import BadConfig
from prefprobe.probes.aligned import Floats, TaskSet, require_rows, task_sets
from prefprobe.probes.foldintervals import mean_of_folds, pooled_over_folds
from prefprobe.probes.folds import Folds, LayerFolds, layer_folds
from prefprobe.probes.metrics import pearson
from prefprobe.probes.ridge import ALPHAS
from prefprobe.probes.turns import best_of, permutation_p

MIN_TOPIC_TASKS = 3
"""Fewest train tasks in a topic: a correlation within it takes as many."""


@dataclass(frozen=True, eq=False)
class CrossTopicResult:
    """What `cross_topic` finds."""

    summary: dict[str, Any]
    """`holdout`, `n_folds`, `folds`, `mean`, `sd`, `weighted_mean`, `pooled`, `p`, `layers`: ready for JSON."""
    predictions: pa.Table
    """task_id, topic, set, fold, observed, predicted: every task of a fold's held-out topics, in both runs."""


@dataclass(frozen=True, eq=False)
class CrossTopic:
    """What folds are made of, whatever the features: layers may be computed anywhere, `join` puts them together."""

    train: TaskSet
    eval: TaskSet
    folds: Folds
    alphas: Floats
    compat: bool
    permutations: int
    seed: int

    @classmethod
    def of(
        cls,
        task_ids: np.ndarray,
        train: Mapping[str, float],
        eval_: Mapping[str, float],
        topics: Mapping[str, str],
        *,
        holdout: int = 1,
        alphas: Floats = ALPHAS,
        compat: bool = False,
        permutations: int = 199,
        seed: int = 0,
    ) -> "CrossTopic":
        """Arguments and errors as for `cross_topic`."""
        tasks, tests = task_sets(task_ids, train, eval_, topics)
        folds = Folds.of(tasks, tests, fold_topics(tasks.topics, holdout), holdout)
        return cls(tasks, tests, folds, alphas, compat, permutations, seed)

    def layer(self, X: npt.NDArray[Any]) -> LayerFolds:
        """What folds give on one layer's features (n, d), whose rows belong to the task ids."""
        whole_eval = self.eval if self.compat else None
        return layer_folds(X, self.folds, whole_eval, self.alphas, self.permutations, self.seed)

    def join(self, layers: Mapping[int, LayerFolds]) -> CrossTopicResult:
        """Choose penalties and layers inside the folds, and sum up what the folds find."""
        order, folds = np.array(sorted(layers)), self.folds
        of_layers = [layers[layer] for layer in order]
        nested, r = (np.stack(values) for values in zip(*((of.nested, of.r) for of in of_layers), strict=True))
        alpha = best_of(nested.swapaxes(0, 1))  # (layer, target, fold); the target 0 has the true labels
        if self.compat:  # one for all layers and folds, chosen anew for every permutation
            alpha = np.broadcast_to(best_of(of_layers[0].whole)[:, None], alpha.shape)
        nested, r = (np.take_along_axis(values, alpha[:, None], axis=1)[:, 0] for values in (nested, r))
        layer = best_of(nested)
        chosen = np.take_along_axis(r, layer[None], axis=0)[0]
        means = [_mean_sd(of_target)["mean"] for of_target in chosen]
        layer, alpha, r, of_fold = layer[0], alpha[:, 0], r[:, 0], np.arange(len(folds.held_out))
        a = alpha[layer, of_fold]
        r_without, eval_without = (
            np.stack([getattr(of, name) for of in of_layers])[layer, a, of_fold]
            for name in ("r_without", "eval_without")
        )
        tables, pooled, moments, about = [], [], [], []
        start = {"train": 0, "eval": 0}
        for fold, topics in enumerate(folds.held_out):
            found: dict[str, tuple[Floats, Floats]] = {}
            for name, tasks, rows, of in (
                ("train", folds.tasks, folds.train, of_layers[layer[fold]].predicted),
                ("eval", folds.tests, folds.eval, of_layers[layer[fold]].predicted_eval),
            ):
                at = np.concatenate([np.arange(rows[topic].start, rows[topic].stop) for topic in topics])
                predicted = of[a[fold], start[name] : start[name] + len(at)]
                start[name] += len(at)
                tested = tasks.at(at)
                found[name] = tested.mu, predicted
                by_id = np.argsort(tested.ids)
                tables.append(_table(tested.at(by_id), name, fold, predicted[by_id]))
            pooled.append(found["eval"])
            moments.append(folds.eval_moments(topics, found["eval"][1]))
            about.append(
                {
                    "held_out": [folds.topics[topic] for topic in topics],
                    "n": len(found["train"][0]),
                    "layer": int(order[layer[fold]]),
                    "alpha": float(self.alphas[a[fold]]),
                    "r": _number(chosen[0, fold]),
                    "r_eval": pearson(*found["eval"]),
                    "n_eval": len(found["eval"][0]),
                    "r_without": {
                        name: _number(value)
                        for topic, (name, value) in enumerate(zip(folds.topics, r_without[fold], strict=True))
                        if topic not in topics
                    },
                }
            )
        summary = {
            "holdout": len(folds.held_out[0]),
            "n_folds": len(folds.held_out),
            "folds": about,
            "mean": mean_of_folds(about),
            "sd": _mean_sd(chosen[0])["sd"],
            "weighted_mean": mean_of_folds(about, weighted=True),
            "pooled": pooled_over_folds(
                folds, pearson(*map(np.concatenate, zip(*pooled, strict=True))), np.stack(moments), eval_without
            ),
            "p": permutation_p(means[0], np.array(means[1:], dtype=np.float64)),
            "layers": {str(name): _mean_sd(of_layer) for name, of_layer in zip(order, r, strict=True)},
        }
        return CrossTopicResult(summary, pa.concat_tables(tables))


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
    permutations: int = 199,
    seed: int = 0,
) -> CrossTopicResult:
    """Probes on raw utilities for every set of `holdout` topics of train held out together, C(n, holdout) folds.

    Weights and intercept of a fold come from the train tasks of its training topics. Its alpha and layer are those with the
    highest Pearson r between these tasks' utilities and their leave-one-topic-out predictions, pooled over the training
    topics (nested selection). Features are centred and scaled as those of all train tasks are, which uses no utility. With
    `compat`, as in the published procedure, one alpha serves all folds: that with the highest r on the whole eval set, for a
    probe of all train tasks at the first layer; layers stay nested.

    A fold's r is that of the held-out topics' train tasks, r_eval that of their eval tasks, `r_without` what r would be had
    one more topic never been measured. Reported are the unweighted mean of r over folds with its sample standard deviation,
    the mean weighted by the number of test tasks, and r of the eval predictions pooled over folds, with the intervals of
    `foldintervals`. `p` is the share (k + 1) / (N + 1) of permutations of train utilities within topics, N = `permutations`,
    whose mean is as high, each with alpha and layer chosen anew. `layers` gives mean and standard deviation of r with each
    layer alone.

    Arguments are as for `heldout_probe`. Raises BadConfig (a topic with fewer than 3 train tasks, fewer than
    holdout + 2 topics, and what `align` refuses) or InputMissing (a task without features or topic).
    """
    require_rows(layers, task_ids)
    study = CrossTopic.of(
        task_ids, train, eval_, topics,
        holdout=holdout, alphas=alphas, compat=compat, permutations=permutations, seed=seed,
    )  # fmt: skip
    return study.join({layer: study.layer(X) for layer, X in layers.items()})


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


def _mean_sd(values: Floats) -> dict[str, float | None]:
    """Mean and sample standard deviation of the values that could be estimated."""
    known = values[~np.isnan(values)]
    mean = float(np.mean(known)) if len(known) else None
    return {"mean": mean, "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _table(tasks: TaskSet, name: str, fold: int, predicted: Floats) -> pa.Table:
    n = len(predicted)
    return pa.table(
        {
            "task_id": pa.array(tasks.ids.tolist(), pa.string()),
            "topic": pa.array(tasks.topics.tolist(), pa.string()),
            "set": pa.array([name] * n, pa.string()),
            "fold": pa.array([fold] * n, pa.int32()),
            "observed": tasks.mu,
            "predicted": predicted,
        }
    )
