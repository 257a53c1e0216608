"""Whole utilities under a system prompt, beside Δp: Δμ = μ(prompt) - μ(baseline), from the same choices.

Δp saturates: a task that is always chosen cannot be chosen more. Its utility can still rise, as far as choices against
comparison tasks of known utility say. μ and σ of one task under one prompt are the mode of

    - sum [w log Phi(z) + l log Phi(-z)] + mu^2 / (2 prior_sd^2) + penalty * (log sigma)^2

with z = (mu - mu_c) / sqrt(sigma^2 + sigma_c^2) over the comparison tasks c, which keep the utilities of the train set:
the fit of `thurstonian.fit` with its priors, for one task at a time. A task that always wins has a finite mode, which the
priors set.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import log_ndtr

from prefprobe.errors import BadConfig
from prefprobe.probes.metrics import pearson, spearman
from prefprobe.shift.prompted import row_id, split_row_id
from prefprobe.thurstonian.comparisons import Comparisons
from prefprobe.thurstonian.fit import LOG_SIGMA_PENALTY, PRIOR_SD
from prefprobe.thurstonian.observations import Floats, Ints, sum_by

TOLERANCE, MAX_ITERATIONS = 1e-8, 500
_LOG_SQRT_2PI = 0.5 * float(np.log(2.0 * np.pi))


def refitted_shift(
    choices: pa.Table, baseline_id: str, comparisons: Mapping[str, tuple[float, float]], prompts: Collection[str]
) -> pa.Table:
    """Δμ of every task under each of `prompts`, sorted by both ids: prompt_id, task_id, mu_baseline, mu_prompt, dmu.

    `choices` is as for `behavioural_shift`, which refuses gaps in them; `comparisons` maps the id of each comparison task
    to its (μ, σ). Of exact choices both orders weigh the same, so that position bias cancels; of sampled ones each answer
    does, and refusals and unread answers say nothing. A task that drew no other under the prompt or the baseline is left
    out. Rows may come in any order. Raises BadConfig for a choice between two tasks or two comparisons, for exact and
    sampled choices in one table, and for a μ or σ that is no finite number (σ above 0).
    """
    for id_, (mu, sigma) in comparisons.items():
        if not (np.isfinite(mu) and np.isfinite(sigma) and sigma > 0):
            raise BadConfig(
                f"shift: comparison task {id_} has μ = {mu} and σ = {sigma}, expected finite numbers and σ above 0; measure "
                "the train set again."
            )
    outcome = np.array(choices.column("outcome").to_pylist(), np.object_)
    prompt = np.array(choices.column("prompt_id").to_pylist(), np.object_)
    exact = bool((outcome == "exact").any())
    if exact and np.isin(outcome, ["a", "b"]).any():
        raise BadConfig("shift: some choices are exact and some sampled, expected one kind; measure shifts again.")
    kept = np.isin(outcome, ["exact"] if exact else ["a", "b"]) & np.isin(prompt, [baseline_id, *prompts])
    some = choices.filter(pa.array(kept))
    a, b = (some.column(c).to_pylist() for c in ("task_a", "task_b"))
    for first, second in zip(a, b, strict=True):
        if (first in comparisons) == (second in comparisons):
            raise BadConfig(
                f"shift: choice {first} | {second}: expected a task and a comparison task; measure shifts again."
            )

    def named(side: list[str]) -> list[str]:
        """A task under one prompt and under another are two tasks, with a utility each."""
        return [t if t in comparisons else row_id(p, t) for t, p in zip(side, prompt[kept], strict=True)]

    if exact:
        merged = Comparisons.from_logits(named(a), named(b), some.column("logit").to_numpy())
    else:
        merged = Comparisons.from_choices(named(a), named(b), some.column("p_a").to_numpy())
    ids = [id_ for id_ in merged.task_ids if id_ not in comparisons]
    fitted = dict(zip(ids, _fitted(merged, ids, comparisons).tolist(), strict=True))
    rows = []
    for id_ in ids:
        prompt_id, task_id = split_row_id(id_)
        before = fitted.get(row_id(baseline_id, task_id))
        if prompt_id != baseline_id and before is not None:
            rows.append((prompt_id, task_id, before, fitted[id_], fitted[id_] - before))
    names = ("prompt_id", "task_id", "mu_baseline", "mu_prompt", "dmu")
    kinds = [pa.string()] * 2 + [pa.float64()] * 3
    columns = zip(*sorted(rows), strict=True) if rows else [()] * len(names)
    return pa.table({n: pa.array(c, k) for n, c, k in zip(names, columns, kinds, strict=True)})


def with_dmu(points: pa.Table, refitted: pa.Table) -> pa.Table:
    """`points` (experiment, prompt_id, task_id, …) with a column dmu, null where nothing was refitted; rows as they are."""
    dmu = {(row["prompt_id"], row["task_id"]): row["dmu"] for row in refitted.to_pylist()}
    cells = zip(points.column("prompt_id").to_pylist(), points.column("task_id").to_pylist(), strict=True)
    return points.append_column("dmu", pa.array([dmu.get(cell) for cell in cells], pa.float64()))


def refitted_statistics(points: pa.Table) -> dict[str, dict[str, Any]]:
    """{experiment: {pearson, spearman, n}} of dmu and ds on target, of experiments that have points with a dmu."""
    found: dict[str, dict[str, Any]] = {}
    rows = [row for row in points.to_pylist() if row["dmu"] is not None]
    for name in sorted({row["experiment"] for row in rows}):
        cells = [(row["dmu"], row["ds"]) for row in rows if row["experiment"] == name and row["on_target"]]
        dmu, ds = (np.array([cell[i] for cell in cells], dtype=np.float64) for i in (0, 1))
        found[name] = {"pearson": pearson(dmu, ds), "spearman": spearman(dmu, ds), "n": len(cells)}
    return found


def _fitted(merged: Comparisons, ids: Sequence[str], comparisons: Mapping[str, tuple[float, float]]) -> Floats:
    """(n,) μ of the tasks `ids`, each compared with comparison tasks alone."""
    row = {id_: k for k, id_ in enumerate(ids)}
    all_ids = merged.task_ids
    is_task = np.array([id_ in row for id_ in all_ids], dtype=np.bool_)
    forth = is_task[merged.i]
    task, other = np.where(forth, merged.i, merged.j), np.where(forth, merged.j, merged.i)
    wins = np.where(forth, merged.wins, merged.count - merged.wins)
    known = np.array([comparisons.get(id_, (np.nan, np.nan)) for id_ in all_ids], dtype=np.float64).reshape(-1, 2)
    place = np.array([row.get(id_, -1) for id_ in all_ids], dtype=np.int64)
    return modes(place[task], known[other, 0], known[other, 1], wins, merged.count - wins, len(ids))[0]


def modes(of: Ints, mu_c: Floats, sigma_c: Floats, wins: Floats, losses: Floats, n: int) -> tuple[Floats, Floats]:
    """μ and log σ, (n,) each, of tasks whose pairs with comparison tasks are given, all (m,); `of` says whose each is.

    Fisher scoring with halved steps, for all tasks at once: its 2 x 2 matrices are positive definite at any point.
    """
    theta = np.zeros((2, n))
    variance = sigma_c**2
    curvature = np.array([[PRIOR_SD**-2], [2.0 * LOG_SIGMA_PENALTY]])

    def parts(theta: Floats) -> tuple[Floats, ...]:
        own = np.exp(2.0 * theta[1])[of]
        scale = np.sqrt(own + variance)
        z = (theta[0][of] - mu_c) / scale
        return scale, own / (own + variance), z, log_ndtr(z), log_ndtr(-z)

    def objective(theta: Floats) -> Floats:
        *_, won, lost = parts(theta)
        penalty: Floats = 0.5 * (curvature * theta**2).sum(axis=0)
        return penalty - sum_by(of, wins * won + losses * lost, n)

    value = objective(theta)
    for _ in range(MAX_ITERATIONS):
        scale, share, z, won, lost = parts(theta)
        log_density = -0.5 * z * z - _LOG_SQRT_2PI
        win, loss = np.exp(log_density - won), np.exp(log_density - lost)
        first, information = losses * loss - wins * win, (wins + losses) * win * loss
        by_mu, by_sigma = 1.0 / scale, -z * share
        gradient = curvature * theta + np.stack([sum_by(of, first * d, n) for d in (by_mu, by_sigma)])
        if np.abs(gradient).max(initial=0.0) <= TOLERANCE:
            break
        xx, xy, yy = (sum_by(of, information * d, n) for d in (by_mu**2, by_mu * by_sigma, by_sigma**2))
        xx, yy = xx + curvature[0], yy + curvature[1]
        det = xx * yy - xy * xy
        step = np.stack([yy * gradient[0] - xy * gradient[1], xx * gradient[1] - xy * gradient[0]]) / det
        size = np.ones(n)
        for _ in range(40):
            moved = objective(theta - size * step)
            worse = ~(moved <= value + 1e-12 * np.abs(value))
            if not worse.any():
                break
            size = np.where(worse, 0.5 * size, size)
        theta = theta - size * step
        value = objective(theta)
    return theta[0], theta[1]
