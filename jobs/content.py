"""content: does the model's best layer know more of preferences than each encoder's embedding?"""

from prefprobe.features.matrix import Features
from prefprobe.jobs._features import read_features, utilities
from prefprobe.probes.content import FOLDS, Rows, content_controls
from prefprobe.store.formats import json_bytes
from prefprobe.study.job import Job, Outputs


def run(job: Job) -> Outputs:
    """Writes content.json."""
    train, eval_ = (utilities(job, f"measure.{name}") for name in ("train", "eval"))
    layer = job.json("probe.model", "probe.json")["targets"]["raw"]["best_layer"]
    model = read_features(job, "model", [layer])
    encoders = {name: _rows(read_features(job, name, [0])) for name in job.config.encoders}
    seed, permutations = job.config.seed, job.config.probes.permutations
    found = content_controls(_rows(model), encoders, train, eval_, seed=seed, permutations=permutations)
    about = {"layer": layer, "n_train": len(train), "n_eval": len(eval_), "folds": FOLDS}
    return {"content.json": json_bytes({**about, "encoders": found})}


def _rows(features: Features) -> Rows:
    """Ids and the matrix of the one layer that there is."""
    (matrix,) = features.layers.values()
    return features.ids, matrix
