"""shift: do probe scores follow what system prompts change in the choices."""

import functools
from typing import Any

import pyarrow as pa

from prefprobe.probes.probe import Probe
from prefprobe.shift.behaviour import behavioural_shift
from prefprobe.shift.experiments import load_experiments
from prefprobe.shift.prompted import BASELINE, experiment_paths
from prefprobe.shift.scores import probe_scores
from prefprobe.shift.statistics import shift_points, shift_statistics
from prefprobe.store.formats import json_bytes, parquet_bytes, read_npz
from prefprobe.study.job import Job, Outputs


def run(job: Job) -> Outputs:
    """Writes points.parquet (one row for every experiment, prompt and task) and shift.json.

    The first encoder of the preset is the control: its probe scores the system prompt and the task as one text.
    """
    settings = job.config.shift
    measured = [n for n in job.inputs if n.startswith("shift-measure.")]
    comparisons = job.json(measured[0], "comparisons.json")
    choices = pa.concat_tables(job.table(n, "choices.parquet") for n in measured)
    scores = pa.concat_tables(job.table(n, "scores.parquet") for n in job.inputs if n.startswith("shift-score."))
    encoder = next(iter(job.config.encoders), None)
    encoder_scores = None
    if encoder is not None:
        probe = Probe.of(read_npz(job.read(f"probe.{encoder}", "probes.npz")), 0)
        encoder_scores = probe_scores(read_npz(job.read(f"embed.{encoder}.shift", "part-00000.npz")), probe)
    experiments = load_experiments(experiment_paths(settings.experiments, job.objects))
    behaviour = behavioural_shift(choices, BASELINE, comparisons)
    points = shift_points(experiments, behaviour, scores, BASELINE, encoder_scores)
    names = [experiment.name for experiment in experiments]
    statistics = shift_statistics(points, encoder=encoder, experiments=names, seed=job.config.seed)
    summary = {"baseline": settings.baseline, "n_comparisons": len(comparisons), "experiments": statistics}
    summary["unanswered"] = behaviour.column("dp").null_count
    summary["account"] = functools.reduce(_summed, (job.json(n, "account.json") for n in measured))
    return {"points.parquet": parquet_bytes(points), "shift.json": json_bytes(summary)}


def _summed(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Counts of two shards together; what is no number is the first one's."""
    both = {**other, **one}
    for key in one.keys() & other.keys():
        if isinstance(one[key], dict):
            both[key] = _summed(one[key], other[key])
        elif isinstance(one[key], int | float) and not isinstance(one[key], bool):
            both[key] = one[key] + other[key]
    return both
