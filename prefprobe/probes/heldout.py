"""Probes trained on the train run and tested on tasks of the eval run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from prefprobe.errors import BadConfig
from prefprobe.probes.aligned import Floats, Ints, Strings, TaskSet, align
from prefprobe.probes.demean import TopicMeans
from prefprobe.probes.metrics import (
    accuracy_interval,
    best,
    determination,
    pairwise_accuracy,
    pearson,
    pearson_interval,
)
from prefprobe.probes.ridge import ALPHAS, Decomposition, fit, predict, require_finite

Choices = tuple[np.ndarray, np.ndarray, np.ndarray]
Pairs = tuple[Ints, Ints, Floats]

TARGETS = ("raw", "demeaned")
SPLIT_SEED = 42
MIN_TASKS = 6
"""Fewest train tasks, and fewest eval tasks: three in each half of eval."""


@dataclass(frozen=True, eq=False)
class HeldoutResult:
    """What `heldout_probe` finds; dictionaries are ready for JSON, with None where nothing can be estimated."""

    targets: dict[str, dict[str, Any]]
    """For raw and demeaned utilities: `layers` {L: metrics}, `best_layer`, and `r`, `R2`, `accuracy`, `alpha` there."""
    shuffled: dict[str, dict[str, Any]]
    """For each target: mean, low and high of r over permuted train labels at the target's best layer."""
    ceiling: dict[str, Any]
    """`accuracy` of the eval utilities themselves on the same choices, and `n_choices`: what a perfect probe gets."""
    split: dict[str, int]
    predictions: pa.Table
    """task_id, topic, target, observed, predicted: the final half at the best layer."""
    probes: dict[str, np.ndarray]
    """`<target>_<L>_w` (d,) and `<target>_<L>_b` (): the prediction is X @ w + b for features as they are stored."""

    @property
    def summary(self) -> dict[str, Any]:
        """What `probe.json` says of it."""
        return {**self.split, "targets": self.targets, "shuffled": self.shuffled, "ceiling": self.ceiling}


@dataclass(frozen=True, eq=False)
class _Halves:
    """Positions among the sorted eval tasks."""

    select: Ints
    final: Ints


@dataclass(frozen=True, eq=False)
class _Fitted:
    """One layer's probe of one target, alpha chosen."""

    sweep: list[float | None]
    """r on the selection half at each alpha."""
    alpha: int
    """Index of the chosen one."""
    final: Floats
    """(n_final,) predictions."""
    w: Floats
    b: float
    shuffled: list[float | None]
    """r on the final half for each permutation of the labels."""


def heldout_probe(
    layers: Mapping[int, np.ndarray],
    task_ids: np.ndarray,
    train: Mapping[str, float],
    eval_: Mapping[str, float],
    topics: Mapping[str, str],
    choices: Choices,
    *,
    alphas: Floats = ALPHAS,
    compat: bool = False,
    seed: int = 0,
    permutations: int = 20,
) -> HeldoutResult:
    """Train on `train`, choose alpha and layer on one half of `eval_`, report on its other half.

    Eval ids are sorted and permuted by `default_rng(42)`; the first floor(n / 2) select by Pearson r. The demeaned
    target is the residual of topic means fitted on train; with `compat`, as in the published procedure, those of eval
    are eval's own. `shuffled` repeats everything with train labels permuted; alpha is still chosen against true eval
    labels, so the control pays for the same choice. The probe of a demeaned target is scored on the same choices.

    layers[L] is (n, d), rows belong to task_ids (n,); train and eval_ give utilities by task id. choices are task_a and
    task_b (ids, as shown) and p_a of the eval run, (m,) each, without refusals. Each row counts once, in the direction
    of p_a against .5: where one ordered pair is asked once for its exact probability, give one row for each pair, with
    the two orders' logits averaged, or position bias passes for preference.

    Raises BadConfig (a task in both sets, values that are not finite, fewer than 6 tasks) or InputMissing (a task
    without features or topic).
    """
    tasks, tests = align(layers, task_ids, train, eval_, topics)
    for name, n in (("train", len(train)), ("eval", len(eval_))):
        if n < MIN_TASKS:
            raise BadConfig(f"probe: {name} has {n} tasks, and at least {MIN_TASKS} are needed; add tasks.")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(tests.ids))
    n_select = len(order) // 2
    halves = _Halves(np.sort(order[:n_select]), np.sort(order[n_select:]))
    means = TopicMeans.fit(tasks.mu, tasks.topics)
    eval_means = TopicMeans.fit(tests.mu, tests.topics) if compat else means
    y_train = np.stack([tasks.mu, means.residual(tasks.mu, tasks.topics)], axis=1)
    y_eval = np.stack([tests.mu, eval_means.residual(tests.mu, tests.topics)], axis=1)
    shuffles = [np.random.default_rng([seed, k]).permutation(len(y_train)) for k in range(permutations)]
    labels = np.stack([y_train, *(y_train[shuffle] for shuffle in shuffles)], axis=2)
    fits = {layer: _fit_layer(layers[layer], tasks, tests, labels, y_eval, halves, alphas) for layer in sorted(layers)}

    final_ids = tests.ids[halves.final]
    pairs = _final_choices(choices, final_ids)
    targets: dict[str, dict[str, Any]] = {}
    shuffled: dict[str, dict[str, Any]] = {}
    probes: dict[str, np.ndarray] = {}
    tables = []
    for t, target in enumerate(TARGETS):
        observed = y_eval[halves.final, t]
        by_layer = {layer: of_layer[t] for layer, of_layer in fits.items()}
        summaries = {layer: _summary(probe, observed, pairs, alphas) for layer, probe in by_layer.items()}
        top = list(by_layer)[best([summary["r_select"] for summary in summaries.values()])]
        targets[target] = {
            "layers": {str(layer): summary for layer, summary in summaries.items()},
            "best_layer": top,
            "r": pearson_interval(observed, by_layer[top].final, seed=seed),
            "R2": summaries[top]["R2"],
            "accuracy": accuracy_interval(by_layer[top].final, *pairs, seed=seed),
            "alpha": summaries[top]["alpha"],
        }
        shuffled[target] = _chance(by_layer[top].shuffled)
        tables.append(_table(final_ids, tests.topics[halves.final], target, observed, by_layer[top].final))
        for layer, probe in by_layer.items():
            probes |= {f"{target}_{layer}_w": probe.w, f"{target}_{layer}_b": np.array(probe.b)}
    accuracy, n_choices = pairwise_accuracy(tests.mu[halves.final], *pairs)
    return HeldoutResult(
        targets,
        shuffled,
        {"accuracy": accuracy, "n_choices": n_choices},
        {"n_train": len(train), "n_eval": len(eval_), "n_select": n_select, "n_final": len(final_ids)},
        pa.concat_tables(tables),
        probes,
    )


