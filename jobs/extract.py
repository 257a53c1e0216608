"""extract: activations of one model over one shard of the tasks."""

from prefprobe.store.formats import json_bytes
from prefprobe.study.graph import features_of, pin_of
from prefprobe.study.job import Job, Outputs


def run(job: Job) -> Outputs:
    """Writes part-*.npz (task_ids, layer_<L>) and extract.json (layers, width)."""
    from prefprobe.activations.extraction import extract, layer_numbers
    from prefprobe.activations.loading import load_model

    config, features = job.config, job.args["features"]
    tasks = job.table("tasks", "tasks.parquet").sort_by("id")
    rows = list(zip(tasks.column("id").to_pylist(), tasks.column("text").to_pylist(), strict=True))
    mine = [(id_, text, None) for id_, text in rows[job.args["shard"] :: config.activations.shards]]
    pin = pin_of(features, features_of(config)[features])  # model or base: also the name of its settings
    model = load_model(
        getattr(config, pin),
        job.pins[pin],
        adapter_revision=job.pins.get(f"{pin}.adapter"),
        untrained_seed=config.seed if features == "untrained" else None,
    )
    layers = layer_numbers(config.activations.fractions, model.n_layers)
    about = {
        "layers": layers,
        "n_layers": model.n_layers,
        "d": model.width,
        "kind": "activations",
        "family": model.family,
    }
    parts = extract(model, mine, layers, job.store, config.activations.part, job.progress)
    return {**parts, "features.json": json_bytes(about)}
