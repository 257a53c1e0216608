"""Probes trained on the train run and tested on tasks of the eval run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from prefprobe.errors import BadConfig
from prefprobe.probes.aligned import Floats, Ints, Strings, align
from prefprobe.probes.demean import TopicMeans
from prefprobe.probes.metrics import accuracy_interval, determination, pairwise_accuracy, r_interval, r_within
from prefprobe.probes.ridge import ALPHAS, require_finite
from prefprobe.probes.turns import (
    Labels,
    LayerFit,
    Turn,
    best_of,
    final_tasks,
    fit_layer,
    in_turn,
    permutation_p,
    turns,
)

Choices = tuple[np.ndarray, np.ndarray, np.ndarray]
Pairs = tuple[Ints, Ints, Floats]

TARGETS = ("raw", "demeaned")
MIN_TASKS = 6
"""Fewest train tasks, and fewest eval tasks: three in each half of eval."""
PERMUTATIONS = 199
"""Label permutations: p is then .005 at least."""


@dataclass(frozen=True, eq=False)
class HeldoutResult:
    """What `heldout_probe` finds; dictionaries are ready for JSON, with None where nothing can be estimated."""

    targets: dict[str, dict[str, Any]]
    """For raw and demeaned utilities: `r`, `R2`, `accuracy` and `p` of predictions in turn, by what is `selected` for each
    half; `best_layer` and `alpha` of the probe that is kept; `layers` {L: metrics} with that layer alone."""
    shuffled: dict[str, dict[str, Any]]
    """For each target: mean, low and high of r over permuted labels, each with its own alpha and layer."""
    candidates: int
    """Layers that were chosen from."""
    split: dict[str, int]
    """`n_train`, `n_eval`, and of these `n_select` that choose and `n_final` that are predicted."""
    predictions: pa.Table
    """task_id, topic, target, half, observed, predicted: every task that is predicted, in turn."""
    probes: dict[str, np.ndarray]
    """`<target>_<L>_w` (d,) and `<target>_<L>_b` (): the prediction is X @ w + b for features as they are stored."""

    @property
    def summary(self) -> dict[str, Any]:
        """What `probe.json` says of it."""
        return {**self.split, "candidates": self.candidates, "targets": self.targets, "shuffled": self.shuffled}


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
    permutations: int = PERMUTATIONS,
) -> HeldoutResult:
    """Train on `train`; choose alpha and layer by Pearson r on each half of `eval_` to predict the other.

    So every eval task is predicted by a probe in whose choice it had no say: R2, r within halves (`metrics.r_within`), and
    the accuracy on choices between two tasks of the same half, which one probe scores, are of all of them (see `turns`).
    The probe that is kept for other uses has the alpha and the layer of the highest r on the whole eval set; what is
    reported is not its own r, which that choice would favour. The demeaned target is the residual of topic means fitted on
    train, scored on the same choices.

    p and `shuffled` repeat everything with the labels of both sets permuted, alpha and layer chosen anew in each.

    With `compat`, as in the published procedure, half 1 chooses and half 2 alone is predicted, by the probe that is kept,
    and topic means of eval are eval's own.

    layers[L] is (n, d), rows belong to task_ids (n,); train and eval_ give utilities by task id. choices are task_a and
    task_b (ids, as shown) and p_a of the eval run, (m,) each, without refusals. Each row counts once, in the direction
    of p_a against .5: where one ordered pair is asked once for its exact probability, give one row for each pair, with
    the two orders' logits averaged, or position bias passes for preference.

    Raises BadConfig (a task in both sets, values that are not finite, fewer than 6 tasks) or InputMissing (a task
    without features or topic).
    """
    tasks, tests = align(layers, task_ids, train, eval_, topics)
    require_tasks(train, eval_)
    means = TopicMeans.fit(tasks.mu, tasks.topics)
    eval_means = TopicMeans.fit(tests.mu, tests.topics) if compat else means
    y_train = np.stack([tasks.mu, means.residual(tasks.mu, tasks.topics)], axis=1)
    y_eval = np.stack([tests.mu, eval_means.residual(tests.mu, tests.topics)], axis=1)
    labels, both = Labels.of(y_train, y_eval, permutations, seed), turns(len(tests.ids), compat=compat)
    fits = {}
    for layer in sorted(layers):
        X_eval = layers[layer][tests.rows]
        require_finite(X_eval, "the features", tests.ids)
        fits[layer] = fit_layer(layers[layer][tasks.rows], X_eval, labels, both, alphas, tasks.ids)

    final, half = final_tasks(both), np.zeros(len(tests.ids), np.int64)
    for turn in both:
        half[turn.final] = turn.half
    pairs = _choices_within_halves(choices, tests.ids, half)
    targets: dict[str, dict[str, Any]] = {}
    shuffled: dict[str, dict[str, Any]] = {}
    tables = []
    for t, target in enumerate(TARGETS):
        found, observed = in_turn(fits, both, labels, t), y_eval[:, t]
        kept = list(fits)[best_of(np.array([_select(fit, t) for fit in fits.values()]))]
        r = r_interval(observed[final], found.predicted[final], half[final])
        targets[target] = {
            "layers": {str(layer): _layer(fit, both, labels, t, pairs, half) for layer, fit in fits.items()},
            "best_layer": kept,
            "alpha": float(alphas[fits[kept].kept[t]]),
            "selected": found.selected,
            "r": r,
            "p": permutation_p(r and r["value"], found.shuffled),
            "R2": determination(observed[final], found.predicted[final]),
            "accuracy": accuracy_interval(found.predicted, *pairs),
        }
        shuffled[target] = _chance(found.shuffled)
        tables.append(_table(tests.ids, tests.topics, target, half, observed, found.predicted).take(final))
    probes = {
        f"{target}_{layer}_{name}": value
        for layer, fit in fits.items()
        for t, target in enumerate(TARGETS)
        for name, value in (("w", np.ascontiguousarray(fit.w[:, t])), ("b", np.array(fit.b[t])))
    }
    n_select = len(np.unique(np.concatenate([turn.select for turn in both])))
    split = {"n_train": len(train), "n_eval": len(eval_), "n_select": n_select, "n_final": len(final)}
    return HeldoutResult(targets, shuffled, len(fits), split, pa.concat_tables(tables), probes)


def require_tasks(train: Mapping[str, float], eval_: Mapping[str, float]) -> None:
    """Raise BadConfig for fewer than 6 tasks in either set."""
    for name, n in (("train", len(train)), ("eval", len(eval_))):
        if n < MIN_TASKS:
            raise BadConfig(f"probe: {name} has {n} tasks, and at least {MIN_TASKS} are needed; add tasks.")


def _select(fit: LayerFit, t: int) -> float:
    """The r by which the layer's probe is kept."""
    return float(fit.sweep[fit.kept[t], t])


