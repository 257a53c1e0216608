"""Do probe scores move as choices do? Point tables, correlations with intervals, and when there is nothing to correlate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.stats import rankdata

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.shift.experiments import Experiment, intended, on_target

Floats = npt.NDArray[np.float64]

SMALL = 0.02
"""Shifts of P(choose) below this are too small for their sign to mean anything."""
SIGNAL = 2.0
"""How far above its own noise a model's shift must stand for a claim to be estimable."""
MIN_POINTS = 4

POINTS = pa.schema(
    [
        ("experiment", pa.string()),
        ("prompt_id", pa.string()),
        ("task_id", pa.string()),
        ("on_target", pa.bool_()),
        ("intended", pa.int8()),
        ("n", pa.int32()),
        *((name, pa.float64()) for name in ("p_baseline", "p_prompt", "dp", "dp_se", "ds", "ds_encoder")),
    ]
)


def shift_points(
    experiments: Sequence[Experiment],
    behaviour: pa.Table,
    scores: pa.Table,
    baseline: str,
    encoder_scores: pa.Table | None = None,
) -> pa.Table:
    """One row for every experiment, prompt and task, with the columns of POINTS, sorted by those three.

    `behaviour` comes from `behavioural_shift`; score tables have prompt_id, task_id, score, the baseline among the
    prompts. Δs is the score under the prompt minus the score under the same baseline. Raises InputMissing naming a
    point without choices or scores, BadConfig naming one whose numbers are not finite.
    """
    moved = {(r["prompt_id"], r["task_id"]): r for r in behaviour.to_pylist()}
    score = {(r["prompt_id"], r["task_id"]): r["score"] for r in scores.to_pylist()}
    encoded = (
        {(r["prompt_id"], r["task_id"]): r["score"] for r in encoder_scores.to_pylist()} if encoder_scores else None
    )
    rows = []
    for experiment in sorted(experiments, key=lambda e: e.name):
        for prompt in sorted(experiment.prompts, key=lambda p: p.id):
            for task in sorted(experiment.tasks, key=lambda t: t.id):
                cell = (prompt.id, task.id)
                try:
                    row = dict(moved[cell])
                    row["ds"] = score[cell] - score[baseline, task.id]
                    row["ds_encoder"] = None if encoded is None else encoded[cell] - encoded[baseline, task.id]
                except KeyError as error:
                    raise InputMissing(
                        f"shift: {task.id} under {prompt.id} has no choices or scores; run shift-measure and shift-score."
                    ) from error
                bad = [k for k in ("dp", "dp_se", "ds", "ds_encoder") if row[k] is not None and not np.isfinite(row[k])]
                if bad:
                    raise BadConfig(
                        f"shift: {bad[0]} of {task.id} under {prompt.id} is not finite; check the activations."
                    )
                rows.append(
                    {
                        "experiment": experiment.name,
                        "on_target": on_target(prompt, task),
                        "intended": intended(prompt, task),
                    }
                    | row
                )
    return pa.Table.from_pylist(rows, schema=POINTS)


def shift_statistics(
    points: pa.Table, *, encoder: str | None, seed: int = 0, bootstrap: int = 2000, permutations: int = 2000
) -> dict[str, Any]:
    """Statistics of every experiment in `points`, as `shift.json` has them; None wherever a number is not defined.

    Every experiment must be a full grid of prompts and tasks (as `shift_points` makes it). Intervals resample whole
    prompts and whole tasks; the permutation p (one-sided: scores follow choices) moves whole prompts and whole tasks of
    Δs against Δp and takes the on-target cells again, p = (k + 1) / (N + 1).
    """
    results = {}
    for index, name in enumerate(sorted(set(points.column("experiment").to_pylist()))):
        rows = [r for r in points.to_pylist() if r["experiment"] == name]
        results[name] = _Grid(rows).summary(encoder, [seed, 4, index], bootstrap, permutations)
    return results


