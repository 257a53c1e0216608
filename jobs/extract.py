"""extract: activations of one model over one shard of the tasks."""

from prefprobe.jobs._model import open_model
from prefprobe.jobs._pool import read_rows
from prefprobe.store.formats import json_bytes, read_json
from prefprobe.study.job import Job, Outputs


def run(job: Job) -> Outputs:
    """Writes part-*.npz (task_ids, layer_<L>) and extract.json (layers, width)."""
    from prefprobe.activations.extraction import ALONE, extract, layer_numbers

    config, features = job.config, job.args["features"]
    rows = read_rows(job)
    mine = [(id_, text, None) for id_, text in rows[job.args["shard"] :: config.activations.shards]]
    model = open_model(job, features)
    layers = layer_numbers(config.activations.fractions, model.n_layers)
    parts = extract(model, mine, layers, job.store, config.activations.part, job.progress)
    about = {
        "layers": layers,
        "n_layers": model.n_layers,
        "d": model.width,
        "kind": "activations",
        "family": model.family,
        "prompt": model.prompts.describe(),
        "alone": read_json(job.store.read_part(ALONE)) if ALONE in job.store.parts() else "",
    }
    return {**parts, "features.json": json_bytes(about)}
