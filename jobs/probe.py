"""probe: ridge probes of one kind of features, tested on held-out tasks."""

from prefprobe.choices.log import comparisons
from prefprobe.jobs._features import probe_inputs
from prefprobe.probes.heldout import heldout_probe
from prefprobe.probes.ridge import ALPHAS
from prefprobe.store.formats import json_bytes, npz_bytes, parquet_bytes
from prefprobe.study.graph import features_of, pin_of
from prefprobe.study.job import Job, Outputs


def run(job: Job) -> Outputs:
    """Writes probe.json, predictions.parquet, and probes.npz (w and b in raw feature space) with card.json."""
    data, settings, name = probe_inputs(job), job.config.probes, job.args["features"]
    choices = comparisons(job.table("measure.eval", "choices.parquet")).shares()
    result = heldout_probe(
        data.features.layers, data.features.ids, data.train, data.eval, data.topics, choices,
        compat=settings.compat == "reference", seed=job.config.seed, permutations=settings.permutations,
    )  # fmt: skip
    summary = {"features": name, **data.about, "alphas": ALPHAS.tolist(), **result.summary}
    best = {target: {k: t[k] for k in ("best_layer", "alpha", "r")} for target, t in result.targets.items()}
    keys = {node: job.inputs[node].key for node in job.node.reads}
    pin = pin_of(name, features_of(job.config)[name])
    card = {"features": name, "source": job.pins.get(pin), "inputs": keys, "best": best}
    return {
        "probe.json": json_bytes(summary),
        "predictions.parquet": parquet_bytes(result.predictions),
        "probes.npz": npz_bytes(result.probes),
        "card.json": json_bytes(card),
    }
