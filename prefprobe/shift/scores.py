"""The probe's score of tasks under system prompts."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from prefprobe.probes.probe import Probe
from prefprobe.shift.prompted import split_row_id

SCORES = pa.schema([("prompt_id", pa.string()), ("task_id", pa.string()), ("score", pa.float64())])


def probe_scores(part: Mapping[str, np.ndarray], probe: Probe) -> pa.Table:
    """Scores of the probe in units of utility; columns prompt_id, task_id, score, rows as in `part`.

    `part` has `task_ids` (n,), each the `row_id` of a prompted task, and `layer_<L>` (n, d) for the probe's layer.
    """
    ids = [split_row_id(str(id_)) for id_ in part["task_ids"]]
    scores = probe.score(part[f"layer_{probe.layer}"])
    return pa.table({"prompt_id": [p for p, _ in ids], "task_id": [t for _, t in ids], "score": scores})
