"""Whether probe scores move as choices do: what can be said of the points of every experiment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefprobe.errors import BadConfig
from prefprobe.probes.metrics import pearson
from prefprobe.shift.cells import Cells, Floats, Mask, whole
from prefprobe.shift.jackknife import Blocks, blocks_of, difference_interval, r_interval
from prefprobe.shift.permutation import Orders, permutation_p
from prefprobe.shift.points import NUMBERS, require_finite

SMALL = 0.02
"""A |Δp| below this is no shift: its sign means nothing, and an experiment of such shifts is not estimable."""

SIGNAL = 2.0
"""Least ratio of on-target Δp to the noise, both root mean square, for an experiment to be estimable."""

MIN_POINTS = 4
"""Fewest on-target points for an experiment to be estimable."""

PERMUTATIONS = 2000

LEAST_OF_POINTS = 0.5
"""Least part of the points that p is of, where others lie in prompts or tasks with gaps."""

STILL = "Less their prompts' off-target means, Δp or a Δs is the same at all points."
"""Why there is no corrected correlation where the means could be taken."""

NEUTRAL, DP_SE = "neutral prompts", "dp_se"
"""What the noise of an experiment was taken from."""


def shift_statistics(
    points: pa.Table,
    *,
    encoder: str | None,
    experiments: Sequence[str] = (),
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    dp_se_is_noise: bool = False,
) -> dict[str, Any]:
    """`experiments` of `shift.json`: {name: statistics} of points with the columns of POINTS, in any order.

    `experiments` names those that are described even if no choice has left a point of them.
    Correlations are of dp and ds: `on_target`; `pooled` over all points; `centred`, all points less their prompt's mean;
    `corrected`, the on-target points, and `corrected_grid`, all points, less the mean of their prompt's off-target points
    in dp and in ds. A prompt that moves all tasks alike, or scores that hear nothing but its tone, have no part in the
    last two, so `corrected` decides whether scores follow choices; both are None where a prompt has no off-target point,
    and `why_not_corrected` says so. `advantage` is how much more of the corrected grid the probe explains than the
    encoder: r(dp, ds) - r(dp, ds_encoder).
    Intervals leave out blocks, or prompts and tasks, in turn (`shift.jackknife`), with all means taken again. p is
    one-sided (scores follow choices) and permutes whole prompts and whole tasks of the full grid, also for the on-target
    cells (`permutation_p`). Where points are missing (of a task that the model would not choose under a prompt), prompts
    or tasks that lack some are left out of p, and it is None if fewer than half of the points are left. Probe and
    `encoder`, the name of what ds_encoder comes from, share all permutations; these depend on `seed` and on the size of the
    experiment alone.

    Neutral points are in no correlation: they are the noise. `effect` is about dp: root mean squares (rms), `max` |dp| of
    all points, `noise` the rms of neutral points, `noise_ds` the same of ds, and `comparison_se` the rms of dp_se on
    target, which is the spread over comparison tasks and no noise of the model's. With `dp_se_is_noise` it stands in
    where there are no neutral points; `noise_from` says what was used.
    `estimable`: at least 4 on-target points that vary, whose rms dp is at least 0.02 and twice the noise. Correlations
    are there even if not estimable. `fit` is the least-squares line ds = intercept + slope · dp on target. Signs are
    compared on target where |dp| >= 0.02, and with the intended sign where there is one. What is not defined is None.
    Raises BadConfig naming a point that stands twice or has a number that is not finite.
    """
    require_finite(points, with_encoder=encoder is not None)
    names = np.array(points.column("experiment").to_pylist(), dtype=np.str_)
    still = np.array(points.column("neutral").to_pylist(), dtype=np.bool_)
    results = {}
    for name in sorted({*names.tolist(), *experiments}):
        grid, neutral = (
            _grid(points.filter(pa.array((names == name) & which)), ds_encoder=encoder is not None)
            for which in (~still, still)
        )
        full = whole(grid.there)
        orders = Orders.of(tuple(int(kept.sum()) for kept in full), permutations, seed)
        blocks, why = blocks_of(grid.on), _why_not_corrected(grid)
        found = _correlations(grid, "ds", full, orders, blocks, corrected=why is None)
        control, advantage = None, None
        if encoder is not None:
            control = {
                "name": encoder,
                **_correlations(grid, "ds_encoder", full, orders, blocks, corrected=why is None),
            }
            advantage = None if why else _advantage(grid, blocks)
        results[name] = {
            **_description(grid, neutral, dp_se_is_noise),
            **found,
            "why_not_corrected": why,
            "encoder": control,
            "advantage": advantage,
            "permutations": permutations,
        }
    return results


def sign_agreement(dp: Floats, ds: Floats) -> dict[str, Any]:
    """`value`, the share of points (n,) whose dp and ds have one sign, of the `n` where |dp| >= SMALL; None of none."""
    return _share((np.sign(ds) == np.sign(dp))[np.abs(dp) >= SMALL])


@dataclass(frozen=True, eq=False)
class _Grid:
    """One experiment as matrices (prompts, tasks), both sorted by id; cells without a point are 0."""

    prompts: list[str]
    there: Mask
    on: Mask
    values: dict[str, Floats]
    """Numbers that no point has are not in it."""


def _grid(points: pa.Table, *, ds_encoder: bool) -> _Grid:
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
    known = [name for name in NUMBERS if points.column(name).null_count == 0 and (ds_encoder or name != "ds_encoder")]
    values = {name: np.zeros(count.shape) for name in ("on_target", "intended", *known)}
    for name, matrix in values.items():
        matrix[p, t] = points.column(name).cast(pa.float64()).to_numpy()
    return _Grid(prompts.tolist(), count > 0, values["on_target"] > 0, values)


def _description(grid: _Grid, neutral: _Grid, dp_se_is_noise: bool) -> dict[str, Any]:
    """All that is said of one experiment besides its correlations."""
    dp, ds, aim = (grid.values[name][grid.on] for name in ("dp", "ds", "intended"))
    size, meant = _rms(dp), (np.abs(dp) >= SMALL) & (aim != 0)
    comparison_se = _rms(grid.values["dp_se"][grid.on]) if "dp_se" in grid.values else None
    noise, noise_from = _noise(_rms(neutral.values["dp"][neutral.there]), comparison_se if dp_se_is_noise else None)
    r = pearson(dp, ds)
    slope = None if r is None else float(r * ds.std() / dp.std())
    estimable, why = _estimable(dp, ds, size, noise, noise_from)
    return {
        "n_prompts": grid.there.shape[0],
        "n_tasks": grid.there.shape[1],
        "n_points": int(grid.there.sum()),
        "n_on_target": len(dp),
        "n_neutral": neutral.there.shape[0],
        "effect": {
            "rms_on_target": size,
            "rms_off_target": _rms(grid.values["dp"][grid.there & ~grid.on]),
            "max": float(np.abs(grid.values["dp"]).max()) if grid.there.any() else None,
            "noise": noise,
            "signal_to_noise": size / noise if size is not None and noise else None,
            "noise_ds": _rms(neutral.values["ds"][neutral.there]),
            "comparison_se": comparison_se,
        },
        "noise_from": noise_from,
        "estimable": estimable,
        "why": why,
        "sign_agreement": {**sign_agreement(dp, ds), "threshold": SMALL},
        "intended_behaviour": _share((np.sign(dp) == aim)[meant]),
        "intended_probe": _share((np.sign(ds) == aim)[meant]),
        "fit": {"slope": slope, "intercept": None if slope is None else float(ds.mean() - slope * dp.mean())},
    }


def _noise(neutral: float | None, stands_in: float | None) -> tuple[float | None, str | None]:
    """The noise, and what it was taken from."""
    if neutral is not None:
        return neutral, NEUTRAL
    return stands_in, None if stands_in is None else DP_SE


def _estimable(
    dp: Floats, ds: Floats, size: float | None, noise: float | None, noise_from: str | None
) -> tuple[bool, str]:
    n = len(dp)
    if size is None:
        return False, "No point is on target: the model would not choose, or no prompt is about any of the tasks."
    if n < MIN_POINTS:
        return False, f"Only {n} points are on target, and a correlation that means something takes {MIN_POINTS}."
    for name, values in (("Δp", dp), ("Δs", ds)):
        if pearson(values, values) is None:
            return False, f"{name} is the same at all {n} on-target points, so there is nothing to correlate."
    found = f"On-target Δp has a root mean square of {size:.2g} over {n} points"
    if noise is None:
        return False, f"{found}, but no neutral prompt has a Δp, so the model's own noise was not measured."
    of = "that of neutral prompts" if noise_from == NEUTRAL else "its standard error over comparison tasks"
    ratio = f"{size / noise:.2g} times {of} ({noise:.2g})" if noise else f"and {of} is 0"
    if size >= SMALL and size >= SIGNAL * noise:
        return True, f"{found}, {ratio}, so it stands above the noise."
    return False, f"{found}, {ratio}; to stand above the noise it needs {SMALL:g} and {SIGNAL:g} times."


def _why_not_corrected(grid: _Grid) -> str | None:
    """Why each prompt's off-target mean cannot be taken away; None where it can."""
    if not grid.on.any():
        return "No point is on target."
    lacking = np.flatnonzero(~(grid.there & ~grid.on).any(axis=1))
    if not len(lacking):
        return None
    return (
        f"{len(lacking)} of {len(grid.prompts)} prompts, such as {grid.prompts[lacking[0]]}, have no off-target point, so "
        "what they do to all tasks alike cannot be told from what they do to their own."
    )