class _Grid:
    """One experiment as matrices of prompts × tasks."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        prompts, tasks = (sorted({r[key] for r in rows}) for key in ("prompt_id", "task_id"))
        at = {(r["prompt_id"], r["task_id"]): r for r in rows}
        if len(at) != len(rows) or len(rows) != len(prompts) * len(tasks):
            raise BadConfig(f"shift: the points of {rows[0]['experiment']} are no full grid of prompts and tasks.")

        def matrix(key: str) -> Floats:
            return np.array([[at[p, t][key] for t in tasks] for p in prompts], dtype=np.float64)

        self.dp, self.se, self.ds = matrix("dp"), matrix("dp_se"), matrix("ds")
        self.intended, self.on = matrix("intended"), matrix("on_target") > 0
        self.ds_encoder = None if rows[0]["ds_encoder"] is None else matrix("ds_encoder")

    def summary(self, encoder: str | None, seed: list[int], bootstrap: int, permutations: int) -> dict[str, Any]:
        """The entry of one experiment in `shift.json`."""
        estimable, why, effect = self._effect()
        clear = self.on & (np.abs(self.dp) >= SMALL)
        aimed = clear & (self.intended != 0)
        against = None
        if encoder is not None and self.ds_encoder is not None:
            against = {"name": encoder, **self._correlations(self.ds_encoder, seed, bootstrap, permutations)}
        agree = np.sign(self.ds) == np.sign(self.dp)
        return {
            "n_prompts": self.dp.shape[0],
            "n_tasks": self.dp.shape[1],
            "n_points": self.dp.size,
            "n_on_target": int(self.on.sum()),
            "effect": effect,
            "estimable": estimable,
            "why": why,
            **self._correlations(self.ds, seed, bootstrap, permutations),
            "sign_agreement": {**_share(agree[clear]), "threshold": SMALL},
            "intended_behaviour": _share((np.sign(self.dp) == self.intended)[aimed]),
            "intended_probe": _share((np.sign(self.ds) == self.intended)[aimed]),
            "fit": _line(self.dp[self.on], self.ds[self.on]),
            "encoder": against,
        }

    def _effect(self) -> tuple[bool, str, dict[str, Any]]:
        on, off = self.dp[self.on], self.dp[~self.on]
        size, noise = _rms(on), _rms(self.se[self.on])
        ratio = None if size is None or not noise else size / noise
        effect = {
            "rms_on_target": size,
            "rms_off_target": _rms(off),
            "max": float(np.abs(self.dp).max()),
            "noise": noise,
            "signal_to_noise": ratio,
        }
        if len(on) < MIN_POINTS or size is None or _varies(on) is False:
            return False, f"Only {len(on)} on-target points, or none that differ: nothing to correlate.", effect
        shown = f"on-target choices move by {size:.3f} (rms of Δp), {'∞' if ratio is None else f'{ratio:.1f}'} times the noise of {noise:.3f}"
        enough = size >= SMALL and (ratio is None or ratio >= SIGNAL)
        rule = f"{SMALL} and {SIGNAL:g} times the noise are needed"
        return enough, f"{shown[0].upper()}{shown[1:]}{'' if enough else f'; {rule}'}.", effect

    def _correlations(self, ds: Floats, seed: list[int], bootstrap: int, permutations: int) -> dict[str, Any]:
        everywhere = np.ones_like(self.on)
        dp_centred, ds_centred = (m - m.mean(axis=1, keepdims=True) for m in (self.dp, ds))
        found = {}
        for name, x, y, where in (
            ("on_target", self.dp, ds, self.on),
            ("pooled", self.dp, ds, everywhere),
            ("centred", dp_centred, ds_centred, everywhere),
        ):
            r = _pearson(x[where], y[where])
            found[name] = {
                "pearson": None if r is None else {"value": r, **_bootstrap(x, y, where, seed, bootstrap)},
                "spearman": _pearson(rankdata(x[where]), rankdata(y[where])),
                "p": None if r is None else _permutation(x, y, where, r, seed, permutations),
                "n": int(where.sum()),
            }
        return found


def _bootstrap(
    x: Floats, y: Floats, where: npt.NDArray[np.bool_], seed: list[int], times: int
) -> dict[str, float | None]:
    """95 % bounds of r from resampled prompts and tasks: a cell counts as often as its prompt times its task is drawn."""
    rng = np.random.default_rng([*seed, 0])
    prompts, tasks = x.shape
    rows = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=times)
    columns = rng.multinomial(tasks, np.full(tasks, 1 / tasks), size=times)
    weight = (rows[:, :, None] * columns[:, None, :])[:, where].astype(np.float64)
    r = _weighted_pearson(x[where], y[where], weight)
    r = r[np.isfinite(r)]
    if len(r) < times / 2:
        return {"low": None, "high": None}
    low, high = np.quantile(r, [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def _permutation(x: Floats, y: Floats, where: npt.NDArray[np.bool_], r: float, seed: list[int], times: int) -> float:
    rng = np.random.default_rng([*seed, 1])
    prompts, tasks = x.shape
    rows = rng.permuted(np.tile(np.arange(prompts), (times, 1)), axis=1)
    columns = rng.permuted(np.tile(np.arange(tasks), (times, 1)), axis=1)
    moved = y[rows[:, :, None], columns[:, None, :]][:, where]
    moved = moved - moved.mean(axis=1, keepdims=True)
    fixed = x[where] - x[where].mean()
    norm = np.sqrt((moved**2).sum(axis=1) * (fixed**2).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        by_chance = np.where(norm > 0, moved @ fixed / norm, 0.0)
    return float((int((by_chance >= r - 1e-12).sum()) + 1) / (times + 1))


def _weighted_pearson(x: Floats, y: Floats, weight: Floats) -> Floats:
    total = weight.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mx, my = weight @ x / total, weight @ y / total
        vx, vy = weight @ x**2 / total - mx**2, weight @ y**2 / total - my**2
        r = (weight @ (x * y) / total - mx * my) / np.sqrt(vx * vy)
    tiny = 1e-12
    return np.where((vx > tiny * (x**2).max()) & (vy > tiny * (y**2).max()), r, np.nan)


def _pearson(x: Floats, y: Floats) -> float | None:
    if len(x) < MIN_POINTS or not (_varies(x) and _varies(y)):
        return None
    return float(np.clip(np.corrcoef(x, y)[0, 1], -1.0, 1.0))


def _varies(x: Floats) -> bool:
    return bool(np.ptp(x) > 1e-12 * max(1e-300, float(np.abs(x).max())))


def _share(flags: npt.NDArray[np.bool_]) -> dict[str, Any]:
    return {"value": float(flags.mean()) if len(flags) else None, "n": len(flags)}


def _rms(x: Floats) -> float | None:
    return float(np.sqrt((x**2).mean())) if len(x) else None


def _line(x: Floats, y: Floats) -> dict[str, float | None]:
    """Least squares of Δs on Δp."""
    if _pearson(x, y) is None:
        return {"slope": None, "intercept": None}
    slope, intercept = np.polyfit(x, y, 1)
    return {"slope": float(slope), "intercept": float(intercept)}
