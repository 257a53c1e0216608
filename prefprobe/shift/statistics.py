"""Whether probe scores move as choices do: the points of every experiment, and what can be said of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.probes.metrics import pearson, spearman
from prefprobe.shift.experiments import Experiment, intended, on_target
from prefprobe.shift.resampling import Draws, interval, permutation_p

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SMALL = 0.02
"""A |Δp| below this is no shift: its sign means nothing, and an experiment of such shifts is not estimable."""

SIGNAL = 2.0
"""Least ratio of on-target Δp to its standard error, both root mean square, for an experiment to be estimable."""

MIN_POINTS = 4
"""Fewest on-target points for an experiment to be estimable."""

ROUNDING = 1e-9
"""A difference from the prompt's mean that is below this part of the largest shift is rounding."""

NUMBERS = ("p_baseline", "p_prompt", "dp", "dp_se", "ds", "ds_encoder")
POINTS = pa.schema(
    [
        *((name, pa.string()) for name in ("experiment", "prompt_id", "task_id")),
        *(("on_target", pa.bool_()), ("intended", pa.int8()), ("n", pa.int32())),
        *((name, pa.float64()) for name in NUMBERS),
    ]
)


def shift_points(
    experiments: Sequence[Experiment],
    behaviour: pa.Table,
    scores: pa.Table,
    baseline_id: str,
    encoder_scores: pa.Table | None = None,
) -> pa.Table:
    """Every task under every prompt of its experiment, with the columns of POINTS, sorted by the first three.

    `behaviour` is that of `behavioural_shift`. Score tables have prompt_id, task_id, score, and rows for `baseline_id`:
    ds = score under the prompt - score of the same task under the baseline; ds_encoder likewise, null without scores.
    A task whose Δp is null is left out: the model would not choose.
    Raises InputMissing naming a point without choices or scores, BadConfig for one scored twice and naming one with a
    number that is not finite.
    """
    moved = {(row["prompt_id"], row["task_id"]): row for row in behaviour.to_pylist()}
    scored = {"ds": _scores(scores)}
    if encoder_scores is not None:
        scored["ds_encoder"] = _scores(encoder_scores)
    rows = []
    for experiment, p, t in ((e, p, t) for e in experiments for p in e.prompts for t in e.tasks):
        if (p.id, t.id) not in moved:
            raise InputMissing(f"shift: no choices of task {t.id} under prompt {p.id}; run shift-measure for it.")
        if moved[p.id, t.id]["dp"] is None:
            continue
        row = moved[p.id, t.id] | {"on_target": on_target(p, t), "intended": intended(p, t)}
        row["experiment"] = experiment.name
        for column, score in scored.items():
            for prompt_id in (p.id, baseline_id):
                if (prompt_id, t.id) not in score:
                    raise InputMissing(
                        f"shift: {column}: task {t.id} has no score under prompt {prompt_id}; score that prompt again."
                    )
            row[column] = score[p.id, t.id] - score[baseline_id, t.id]
        rows.append(row)
    points = pa.Table.from_pylist(rows, schema=POINTS)
    _require_finite(points, with_encoder=encoder_scores is not None)
    return points.sort_by([(name, "ascending") for name in POINTS.names[:3]])


