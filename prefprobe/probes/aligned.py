"""Utilities, topics and feature rows of the same tasks, in one order."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prefprobe.errors import BadConfig, InputMissing

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Strings = npt.NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class TaskSet:
    """One run's tasks, sorted by id: results then do not depend on the order in which they were given."""

    ids: Strings
    """(n,) unique."""
    mu: Floats
    """(n,) utilities."""
    topics: Strings
    """(n,)."""
    rows: Ints
    """(n,) where each task stands in the feature matrices."""

    def at(self, positions: Ints) -> "TaskSet":
        """The tasks at these positions, in this order."""
        return TaskSet(self.ids[positions], self.mu[positions], self.topics[positions], self.rows[positions])


def align(
    layers: Mapping[int, np.ndarray],
    task_ids: np.ndarray,
    train: Mapping[str, float],
    eval_: Mapping[str, float],
    topics: Mapping[str, str],
) -> tuple[TaskSet, TaskSet]:
    """The train and the eval set, for feature matrices `layers[L]` (n, d) whose rows belong to `task_ids` (n,).

    Raises as `require_rows` and `task_sets` do.
    """
    require_rows(layers, task_ids)
    return task_sets(task_ids, train, eval_, topics)


def require_rows(layers: Mapping[int, np.ndarray], task_ids: np.ndarray) -> None:
    """Raise BadConfig if there are no layers, or one has another number of rows than there are ids."""
    if not layers:
        raise BadConfig("probe: there is not one layer of features; name layers to extract.")
    for layer, X in layers.items():
        if len(X) != len(task_ids):
            raise BadConfig(f"probe: layer {layer} has {len(X)} rows for {len(task_ids)} task ids; extract it again.")


def task_sets(
    task_ids: np.ndarray, train: Mapping[str, float], eval_: Mapping[str, float], topics: Mapping[str, str]
) -> tuple[TaskSet, TaskSet]:
    """The train and the eval set, whose features are rows that belong to `task_ids` (n,).

    Raises BadConfig if train and eval share a task, a utility is not finite, or an id stands twice; InputMissing if a task
    has no features or no topic.
    """
    shared = sorted(train.keys() & eval_.keys())
    if shared:
        raise BadConfig(
            f"probe: task {shared[0]} is in train and in eval ({len(shared)} such tasks); sample disjoint task sets."
        )
    position = {str(task_id): row for row, task_id in enumerate(task_ids)}
    if len(position) < len(task_ids):
        values, counts = np.unique(task_ids, return_counts=True)
        raise BadConfig(f"probe: task {values[counts > 1][0]} has two rows of features; extract the features again.")
    return _task_set("train", train, topics, position), _task_set("eval", eval_, topics, position)


def _task_set(name: str, utilities: Mapping[str, float], topics: Mapping[str, str], rows: Mapping[str, int]) -> TaskSet:
    ids = sorted(utilities)
    for what, have in (("features", rows), ("topic", topics)):
        missing = [task_id for task_id in ids if have.get(task_id) is None]
        if missing:
            raise InputMissing(
                f"probe: {name} task {missing[0]} has no {what} ({len(missing)} such tasks); "
                "run the step that makes them for every measured task."
            )
    mu = np.array([utilities[task_id] for task_id in ids], dtype=np.float64)
    if not np.isfinite(mu).all():
        raise BadConfig(
            f"probe: the utility of {name} task {ids[int(np.argmin(np.isfinite(mu)))]} is not a finite number; "
            "measure the set again."
        )
    return TaskSet(
        np.array(ids, dtype=np.str_),
        mu,
        np.array([topics[task_id] for task_id in ids], dtype=np.str_),
        np.array([rows[task_id] for task_id in ids], dtype=np.int64),
    )
