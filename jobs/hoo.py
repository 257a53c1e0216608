"""hoo: probes tested on topics held out of their training."""

from prefprobe.jobs._features import probe_inputs
from prefprobe.probes.crosstopic import cross_topic
from prefprobe.store.formats import json_bytes, parquet_bytes
from prefprobe.study.job import Job, Outputs


def run(job: Job) -> Outputs:
    """Writes hoo.json and predictions.parquet."""
    data, settings = probe_inputs(job), job.config.probes
    result = cross_topic(
        data.features.layers, data.features.ids, data.train, data.eval, data.topics,
        holdout=settings.holdout, compat=settings.compat == "reference", seed=job.config.seed,
    )  # fmt: skip
    summary = {"features": job.args["features"], **result.summary}
    return {"hoo.json": json_bytes(summary), "predictions.parquet": parquet_bytes(result.predictions)}
