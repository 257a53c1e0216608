"""The probe's score of tasks under system prompts."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from prefprobe.shift.prompted import split_row_id


def probe_scores(part: Mapping[str, np.ndarray], layer: int, probes: Mapping[str, np.ndarray]) -> pa.Table:
    """Scores of the raw probe at `layer`: activation · w + b, in units of utility.

    `part` has `task_ids` (n,), each the `row_id` of a prompted task, and `layer_<L>` (n, d); `probes` holds `raw_<L>_w`
    (d,) and `raw_<L>_b`. Columns: prompt_id, task_id, score; rows as in `part`.
    """
    scores = part[f"layer_{layer}"].astype(np.float64) @ probes[f"raw_{layer}_w"] + float(probes[f"raw_{layer}_b"])
    ids = [split_row_id(str(id_)) for id_ in part["task_ids"]]
    return pa.table({"prompt_id": [p for p, _ in ids], "task_id": [t for _, t in ids], "score": scores})
