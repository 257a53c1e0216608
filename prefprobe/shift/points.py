"""The points of every experiment: what a system prompt changed of one task, in choices and in scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.shift.experiments import Experiment, intended, on_target

NUMBERS = ("p_baseline", "p_prompt", "dp", "dp_se", "ds", "ds_encoder")
POINTS = pa.schema(
    [
        *((name, pa.string()) for name in ("experiment", "prompt_id", "task_id")),
        *(("on_target", pa.bool_()), ("intended", pa.int8()), ("neutral", pa.bool_()), ("n", pa.int32())),
        *((name, pa.float64()) for name in NUMBERS),
    ]
)


def shift_points(
    experiments: Sequence[Experiment],
    behaviour: pa.Table,
    scores: pa.Table,
    baseline_id: str,
    encoder_scores: pa.Table | None = None,
    neutral_ids: Sequence[str] = (),
) -> pa.Table:
    """Every task under every prompt of its experiment and every neutral one, sorted by the first three columns of POINTS.

    `behaviour` is that of `behavioural_shift`. Score tables have prompt_id, task_id, score, and rows for `baseline_id`:
    ds = score under the prompt - score of the same task under the baseline; ds_encoder likewise, null without scores.
    Rows of `neutral_ids`, paraphrases of the baseline that are meant to move nothing, are `neutral` and never on target.
    A task whose Δp is null is left out: the model would not choose.
    Raises InputMissing naming a point without choices or scores, BadConfig for one scored twice and naming one with a
    number that is not finite.
    """
    moved = {(row["prompt_id"], row["task_id"]): row for row in behaviour.to_pylist()}
    scored = {"ds": _scores(scores)}
    if encoder_scores is not None:
        scored["ds_encoder"] = _scores(encoder_scores)
    rows = []
    for experiment in experiments:
        cells: list[tuple[str, str, dict[str, Any]]] = [
            (p.id, t.id, {"on_target": on_target(p, t), "intended": intended(p, t), "neutral": False})
            for p in experiment.prompts
            for t in experiment.tasks
        ]
        still = {"on_target": False, "intended": 0, "neutral": True}
        cells += [(prompt_id, t.id, still) for prompt_id in neutral_ids for t in experiment.tasks]
        for prompt_id, task_id, about in cells:
            if (prompt_id, task_id) not in moved:
                raise InputMissing(
                    f"shift: no choices of task {task_id} under prompt {prompt_id}; run shift-measure for it."
                )
            if moved[prompt_id, task_id]["dp"] is None:
                continue
            row = moved[prompt_id, task_id] | about | {"experiment": experiment.name}
            for column, score in scored.items():
                for id_ in (prompt_id, baseline_id):
                    if (id_, task_id) not in score:
                        raise InputMissing(
                            f"shift: {column}: task {task_id} has no score under prompt {id_}; score that prompt again."
                        )
                row[column] = score[prompt_id, task_id] - score[baseline_id, task_id]
            rows.append(row)
    points = pa.Table.from_pylist(rows, schema=POINTS)
    require_finite(points, with_encoder=encoder_scores is not None)
    return points.sort_by([(name, "ascending") for name in POINTS.names[:3]])


def require_finite(points: pa.Table, *, with_encoder: bool) -> None:
    """Raise BadConfig naming a point that has a number which is not finite.

    dp_se may be null in all rows, and ds_encoder where there is no encoder.
    """
    absent = {"ds_encoder"} if not with_encoder else set()
    if points.column("dp_se").null_count == points.num_rows:
        absent.add("dp_se")
    for name in NUMBERS:
        column = points.column(name)
        bad = ~np.isfinite(column.to_numpy().astype(np.float64))
        if name in absent:
            bad &= column.is_valid().to_numpy()
        if bad.any():
            row = int(np.argmax(bad))
            task, prompt = (points.column(of)[row].as_py() for of in ("task_id", "prompt_id"))
            raise BadConfig(
                f"shift: {name} of task {task} under prompt {prompt} is not a finite number; measure it again."
            )


def _scores(table: pa.Table) -> dict[tuple[str, str], float]:
    rows = table.select(["prompt_id", "task_id", "score"]).to_pylist()
    scores = {(row["prompt_id"], row["task_id"]): np.nan if row["score"] is None else row["score"] for row in rows}
    if len(scores) < len(rows):
        raise BadConfig(
            f"shift: {len(rows)} scores are of only {len(scores)} prompts and tasks; score each point once."
        )
    return scores