def _fit_layer(
    X: np.ndarray, tasks: TaskSet, tests: TaskSet, labels: Floats, y_eval: Floats, halves: _Halves, alphas: Floats
) -> list[_Fitted]:
    """One probe for each target; labels are (n_train, n_targets, 1 + permutations), the true ones first."""
    n, n_targets, variants = labels.shape
    X_eval = X[tests.rows]
    require_finite(X_eval, "the features", tests.ids)
    W, b = fit(Decomposition.of(X[tasks.rows], tasks.ids), labels.reshape(n, -1), alphas)
    predicted = predict(X_eval, W, b).reshape(len(alphas), -1, n_targets, variants)
    W, b = W.reshape(len(alphas), -1, n_targets, variants), b.reshape(len(alphas), n_targets, variants)
    probes = []
    for t in range(n_targets):
        select, final = y_eval[halves.select, t], y_eval[halves.final, t]
        sweeps = [[pearson(select, p[halves.select, t, v]) for p in predicted] for v in range(variants)]
        a = [best(sweep) for sweep in sweeps]
        tested = [predicted[a[v], halves.final, t, v] for v in range(variants)]
        w = np.ascontiguousarray(W[a[0], :, t, 0])
        by_chance = [pearson(final, values) for values in tested[1:]]
        probes.append(_Fitted(sweeps[0], a[0], tested[0], w, float(b[a[0], t, 0]), by_chance))
    return probes


def _summary(probe: _Fitted, observed: Floats, pairs: Pairs, alphas: Floats) -> dict[str, Any]:
    r, (accuracy, n_choices) = pearson(observed, probe.final), pairwise_accuracy(probe.final, *pairs)
    return {
        "alpha": float(alphas[probe.alpha]),
        "alpha_at_edge": probe.alpha in (0, len(alphas) - 1),
        "sweep": probe.sweep,
        "r_select": probe.sweep[probe.alpha],
        "r": r,
        "r_squared": None if r is None else r * r,
        "R2": determination(observed, probe.final),
        "accuracy": accuracy,
        "n_choices": n_choices,
    }


def _final_choices(choices: Choices, final_ids: Strings) -> Pairs:
    """The choices between two tasks of the final half: positions of both in it, and p_a."""
    task_a, task_b, p_a = (np.asarray(column) for column in choices)
    wrong = ~((p_a >= 0) & (p_a <= 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise BadConfig(
            f"choices: p_a of {task_a[row]} against {task_b[row]} is {p_a[row]}, which is no probability; "
            "leave out answers that chose neither."
        )
    position = {str(task_id): i for i, task_id in enumerate(final_ids)}
    a, b = (np.array([position.get(str(task_id), -1) for task_id in column], np.int64) for column in (task_a, task_b))
    inside = (a >= 0) & (b >= 0)
    return a[inside], b[inside], p_a[inside].astype(np.float64)


def _chance(values: list[float | None]) -> dict[str, Any]:
    """Mean and central 95 % of r over permutations; those without variance in their predictions are left out."""
    r = [value for value in values if value is not None]
    low, high = np.quantile(r, [0.025, 0.975]).tolist() if r else (None, None)
    return {"mean": float(np.mean(r)) if r else None, "low": low, "high": high, "permutations": len(values)}


def _table(ids: Strings, topics: Strings, target: str, observed: Floats, predicted: Floats) -> pa.Table:
    return pa.table(
        {
            "task_id": pa.array(ids.tolist(), pa.string()),
            "topic": pa.array(topics.tolist(), pa.string()),
            "target": pa.array([target] * len(ids), pa.string()),
            "observed": observed,
            "predicted": predicted,
        }
    )
