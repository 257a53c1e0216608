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

    For each comparison c, P(task over c) gives both orders of presentation the same weight, so that position bias
    cancels: of exact choices it is the sigmoid of the mean logit, of sampled ones the mean share of answers that choose
    the task. p_baseline and p_prompt are means over comparisons, dp the mean of the paired differences, dp_se their
    sample standard deviation / √n, n the number of comparisons. A comparison that drew nothing but refusals and unread
    answers in some order, under the prompt or the baseline, is left out; with fewer than 2 left the numbers are null.

    Columns: prompt_id, task_id string; n int32; p_baseline, p_prompt, dp, dp_se float64. Rows may come in any order,
    and bits do not depend on it. Raises InputMissing naming a cell (prompt, task, comparison) that lacks an order or
    its counterpart under the baseline; BadConfig for exact and sampled choices in one table, for a row that does not
    pair a task with a comparison, for a logit that is not finite, and for fewer than 2 comparisons or one named twice.
    """
    names = sorted(comparisons)
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadConfig(f"shift: {len(names)} comparisons, expected 2 or more, each named once; choose them again.")
    prompt, a, b, outcome = (
        np.array(choices.column(c).to_pylist(), np.object_) for c in ("prompt_id", "task_a", "task_b", "outcome")
    )
    exact = bool((outcome == "exact").any())
    if exact and np.isin(outcome, ["a", "b"]).any():
        raise BadConfig("shift: some choices are exact and some sampled, expected one kind; measure shifts again.")
    of_a = choices.column("logit" if exact else "p_a").to_numpy().astype(np.float64)
    chosen = np.isin(outcome, ["exact"] if exact else ["a", "b"])
    shown_first = np.isin(b, names)
    paired, finite = shown_first != np.isin(a, names), np.isfinite(of_a) | ~chosen
    if not (paired & finite).all():
        row = int(np.argmin(paired & finite))
        what = (
            f"the logit is {of_a[row]}, expected a finite number"
            if paired[row]
            else f"{'both tasks are comparisons' if shown_first[row] else 'neither task is a comparison'}, expected one"
        )
        raise BadConfig(f"shift: choice {a[row]} | {b[row]} under prompt {prompt[row]}: {what}; measure shifts again.")
    value = np.where(shown_first, of_a, -of_a if exact else 1.0 - of_a)
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

    heard = np.bincount(cell[chosen], minlength=count.size).reshape(shape)
    order = np.lexsort((value, cell))  # a sum depends on the order of its terms, and no result on that of the log
    order = order[chosen[order]]
    total = np.bincount(cell[order], value[order], minlength=count.size).reshape(shape)
    mean = (total / np.maximum(heard, 1)).mean(axis=3)
    p = expit(mean) if exact else mean
    known = np.asarray(heard.all(axis=3), dtype=np.bool_)
    measured[base] = False
    rows, columns = np.nonzero(measured)
    both = known[rows, columns] & known[base, columns]
    n = both.sum(axis=1)
    enough = n >= 2

    def over_comparisons(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.where(both, values, 0.0).sum(axis=1) / np.maximum(n, 1))

    difference = p[rows, columns] - p[base, columns]
    dp = over_comparisons(difference)
    variance = over_comparisons((difference - dp[:, None]) ** 2) * n / np.maximum(n - 1, 1)
    numbers = {
        "p_baseline": over_comparisons(p[base, columns]),
        "p_prompt": over_comparisons(p[rows, columns]),
        "dp": dp,
        "dp_se": np.sqrt(variance / np.maximum(n, 1)),
    }
    return pa.table(
        {
            "prompt_id": pa.array([prompts[r] for r in rows], pa.string()),
            "task_id": pa.array([tasks[c] for c in columns], pa.string()),
            "n": pa.array(n, pa.int32()),
            **{name: pa.array(values, pa.float64(), mask=~enough) for name, values in numbers.items()},
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
