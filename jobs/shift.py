"""shift: do probe scores follow what system prompts change in the choices."""

import functools
from typing import Any

import pyarrow as pa

from prefprobe.probes.probe import Probe
from prefprobe.shift.behaviour import behavioural_shift
from prefprobe.shift.experiments import refitted_prompts
from prefprobe.shift.points import shift_points
from prefprobe.shift.prompted import BASELINE, experiments_of, neutral_prompts
from prefprobe.shift.refitted import refitted_shift, refitted_statistics, with_dmu
from prefprobe.shift.scores import probe_scores
from prefprobe.shift.statistics import shift_statistics
from prefprobe.shift.subset import part_of
from prefprobe.store.formats import json_bytes, parquet_bytes, read_npz
from prefprobe.study.job import Job, Outputs


def run(job: Job) -> Outputs:
    """Writes points.parquet (one row for every experiment, prompt, neutral ones too, and task) and shift.json.

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
    pairs = experiments_of(settings, job.objects)
    experiments = [part for part, _ in pairs]
    behaviour = behavioural_shift(choices, BASELINE, comparisons)
    neutral = neutral_prompts(settings)
    points = shift_points(experiments, behaviour, scores, BASELINE, encoder_scores, list(neutral))
    names = [experiment.name for experiment in experiments]
    statistics = shift_statistics(points, encoder=encoder, experiments=names, seed=job.config.seed)
    summary: dict[str, Any] = {"baseline": settings.baseline, "neutral": neutral, "n_comparisons": len(comparisons)}
    summary["experiments"] = statistics
    for part, whole in pairs:
        statistics[part.name]["part"] = part_of(part, whole)
    if settings.refitted:
        utilities = job.table("measure.train", "utilities.parquet").to_pylist()
        known = {u["task_id"]: (u["mu"], u["sigma"]) for u in utilities if u["task_id"] in comparisons}
        prompts = refitted_prompts(settings.refitted, experiments)
        points = with_dmu(points, refitted_shift(choices, BASELINE, known, prompts))
        for name, found in refitted_statistics(points).items():
            statistics[name]["refitted"] = found
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
