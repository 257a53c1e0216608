"""hoo: probes tested on topics held out of their training, out of what each layer gives."""

import numpy as np

from prefprobe.jobs._features import measured
from prefprobe.probes.crosstopic import CrossTopic
from prefprobe.probes.folds import LayerFolds
from prefprobe.store.formats import json_bytes, parquet_bytes, read_npz
from prefprobe.study.job import Job, Outputs


def run(job: Job) -> Outputs:
    """Writes hoo.json and predictions.parquet."""
    data, settings = measured(job), job.config.probes
    study = CrossTopic.of(
        np.array([*data.train, *data.eval]), data.train, data.eval, data.topics, holdout=settings.holdout,
        compat=settings.compat == "reference", permutations=job.node.params["permutations"], seed=job.config.seed,
    )  # fmt: skip
    result = study.join(
        {
            int(name.removeprefix("layer-").removesuffix(".npz")): LayerFolds.of(read_npz(job.read(node, name)))
            for node in job.node.reads
            if node.startswith("hoo-layers.")
            for name in job.inputs[node].outputs
        }
    )
    summary = {"features": job.args["features"], **result.summary}
    return {"hoo.json": json_bytes(summary), "predictions.parquet": parquet_bytes(result.predictions)}
