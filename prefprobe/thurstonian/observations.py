"""Rows of choices as checked index arrays: the one place where task ids become integers and bad rows are refused."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prefprobe.errors import BadConfig

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Ids: TypeAlias = Sequence[str] | npt.NDArray[Any] | pa.Array
"""Task ids: a sequence, a numpy array or an Arrow array of strings."""

Merged: TypeAlias = tuple[tuple[str, ...], Ints, Ints, Floats, Floats]
"""Ids, `i` < `j` (m,) that index them, one value for each pair (m,) and its number of observations (m,)."""


def index_pairs(task_a: Ids, task_b: Ids, task_ids: Ids = ()) -> tuple[tuple[str, ...], Ints, Ints]:
    """Number the tasks of (rows,) ordered pairs in the order of `task_ids` or, without any, of their sorted ids.

    Returns the distinct ids and two (rows,) arrays that index them. Raises BadConfig for an id that is no string, for
    columns of different lengths, for a task paired with itself, and for one that `task_ids` lacks or has twice.
    """
    a, b, ids = as_strings("task_a", task_a), as_strings("task_b", task_b), as_strings("task_ids", task_ids)
    if len(a) != len(b):
        raise BadConfig(f"Column task_a has {len(a)} rows and task_b has {len(b)}; give both the same length.")
    if not len(ids):
        ids = pa.concat_arrays([a, b]).unique()
        ids = ids.take(pc.sort_indices(ids))
    elif len(ids.unique()) < len(ids):
        twice = Counter(ids.to_pylist()).most_common(1)[0][0]
        raise BadConfig(f"The task ids hold {twice!r} more than once, expected every task once; remove the others.")
    first, second = _numbered(a, ids), _numbered(b, ids)
    _refuse(first == second, lambda row: f"compares task {a[row].as_py()!r} with itself; remove the row.")
    return tuple(ids.to_pylist()), first, second


def _numbered(column: pa.Array, ids: pa.Array) -> Ints:
    found = pc.fill_null(pc.index_in(column, ids), -1).to_numpy().astype(np.int64)
    _refuse(found < 0, lambda row: f"names task {column[row].as_py()!r}, which the task ids lack; add it to them.")
    return np.asarray(found)


def as_strings(name: str, values: Ids) -> pa.Array:
    """`values` as an Arrow string array; raises BadConfig that names the first row that is no text."""
    try:
        array = pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        row = next((k for k, value in enumerate(values) if not isinstance(value, str)), 0)
        raise BadConfig(f"Column {name}, row {row} is not a text; give every task id as a string.") from error
    _refuse(array.is_null().to_numpy(zero_copy_only=False), lambda _: f"has no {name}; fill it in or remove the row.")
    return array


def probabilities(name: str, values: npt.ArrayLike, rows: int) -> Floats:
    """`values` as (rows,) float64 in [0, 1]; raises BadConfig that names the first row out of it or NaN."""
    p = _numbers(name, values, rows)
    _refuse(~((p >= 0.0) & (p <= 1.0)), lambda row: f"has {name} = {p[row]}, expected a number in [0, 1]; correct it.")
    return p


def sum_by(index: Ints, values: Floats, n: int) -> Floats:
    """Sum `values` into (n,) slots, always in the order of the rows."""
    return np.asarray(np.bincount(index, values, n), dtype=np.float64)


def merge_choices(
    task_a: Ids, task_b: Ids, p_a: npt.ArrayLike, count: npt.ArrayLike | None = None, task_ids: Ids = ()
) -> Merged:
    """Sum `count` * P(i chosen) over all observations of each unordered pair, whatever their order of presentation.

    A pair whose counts sum to 0 is left out, its tasks are not. Raises BadConfig that names the first bad row.
    """
    ids, first, second = index_pairs(task_a, task_b, task_ids)
    p = probabilities("p_a", p_a, len(first))
    weight = np.ones(len(first)) if count is None else _numbers("count", count, len(first))
    bad = ~(np.isfinite(weight) & (weight >= 0.0))
    _refuse(bad, lambda row: f"has count = {weight[row]}, expected a finite number >= 0; correct or remove it.")
    p = np.where(first < second, p, 1.0 - p)
    pair, starts, rows = _groups(_pair_keys(first, second, len(ids)), p, weight)
    total = np.add.reduceat(weight[rows], starts)
    wins = np.minimum(np.add.reduceat((weight * p)[rows], starts), total)
    seen = total > 0.0
    return ids, pair[seen] // len(ids), pair[seen] % len(ids), wins[seen], total[seen]


def merge_logits(task_a: Ids, task_b: Ids, logit: npt.ArrayLike, task_ids: Ids = ()) -> Merged:
    """Average the logit of "i is preferred" for each unordered pair, free of position bias.

    The mean is taken within each order of presentation and then over the orders, so both orders weigh the same however
    often each was asked. A pair asked in one order only keeps that order's mean, and with it the position bias.
    Raises BadConfig that names the first bad row.
    """
    ids, first, second = index_pairs(task_a, task_b, task_ids)
    value = _numbers("logit", logit, len(first))
    _refuse(~np.isfinite(value), lambda row: f"has logit = {value[row]}, expected a finite number; measure it again.")
    value = np.where(first < second, value, -value)
    ordered, starts, rows = _groups(2 * _pair_keys(first, second, len(ids)) + (first < second), value)
    observations = np.diff(np.append(starts, len(rows)))
    mean = np.add.reduceat(value[rows], starts) / observations
    pair, starts, orders = np.unique(ordered // 2, return_index=True, return_counts=True)
    debiased = np.add.reduceat(mean, starts) / orders
    return ids, pair // len(ids), pair % len(ids), debiased, np.add.reduceat(observations.astype(np.float64), starts)


def _numbers(name: str, values: npt.ArrayLike, rows: int) -> Floats:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadConfig(f"Column {name} is not numeric ({error}); give one number a row.") from error
    if array.shape != (rows,):
        raise BadConfig(f"Column {name} has shape {array.shape}, expected ({rows},); give one number a row.")
    return array


def _refuse(bad: npt.NDArray[np.bool_], why: Callable[[int], str]) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise BadConfig(f"Choice row {row} (from 0) {why(row)}")


def _pair_keys(first: Ints, second: Ints, n: int) -> Ints:
    return np.minimum(first, second) * n + np.maximum(first, second)


def _groups(key: Ints, *values: Floats) -> tuple[Ints, Ints, Ints]:
    """Distinct keys, where each starts among the sorted rows, and the rows in sorted order.

    Rows with one key are sorted by their values: a floating-point sum depends on the order of its terms, and no result
    may depend on the order in which choices were logged.
    """
    rows = np.lexsort((*values, key))
    distinct, starts = np.unique(key[rows], return_index=True)
    return distinct, starts, rows