def _correlations(
    grid: _Grid, column: str, full: tuple[Mask, Mask], orders: Orders, blocks: Blocks | None, *, corrected: bool
) -> dict[str, Any]:
    x, y = grid.values["dp"], grid.values[column]

    def of(cells: Cells) -> dict[str, Any]:
        r = cells.pearson(x, y)
        return {
            "pearson": None if r is None else r_interval(r, x, y, cells, blocks),
            "spearman": cells.spearman(x, y),
            "p": None if r is None else _p(x, y, cells, full, orders),
            "n": int(cells.of.sum()),
        }

    off = grid.there & ~grid.on
    return {
        "on_target": of(Cells(grid.on)),
        "pooled": of(Cells(grid.there)),
        "centred": of(Cells(grid.there, grid.there)),
        "corrected": of(Cells(grid.on, off)) if corrected else None,
        "corrected_grid": of(Cells(grid.there, off)) if corrected else None,
    }


def _p(x: Floats, y: Floats, cells: Cells, full: tuple[Mask, Mask], orders: Orders) -> float | None:
    """One-sided p of r over the `cells` of the full grid; None where it has fewer than half of them, or no r."""
    inside, of = np.ix_(*full), cells.within(*full)
    lacking = of.reference is not None and not of.reference.any(axis=1).all()
    if lacking or of.of.sum() < LEAST_OF_POINTS * cells.of.sum():
        return None
    r = of.pearson(x[inside], y[inside])
    return None if r is None else permutation_p(r, x[inside], y[inside], of, orders)


def _advantage(grid: _Grid, blocks: Blocks | None) -> dict[str, Any] | None:
    """What the r of the probe has over that of the encoder, over all cells less their prompt's off-target mean."""
    cells = Cells(grid.there, grid.there & ~grid.on)
    x, probe, encoder = (grid.values[name] for name in ("dp", "ds", "ds_encoder"))
    one, other = cells.pearson(x, probe), cells.pearson(x, encoder)
    if one is None or other is None:
        return None
    return {**difference_interval(one - other, x, probe, encoder, cells, blocks)}


def _rms(x: Floats) -> float | None:
    return float(np.sqrt((x * x).mean())) if len(x) else None


def _share(agrees: npt.NDArray[np.bool_]) -> dict[str, Any]:
    return {"value": float(agrees.mean()) if len(agrees) else None, "n": len(agrees)}