def shift_statistics(
    points: pa.Table,
    *,
    encoder: str | None,
    experiments: Sequence[str] = (),
    seed: int = 0,
    bootstrap: int = 2000,
    permutations: int = 2000,
) -> dict[str, Any]:
    """`experiments` of `shift.json`: {name: statistics} of points with the columns of POINTS, in any order.

    `experiments` names those that are described even if no choice has left a point of them.
    Correlations are of dp and ds: `on_target`; `pooled` over all points; `centred`, all points less their prompt's
    mean. Intervals resample whole prompts and whole tasks (`resampling.interval`). p is one-sided (scores follow
    choices) and permutes whole prompts and whole tasks of the full grid, also for the on-target cells
    (`permutation_p`); it is None where points are not a full grid. Probe and `encoder`, the name of what ds_encoder
    comes from, share all draws; these depend on `seed` and on the size of the experiment alone.

    `effect` is about dp: root mean squares (rms), `max` |dp| of all points, `noise` the rms of dp_se on target.
    `estimable`: at least 4 on-target points that vary, whose rms dp is at least 0.02 and twice the noise. Correlations
    are there even if not estimable. `fit` is the least-squares line ds = intercept + slope · dp on target. Signs are
    compared on target where |dp| >= 0.02, and with the intended sign where there is one. What is not defined is None.
    Raises BadConfig naming a point that stands twice or has a number that is not finite.
    """
    _require_finite(points, with_encoder=encoder is not None)
    names = np.array(points.column("experiment").to_pylist(), dtype=np.str_)
    results = {}
    for name in sorted({*names.tolist(), *experiments}):
        grid = _grid(points.filter(pa.array(names == name)))
        draws = Draws.of(grid.there, bootstrap, permutations, seed)
        control = None if encoder is None else {"name": encoder, **_correlations(grid, "ds_encoder", draws)}
        results[name] = _description(grid) | _correlations(grid, "ds", draws) | {"encoder": control}
    return results


def sign_agreement(dp: Floats, ds: Floats) -> dict[str, Any]:
    """`value`, the share of points (n,) whose dp and ds have one sign, of the `n` where |dp| >= SMALL; None of none."""
    return _share((np.sign(ds) == np.sign(dp))[np.abs(dp) >= SMALL])


@dataclass(frozen=True, eq=False)
class _Grid:
    """One experiment as matrices (prompts, tasks), both sorted by id; cells without a point are 0."""

    there: Mask
    on: Mask
    values: dict[str, Floats]


def _grid(points: pa.Table) -> _Grid:
    (prompts, p), (tasks, t) = (
        np.unique(np.array(points.column(name).to_pylist(), dtype=np.str_), return_inverse=True)
        for name in ("prompt_id", "task_id")
    )
    count = np.zeros((len(prompts), len(tasks)), dtype=np.int64)
    np.add.at(count, (p, t), 1)
    if count.max(initial=0) > 1:
        i, j = np.argwhere(count > 1)[0]
        raise BadConfig(
            f"shift: task {tasks[j]} under prompt {prompts[i]} is two points; join choices and scores again."
        )
    values = {name: np.zeros(count.shape) for name in ("on_target", "intended", *NUMBERS)}
    for name, matrix in values.items():
        matrix[p, t] = points.column(name).cast(pa.float64()).to_numpy()
    return _Grid(count > 0, values["on_target"] > 0, values)


def _description(grid: _Grid) -> dict[str, Any]:
    """All that is said of one experiment besides its correlations."""
    dp, ds, aim = (grid.values[name][grid.on] for name in ("dp", "ds", "intended"))
    size, noise = _rms(dp), _rms(grid.values["dp_se"][grid.on])
    meant = (np.abs(dp) >= SMALL) & (aim != 0)
    r = pearson(dp, ds)
    slope = None if r is None else float(r * ds.std() / dp.std())
    estimable, why = _estimable(dp, ds, size or 0.0, noise or 0.0)
    return {
        "n_prompts": grid.there.shape[0],
        "n_tasks": grid.there.shape[1],
        "n_points": int(grid.there.sum()),
        "n_on_target": len(dp),
        "effect": {
            "rms_on_target": size,
            "rms_off_target": _rms(grid.values["dp"][grid.there & ~grid.on]),
            "max": float(np.abs(grid.values["dp"]).max()) if grid.there.any() else None,
            "noise": noise,
            "signal_to_noise": size / noise if size is not None and noise else None,
        },
        "estimable": estimable,
        "why": why,
        "sign_agreement": {**sign_agreement(dp, ds), "threshold": SMALL},
        "intended_behaviour": _share((np.sign(dp) == aim)[meant]),
        "intended_probe": _share((np.sign(ds) == aim)[meant]),
        "fit": {"slope": slope, "intercept": None if slope is None else float(ds.mean() - slope * dp.mean())},
    }


