"""The behavioural shift Δp: how much more often a task is chosen under a system prompt than under the baseline."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.optimize import linear_sum_assignment
from scipy.special import expit

from prefprobe.errors import BadConfig, InputMissing

MIDDLE = (0.1, 0.9)
"""Comparison tasks come from between these quantiles of utility: against extremes no choice is open."""

Codes = npt.NDArray[np.int64]


def comparison_tasks(utilities_mu: Mapping[str, float], topics: Mapping[str, str], n: int, seed: int) -> list[str]:
    """`n` tasks spread evenly over the middle of the utility range and over topics, sorted by id.

    `utilities_mu` maps task id → μ, `topics` task id → topic (others may be in it). The utility quantiles aimed at are
    equidistant in MIDDLE, with a random start. The numbers of tasks by topic differ by 1 at most, unless a topic has
    too few; given these, the tasks nearest to the aims are taken. The order of the dicts does not matter. Raises
    BadConfig if the middle holds fewer than `n` tasks or a μ is not finite, InputMissing for a task with no topic.
    """
    for id_ in sorted(utilities_mu):
        if not np.isfinite(utilities_mu[id_]):
            raise BadConfig(f"shift: the utility of task {id_} is not a finite number; measure the train set again.")
        if topics.get(id_) is None:
            raise InputMissing(f"shift: task {id_} has a utility and no topic; run the step `topics` for all tasks.")
    rng = np.random.default_rng([seed, 6])
    ordered = sorted(utilities_mu, key=lambda id_: (utilities_mu[id_], id_))
    quantiles = (np.arange(len(ordered)) + 0.5) / max(1, len(ordered))
    low, high = MIDDLE
    middle = [(float(q), id_) for q, id_ in zip(quantiles, ordered, strict=True) if low <= q <= high]
    if not 1 <= n <= len(middle):
        raise BadConfig(
            f"shift.comparisons: {n} comparison tasks were asked for, and {len(middle)} train tasks lie in the middle "
            "of the utility range; set a number between 1 and that, or raise `tasks.n_train`."
        )
    aims = low + (high - low) * (np.arange(n) + rng.random()) / n
    names = sorted({topics[id_] for _, id_ in middle})
    names = [names[i] for i in rng.permutation(len(names))]
    members = {name: [(q, id_) for q, id_ in middle if topics[id_] == name] for name in names}
    # rounds over the topics: the k-th seat of a topic exists if it has k tasks
    seats = sorted((k, i) for i, name in enumerate(names) for k in range(len(members[name])))[:n]
    of = [names[i] for _, i in seats]
    distance = {name: np.abs(aims[:, None] - np.array([q for q, _ in members[name]])) for name in names}
    _, seat = linear_sum_assignment(np.stack([distance[name].min(axis=1) for name in of], axis=1))
    chosen: list[str] = []
    for name in dict.fromkeys(of):
        mine = [aim for aim, s in enumerate(seat) if of[s] == name]
        _, picked = linear_sum_assignment(distance[name][mine])
        chosen += [members[name][i][1] for i in picked]
    return sorted(chosen)


def behavioural_shift(choices: pa.Table, baseline_id: str, comparisons: Sequence[str]) -> pa.Table:
    """Δp of every task under every prompt but the baseline, against the comparison tasks, sorted by prompt and task.

    For each comparison c, P(task over c) = sigmoid of the mean over both orders of presentation of the mean logit in
    that order, so that position bias cancels. p_baseline and p_prompt are means over comparisons, dp the mean of the
    paired differences, dp_se their sample standard deviation / √n, n the number of comparisons.

    Columns: prompt_id, task_id string; n int32; p_baseline, p_prompt, dp, dp_se float64. Rows may come in any order,
    and bits do not depend on it. Raises InputMissing naming a cell (prompt, task, comparison) that lacks an order or
    its counterpart under the baseline; BadConfig for a row that does not pair a task with a comparison, for a logit
    that is not finite, and for fewer than 2 comparisons or one named twice.
    """
    names = sorted(comparisons)
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadConfig(f"shift: {len(names)} comparisons, expected 2 or more, each named once; choose them again.")
    prompt, a, b = (np.array(choices.column(c).to_pylist(), np.object_) for c in ("prompt_id", "task_a", "task_b"))
    logit = choices.column("logit").to_numpy().astype(np.float64)
    shown_first = np.isin(b, names)
    paired, finite = shown_first != np.isin(a, names), np.isfinite(logit)
    if not (paired & finite).all():
        row = int(np.argmin(paired & finite))
        what = (
            f"the logit is {logit[row]}, expected a finite number"
            if paired[row]
            else f"{'both tasks are comparisons' if shown_first[row] else 'neither task is a comparison'}, expected one"
        )
        raise BadConfig(f"shift: choice {a[row]} | {b[row]} under prompt {prompt[row]}: {what}; measure shifts again.")
    value = np.where(shown_first, logit, -logit)
    prompts, i = _codes(np.append(prompt, baseline_id))
    tasks, j = _codes(np.where(shown_first, a, b))
    k = np.searchsorted(names, np.where(shown_first, b, a).astype(str))
    shape = (len(prompts), len(tasks), len(names), 2)
    cell = np.ravel_multi_index((i[:-1], j, k, shown_first.astype(np.int64)), shape)
    count = np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape)
    base = prompts.index(baseline_id)
    measured = np.asarray(count.any(axis=(2, 3)), dtype=np.bool_)
    measured[base] = np.delete(measured, base, axis=0).any(axis=0)
    _require_all(count, measured, prompts, tasks, names)

    order = np.lexsort((value, cell))  # a sum depends on the order of its terms, and no result on that of the log
    total = np.bincount(cell[order], value[order], minlength=count.size).reshape(shape)
    p = expit((total / np.maximum(count, 1)).mean(axis=3))
    measured[base] = False
    rows, columns = np.nonzero(measured)
    p_prompt, p_baseline = p[rows, columns], p[base, columns]
    difference = p_prompt - p_baseline
    return pa.table(
        {
            "prompt_id": pa.array([prompts[r] for r in rows], pa.string()),
            "task_id": pa.array([tasks[c] for c in columns], pa.string()),
            "n": pa.array(np.full(len(rows), len(names)), pa.int32()),
            "p_baseline": p_baseline.mean(axis=1),
            "p_prompt": p_prompt.mean(axis=1),
            "dp": difference.mean(axis=1),
            "dp_se": difference.std(axis=1, ddof=1) / np.sqrt(len(names)),
        }
    )


def _codes(values: npt.NDArray[np.object_]) -> tuple[list[str], Codes]:
    names, codes = np.unique(values, return_inverse=True)
    return names.tolist(), codes


def _require_all(
    count: Codes, measured: npt.NDArray[np.bool_], prompts: list[str], tasks: list[str], names: list[str]
) -> None:
    missing = np.argwhere(measured[:, :, None, None] & (count == 0))
    if len(missing):
        p, t, c, first = missing[0]
        raise InputMissing(
            f"shift: no choice of task {tasks[t]} against {names[c]} under prompt {prompts[p]} with the task shown "
            f"{'first' if first else 'second'} ({len(missing)} such gaps); run shift-measure again for that prompt."
        )
