"""extract: activations of one model over one shard of the tasks."""

from typing import Any

from prefprobe.jobs._model import open_model
from prefprobe.jobs._pool import read_rows
from prefprobe.store.formats import json_bytes, read_json
from prefprobe.study.job import Job, Outputs
from prefprobe.tasks.sampling import shard_of


def run(job: Job) -> Outputs:
    """Writes part-*.npz (task_ids, layer_<L>, and as `mean_<L>` and the like further positions) and features.json."""
    from prefprobe.activations.extraction import ALONE, extract, layer_numbers

    settings, features = job.config.activations, job.args["features"]
    mine = [(i, text, None) for i, text in read_rows(job) if shard_of(i, settings.shards) == job.args["shard"]]
    model = open_model(job, features, max(settings.fractions))
    layers = layer_numbers(settings.fractions, model.n_layers)
    positions = settings.positions if features == "model" else settings.positions[:1]
    parts = extract(
        model, mine, layers, job.store, settings.part, job.progress, positions=positions, dtype=settings.dtype
    )
    about: dict[str, Any] = {
        "layers": layers,
        "n_layers": model.n_layers,
        "d": model.width,
        "kind": "activations",
        "family": model.family,
        "prompt": model.prompts.describe(),
        "alone": read_json(job.store.read_part(ALONE)) if ALONE in job.store.parts() else "",
        **{name: job.node.params[name] for name in ("positions", "dtype") if name in job.node.params},
    }
    return {**parts, "features.json": json_bytes(about)}