def _layer(fit: LayerFit, both: list[Turn], labels: Labels, t: int, pairs: Pairs, half: Ints) -> dict[str, Any]:
    """What this layer alone gives, alpha chosen in turn; `alpha` and `sweep` are those of the probe that is kept."""
    final, predicted = final_tasks(both), in_turn({0: fit}, both, labels, t).predicted
    observed, (accuracy, n_choices) = labels.eval[0, final, t], pairwise_accuracy(predicted, *pairs)
    r = r_within(observed, predicted[final], half[final])
    sweep = [None if np.isnan(value) else value for value in fit.sweep[:, t].tolist()]
    kept = int(fit.kept[t])
    return {
        "alpha": float(fit.alphas[kept]),
        "alpha_at_edge": kept in (0, len(fit.alphas) - 1),
        "sweep": sweep,
        "r_select": sweep[kept],
        "r": r,
        "r_squared": None if r is None else r * r,
        "R2": determination(observed, predicted[final]),
        "accuracy": accuracy,
        "n_choices": n_choices,
    }


def _choices_within_halves(choices: Choices, ids: Strings, half: Ints) -> Pairs:
    """The choices between two tasks of one half that is predicted: positions of both among the eval tasks, and p_a."""
    task_a, task_b, p_a = (np.asarray(column) for column in choices)
    wrong = ~((p_a >= 0) & (p_a <= 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise BadConfig(
            f"choices: p_a of {task_a[row]} against {task_b[row]} is {p_a[row]}, which is no probability; "
            "leave out answers that chose neither."
        )
    position = {str(task_id): i for i, task_id in enumerate(ids)}
    a, b = (np.array([position.get(str(task_id), -1) for task_id in column], np.int64) for column in (task_a, task_b))
    inside = (a >= 0) & (b >= 0)
    inside[inside] = (half[a[inside]] == half[b[inside]]) & (half[a[inside]] > 0)
    return a[inside], b[inside], p_a[inside].astype(np.float64)


def _chance(values: Floats) -> dict[str, Any]:
    """Mean and central 95 % of r over permutations; those without variance in their predictions are left out."""
    r = values[~np.isnan(values)]
    low, high = np.quantile(r, [0.025, 0.975]).tolist() if len(r) else (None, None)
    return {"mean": float(np.mean(r)) if len(r) else None, "low": low, "high": high, "permutations": len(values)}


def _table(ids: Strings, topics: Strings, target: str, half: Ints, observed: Floats, predicted: Floats) -> pa.Table:
    return pa.table(
        {
            "task_id": pa.array(ids.tolist(), pa.string()),
            "topic": pa.array(topics.tolist(), pa.string()),
            "target": pa.array([target] * len(ids), pa.string()),
            "half": pa.array(half.tolist(), pa.int32()),
            "observed": observed,
            "predicted": predicted,
        }
    )