def _estimable(dp: Floats, ds: Floats, size: float, noise: float) -> tuple[bool, str]:
    n = len(dp)
    if not n:
        return False, "No point is on target: the model would not choose, or no prompt is about any of the tasks."
    if n < MIN_POINTS:
        return False, f"Only {n} points are on target, and a correlation that means something takes {MIN_POINTS}."
    for name, values in (("Δp", dp), ("Δs", ds)):
        if pearson(values, values) is None:
            return False, f"{name} is the same at all {n} on-target points, so there is nothing to correlate."
    ratio = f"{size / noise:.2g} times its standard error of {noise:.2g}" if noise else "with no standard error"
    found = f"On-target Δp has a root mean square of {size:.2g} over {n} points, {ratio}"
    if size >= SMALL and size >= SIGNAL * noise:
        return True, f"{found}, so it stands above the model's own noise."
    return False, f"{found}; to stand above the model's own noise it needs {SMALL:g} and {SIGNAL:g} times."


def _correlations(grid: _Grid, column: str, draws: Draws) -> dict[str, Any]:
    dp, ds, full = grid.values["dp"], grid.values[column], bool(grid.there.all())

    def of(x: Floats, y: Floats, cells: Mask, centred: bool = False) -> dict[str, Any]:
        r = pearson(x[cells], y[cells])
        return {
            "pearson": None if r is None else interval(r, x, y, cells, draws, centred=centred),
            "spearman": spearman(x[cells], y[cells]),
            "p": None if r is None or not full else permutation_p(r, x, y, cells, draws),
            "n": int(cells.sum()),
        }

    return {
        "on_target": of(dp, ds, grid.on),
        "pooled": of(dp, ds, grid.there),
        "centred": of(_within(dp, grid.there), _within(ds, grid.there), grid.there, centred=True),
    }


def _within(m: Floats, there: Mask) -> Floats:
    """`m` (prompts, tasks) less the mean of every prompt. Where a prompt moves all tasks alike, that leaves 0."""
    weight = there / there.sum(axis=1, keepdims=True)
    rest = np.where(there, m - (m * weight).sum(axis=1, keepdims=True), 0.0)
    return np.where(np.abs(rest) > ROUNDING * np.abs(m).max(initial=0.0), rest, 0.0)


def _scores(table: pa.Table) -> dict[tuple[str, str], float]:
    rows = table.select(["prompt_id", "task_id", "score"]).to_pylist()
    scores = {(row["prompt_id"], row["task_id"]): np.nan if row["score"] is None else row["score"] for row in rows}
    if len(scores) < len(rows):
        raise BadConfig(
            f"shift: {len(rows)} scores are of only {len(scores)} prompts and tasks; score each point once."
        )
    return scores


def _require_finite(points: pa.Table, with_encoder: bool) -> None:
    for name in NUMBERS:
        column = points.column(name)
        bad = ~np.isfinite(column.to_numpy().astype(np.float64))
        if name == "ds_encoder" and not with_encoder:
            bad &= column.is_valid().to_numpy()
        if bad.any():
            row = int(np.argmax(bad))
            task, prompt = (points.column(of)[row].as_py() for of in ("task_id", "prompt_id"))
            raise BadConfig(
                f"shift: {name} of task {task} under prompt {prompt} is not a finite number; measure it again."
            )


def _rms(x: Floats) -> float | None:
    return float(np.sqrt((x * x).mean())) if len(x) else None


def _share(agrees: Mask) -> dict[str, Any]:
    return {"value": float(agrees.mean()) if len(agrees) else None, "n": len(agrees)}
