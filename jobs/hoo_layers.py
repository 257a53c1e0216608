"""hoo-layers: what topics held out of training give, for one shard of the layers of one kind of features."""

from prefprobe.jobs._features import about_features, measured, read_features
from prefprobe.probes.crosstopic import CrossTopic
from prefprobe.store.formats import npz_bytes
from prefprobe.study.job import Job, Outputs


def run(job: Job) -> Outputs:
    """Writes layer-<L>.npz for each of the shard's layers."""
    data, settings = measured(job), job.config.probes
    name = job.args["features"]
    features = read_features(job, name, about_features(job, name)["layers"][job.args["shard"] :: job.args["shards"]])
    study = CrossTopic.of(
        features.ids, data.train, data.eval, data.topics, holdout=settings.holdout,
        compat=settings.compat == "reference", permutations=job.node.params["permutations"], seed=job.config.seed,
    )  # fmt: skip
    return {f"layer-{layer}.npz": npz_bytes(study.layer(X).arrays()) for layer, X in features.layers.items()}
