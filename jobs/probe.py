"""probe: ridge probes of one kind of features, tested on held-out tasks."""

from prefprobe.choices.log import comparisons
from prefprobe.jobs._features import about_features, measured, read_features
from prefprobe.probes.heldout import heldout_probe
from prefprobe.probes.ridge import ALPHAS
from prefprobe.store.formats import json_bytes, npz_bytes, parquet_bytes
from prefprobe.study.graph import features_of, pin_of, position_of
from prefprobe.study.job import Job, Outputs
from prefprobe.thurstonian.ceiling import agreement_ceiling


def run(job: Job) -> Outputs:
    """Writes probe.json, predictions.parquet, and probes.npz (w and b in raw feature space) with card.json."""
    data, settings, name = measured(job), job.config.probes, job.args["features"]
    about = about_features(job, name)
    features = read_features(job, name, about["layers"])
    choices = comparisons(job.table("measure.eval", "choices.parquet"))
    result = heldout_probe(
        features.layers, features.ids, data.train, data.eval, data.topics, choices.shares(),
        compat=settings.compat == "reference", seed=job.config.seed, permutations=job.node.params["permutations"],
    )  # fmt: skip
    ceiling = agreement_ceiling(choices, seed=job.config.seed)
    summary = {"features": name, **about, "alphas": ALPHAS.tolist(), **result.summary, "ceiling": ceiling}
    best = {target: {k: t[k] for k in ("best_layer", "alpha", "r")} for target, t in result.targets.items()}
    keys = {node: job.inputs[node].key for node in job.node.reads}
    pin = pin_of(name, features_of(job.config)[name])
    card = {"features": name, "source": job.pins.get(pin), "inputs": keys, "best": best}
    position = position_of(job.config, name)
    if position not in (None, "last"):  # the default one is not said, so that cards stay as they were
        card["position"] = position
    return {
        "probe.json": json_bytes(summary),
        "predictions.parquet": parquet_bytes(result.predictions),
        "probes.npz": npz_bytes(result.probes),
        "card.json": json_bytes(card),
    }
