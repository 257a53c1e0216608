"""shift-score: activations of every shifted task under one shard of the system prompts, and the probe's score of each."""

import pyarrow as pa

from prefprobe.features.stored import select
from prefprobe.jobs._model import open_model
from prefprobe.probes.probe import Probe
from prefprobe.shift.prompted import prompted_tasks
from prefprobe.shift.scores import SCORES, probe_scores
from prefprobe.store.formats import parquet_bytes, read_npz
from prefprobe.study.job import Job, Outputs


def run(job: Job) -> Outputs:
    """Writes part-*.npz (ids are "prompt id<TAB>task id") and scores.parquet (prompt_id, task_id, score).

    The score is the raw probe at its best layer: activation · w + b, in units of utility.
    """
    from prefprobe.activations.extraction import extract

    config = job.config
    rows = prompted_tasks(config.shift, job.objects)
    mine = sorted({r.prompt_id for r in rows})[job.args["shard"] :: config.shift.shards]
    prompted = [(r.row_id, r.text, r.prompt) for r in rows if r.prompt_id in mine]
    layer = job.json("probe.model", "probe.json")["targets"]["raw"]["best_layer"]
    probe = Probe.of(read_npz(job.read("probe.model", "probes.npz")), layer)
    settings = config.activations
    parts = extract(
        open_model(job, deepest=max(settings.fractions)), prompted, [layer], job.store, settings.part, job.progress,
        positions=settings.positions[:1], dtype=settings.dtype,
    )  # fmt: skip
    scored = [probe_scores(select(read_npz(job.store.read_part(name))), probe) for name in parts]
    scores = (
        pa.concat_tables(scored) if scored else SCORES.empty_table()
    )  # a shard of fewer prompts than there are shards
    return {
        **parts,
        "scores.parquet": parquet_bytes(scores.sort_by([("prompt_id", "ascending"), ("task_id", "ascending")])),
    }
