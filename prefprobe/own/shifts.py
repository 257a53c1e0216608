"""`prefprobe shift-stats`: the statistics of the step `shift` for points in a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from prefprobe.errors import BadConfig
from prefprobe.numbers import listed
from prefprobe.probes.metrics import pearson
from prefprobe.records import Columns, Record, read_records
from prefprobe.shift.points import POINTS
from prefprobe.shift.statistics import STILL, shift_statistics, sign_agreement
from prefprobe.store.formats import json_bytes
from prefprobe.store.new_files import require_new_file, write_file

_COLUMNS = Columns(
    "points",
    ("experiment", "prompt", "prompt_id", "task", "task_id", "on_target", "neutral"),
    "every point `experiment`, `prompt`, `task`, `dp` and `ds`",
    ("sign", "intended", "dp", "ds", "dp_se", "ds_encoder"),
)
_OPTIONAL = ("on_target", "neutral", "sign", "intended", "dp_se", "ds_encoder")
_TRUTH = {"true": True, "false": False, "1": True, "0": False}
_NO_TARGETS = "Neither a column on_target nor sign says which points are on target: these are of all points."
_NO_GRID = (
    "p permutes whole prompts and tasks, which takes a point of every task under every prompt; without those that lack some, "
    "fewer than half of the points are left."
)
_FEW = "An interval takes three prompts and three tasks, and points that vary whichever of them is left out."
_NO_NOISE = "There is neither a neutral point nor dp_se, so the noise was not measured, and nothing stands above it."
_NO_ENCODER = "No point has ds_encoder, so it is not known whether scores say more than the prompt's text."


def shift_stats(points: Path, out: Path, seed: int) -> str:
    """Read points and write their statistics into the new file `out`, by experiment (see `describe`). Returns a sentence.

    Raises BadConfig naming file, row, column, what was expected and the next step, and for a file that exists.
    """
    require_new_file(out, ".json")
    table, named = read_points(points)
    statistics = describe(table, targets=named, seed=seed)
    write_file(json_bytes({"points": table.num_rows, "seed": seed, "experiments": statistics}), out)
    return f"{table.num_rows} points of {listed(list(statistics))}; the statistics are in {out}."


def read_points(path: Path) -> tuple[pa.Table, bool]:
    """A table with the columns of POINTS, and whether the file says which points are on target.

    Columns are experiment, prompt (or prompt_id), task (or task_id), dp and ds; and, if there, on_target (true or false),
    sign (or intended: 1, -1, 0 of none), neutral (true for a prompt that is meant to move nothing), dp_se and ds_encoder,
    as in the step's points.parquet. Without on_target a point with a sign is on target; without either, every point that
    is not neutral. Neutral points are the noise; without them dp_se is.
    """
    where: dict[tuple[str, str, str], str] = {}
    rows: list[dict[str, Any]] = []
    columns = frozenset[str]()
    for record in read_records(path, _COLUMNS):
        columns = columns or frozenset(record.cells)
        odd = next((name for name in _OPTIONAL if (name in record) != (name in columns)), None)
        if odd is not None:
            raise BadConfig(
                f"{record.where}: {'has' if odd in record else 'lacks'} `{odd}`, unlike the rows before it, expected it in every "
                "row or in none; give it in every row, or take it out."
            )
        row = _point(record, columns)
        key = (row["experiment"], row["prompt_id"], row["task_id"])
        if key in where:
            raise BadConfig(
                f"{record.where}: task {key[2]!r} under prompt {key[1]!r} of {key[0]!r} stands in {where[key]} too, expected "
                "one point; remove one."
            )
        if rows and (row["ds_encoder"] is None) != (rows[0]["ds_encoder"] is None):
            raise record.refusal("ds_encoder", "a number in every row or in none", "score every point")
        where[key] = record.where
        rows.append(row)
    table = pa.Table.from_pylist(rows, schema=POINTS).sort_by([(name, "ascending") for name in POINTS.names[:3]])
    return table, bool({"on_target", "sign", "intended"} & columns)


def describe(points: pa.Table, *, targets: bool, seed: int) -> dict[str, Any]:
    """For each experiment, over all points and again in `on_target`: `n`; `pearson` of dp and ds with `low`, `high` and `p`;
    `spearman`; `sign_agreement` where |dp| >= .02, of `n_signs` points. `corrected` is the same, but for signs, of on-target
    points less their prompt's off-target mean, and `advantage` what the probe's r has over the encoder's once that mean is
    taken from all points. `prompts` has `n` and `pearson` of each prompt, and `statistics` is all that the step says in
    shift.json, but that dp_se is the noise where there are no neutral points, which are in none of the others.
    `not_estimable` says what is null, and why.

    `on_target` and `corrected` are null without `targets`; the statistics are then of points that are all on target.
    """
    encoder = None if points.column("ds_encoder").null_count else "encoder"
    found = shift_statistics(points, encoder=encoder, seed=seed, dp_se_is_noise=True)
    names = np.array(points.column("experiment").to_pylist(), dtype=np.str_)
    still = np.array(points.column("neutral").to_pylist(), dtype=np.bool_)
    return {
        name: _experiment(points.filter(pa.array((names == name) & ~still)), about, targets)
        for name, about in found.items()
    }


def _experiment(points: pa.Table, statistics: dict[str, Any], targets: bool) -> dict[str, Any]:
    dp, ds = (points.column(name).to_numpy() for name in ("dp", "ds"))
    on = points.column("on_target").to_numpy()
    prompts = np.array(points.column("prompt_id").to_pylist(), dtype=np.str_)
    by_prompt = {str(prompt): prompts == prompt for prompt in np.unique(prompts)}
    not_estimable = _reasons(dp, ds, statistics["pooled"], "")
    for prompt, of in by_prompt.items():
        if pearson(dp[of], ds[of]) is None:
            not_estimable[f"prompts.{prompt}.pearson"] = _no_correlation(dp[of], ds[of])
    if targets:
        not_estimable |= _reasons(dp[on], ds[on], statistics["on_target"], "on_target.")
        not_estimable |= _not_corrected(statistics)
    else:
        not_estimable |= dict.fromkeys(("on_target", "corrected", "advantage"), _NO_TARGETS)
    if statistics["noise_from"] is None:
        not_estimable["noise"] = _NO_NOISE
    corrected, advantage = (statistics[key] if targets else None for key in ("corrected", "advantage"))
    return {
        **_summary(dp, ds, statistics["pooled"]),
        "on_target": _summary(dp[on], ds[on], statistics["on_target"]) if targets else None,
        "corrected": None if corrected is None else _correlation(corrected),
        "advantage": None if advantage is None else {key: advantage[key] for key in ("value", "low", "high")},
        "noise": statistics["effect"]["noise"],
        "noise_from": statistics["noise_from"],
        "prompts": {
            prompt: {"n": int(of.sum()), "pearson": pearson(dp[of], ds[of])} for prompt, of in by_prompt.items()
        },
        "statistics": statistics,
        "not_estimable": not_estimable,
    }


def _summary(dp: np.ndarray, ds: np.ndarray, correlation: dict[str, Any]) -> dict[str, Any]:
    signs = sign_agreement(dp, ds)
    return {**_correlation(correlation), "sign_agreement": signs["value"], "n_signs": signs["n"]}


def _correlation(correlation: dict[str, Any]) -> dict[str, Any]:
    r = correlation["pearson"] or dict.fromkeys(("value", "low", "high"))
    return {
        "n": correlation["n"],
        "pearson": r["value"],
        "low": r["low"],
        "high": r["high"],
        "p": correlation["p"],
        "spearman": correlation["spearman"],
    }


def _not_corrected(statistics: dict[str, Any]) -> dict[str, str]:
    """Why `corrected`, `advantage` or a part of them is null."""
    if statistics["corrected"] is None:
        return dict.fromkeys(("corrected", "advantage"), statistics["why_not_corrected"])
    known, advantage = _correlation(statistics["corrected"]), statistics["advantage"]
    found = {}
    if known["pearson"] is None:
        found = {f"corrected.{key}": STILL for key in ("pearson", "spearman", "p")}
    else:
        found |= {"corrected.p": _NO_GRID} if known["p"] is None else {}
        found |= {"corrected.low": _FEW, "corrected.high": _FEW} if known["low"] is None else {}
    if advantage is None:
        found["advantage"] = _NO_ENCODER if statistics["encoder"] is None else STILL
    elif advantage["low"] is None:
        found |= {"advantage.low": _FEW, "advantage.high": _FEW}
    return found


def _reasons(dp: np.ndarray, ds: np.ndarray, correlation: dict[str, Any], at: str) -> dict[str, str]:
    known = _summary(dp, ds, correlation)
    found = {}
    if known["pearson"] is None:
        found = dict.fromkeys(("pearson", "spearman", "p"), _no_correlation(dp, ds))
    else:
        found |= {"p": _NO_GRID} if known["p"] is None else {}
        found |= {"low": _FEW, "high": _FEW} if known["low"] is None else {}
    if known["sign_agreement"] is None:
        found["sign_agreement"] = "At no point Δp reaches 0.02 in size, below which its sign means nothing."
    return {f"{at}{name}": why for name, why in found.items()}


def _no_correlation(dp: np.ndarray, ds: np.ndarray) -> str:
    if len(dp) < 3:
        return f"There are {len(dp)} points, and a correlation takes 3."
    still = "Δp" if pearson(dp, dp) is None else "Δs"
    return f"{still} is the same at all {len(dp)} points, so there is nothing to correlate."


def _point(record: Record, columns: frozenset[str]) -> dict[str, Any]:
    other = (("prompt", "prompt_id"), ("task", "task_id"), ("sign", "intended"))
    named = {name: _one_of(record, columns, name, by) for name, by in other}
    sign = _sign(record, named["sign"]) if named["sign"] in columns else 0
    neutral = "neutral" in columns and _truth(record, "neutral")
    on_target = _truth(record, "on_target") if "on_target" in columns else bool(sign) or named["sign"] not in columns
    if neutral and (sign or ("on_target" in columns and on_target)):
        raise record.refusal("neutral", "false, since the point is on target or has a sign")
    return {
        "experiment": _name(record, "experiment"),
        "prompt_id": _name(record, named["prompt"]),
        "task_id": record.task_id(named["task"]),
        "on_target": on_target and not neutral,
        "intended": sign,
        "neutral": neutral,
        "dp": record.number("dp", -1.0, 1.0),
        "ds": record.number("ds"),
        "dp_se": record.number("dp_se", 0.0) if "dp_se" in columns else None,
        "ds_encoder": _encoder(record) if "ds_encoder" in columns else None,
        **dict.fromkeys(("p_baseline", "p_prompt"), 0.0),
    }


def _one_of(record: Record, columns: frozenset[str], name: str, other: str) -> str:
    if {name, other} <= columns:
        raise BadConfig(
            f"{record.where}: has both `{name}` and `{other}`, expected one of them; remove the other column."
        )
    return other if other in columns else name


def _name(record: Record, column: str) -> str:
    value = record.cell(column)
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise record.refusal(column, "a name (text that is not blank, or a whole number)")
    return text


def _sign(record: Record, column: str) -> int:
    """0 where there is none."""
    value = record.cell(column)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in (-1, 0, 1):
        raise record.refusal(column, "1, -1, or 0 of none")
    return int(value)


def _encoder(record: Record) -> float | None:
    return None if record.cell("ds_encoder") is None else record.number("ds_encoder")


def _truth(record: Record, column: str) -> bool:
    known = _TRUTH.get(str(record.cell(column)).strip().lower())
    if known is None:
        raise record.refusal(column, "true or false")
    return known
