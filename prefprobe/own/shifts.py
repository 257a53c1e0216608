"""`prefprobe shift-stats`: the statistics of the step `shift` for points in a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from prefprobe.errors import BadConfig
from prefprobe.numbers import listed
from prefprobe.probes.metrics import pearson
from prefprobe.records import Columns, Record, read_records
from prefprobe.shift.statistics import POINTS, shift_statistics, sign_agreement
from prefprobe.store.formats import json_bytes
from prefprobe.store.new_files import require_new_file, write_file

_COLUMNS = Columns(
    "points",
    ("experiment", "prompt", "prompt_id", "task", "task_id", "on_target"),
    "every point `experiment`, `prompt`, `task`, `dp` and `ds`",
    ("sign", "intended", "dp", "ds", "dp_se", "ds_encoder"),
)
_TRUTH = {"true": True, "false": False, "1": True, "0": False}
_NO_TARGETS = "Neither a column on_target nor sign says which points are on target: these are of all points."
_NO_GRID = "p permutes whole prompts and tasks, which takes a point of every task under every prompt."
_FEW = "An interval takes three prompts and three tasks, and resamples that vary."


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
    sign (or intended: 1, -1, 0 of none), dp_se and ds_encoder, as in the step's points.parquet. Without on_target a point
    with a sign is on target; without either, every point. Without dp_se, dp has no noise.
    """
    where: dict[tuple[str, str, str], str] = {}
    rows: list[dict[str, Any]] = []
    columns = frozenset[str]()
    for record in read_records(path, _COLUMNS):
        columns = columns or frozenset(record.cells)
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
    `spearman`; `sign_agreement` where |dp| >= .02, of `n_signs` points. `prompts` has `n` and `pearson` of each prompt, and
    `statistics` is all that the step says in shift.json. `not_estimable` says what is null, and why.

    `on_target` is null without `targets`; the statistics are then of points that are all on target.
    """
    encoder = None if points.column("ds_encoder").null_count else "encoder"
    found = shift_statistics(points, encoder=encoder, seed=seed)
    names = np.array(points.column("experiment").to_pylist(), dtype=np.str_)
    return {name: _experiment(points.filter(pa.array(names == name)), about, targets) for name, about in found.items()}


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
    else:
        not_estimable["on_target"] = _NO_TARGETS
    return {
        **_summary(dp, ds, statistics["pooled"]),
        "on_target": _summary(dp[on], ds[on], statistics["on_target"]) if targets else None,
        "prompts": {
            prompt: {"n": int(of.sum()), "pearson": pearson(dp[of], ds[of])} for prompt, of in by_prompt.items()
        },
        "statistics": statistics,
        "not_estimable": not_estimable,
    }


def _summary(dp: np.ndarray, ds: np.ndarray, correlation: dict[str, Any]) -> dict[str, Any]:
    r = correlation["pearson"] or dict.fromkeys(("value", "low", "high"))
    signs = sign_agreement(dp, ds)
    return {
        "n": correlation["n"],
        "pearson": r["value"],
        "low": r["low"],
        "high": r["high"],
        "p": correlation["p"],
        "spearman": correlation["spearman"],
        "sign_agreement": signs["value"],
        "n_signs": signs["n"],
    }


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
    return {
        "experiment": _name(record, "experiment"),
        "prompt_id": _name(record, named["prompt"]),
        "task_id": record.task_id(named["task"]),
        "on_target": _truth(record) if "on_target" in columns else bool(sign) or named["sign"] not in columns,
        "intended": sign,
        "dp": record.number("dp"),
        "ds": record.number("ds"),
        "dp_se": record.number("dp_se") if "dp_se" in columns else 0.0,
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


def _truth(record: Record) -> bool:
    value = record.cell("on_target")
    known = _TRUTH.get(str(value).strip().lower())
    if known is None:
        raise record.refusal("on_target", "true or false")
    return known
