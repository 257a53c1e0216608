"""Results as files outside the store: activations in the layout of the seed study, or the outputs of a step."""

from collections.abc import Sequence
from pathlib import Path

from prefprobe.errors import BadConfig
from prefprobe.store.formats import json_bytes, npz_bytes, read_npz
from prefprobe.store.keys import canonical_json
from prefprobe.study.graph import Node, extracted_as, features_of, position_of
from prefprobe.study.run import Run


def export_features(run: Run, features: str, out: Path) -> str:
    """Write `activations.npz` (task_ids, layer_<L> (n, d) float32; of activations `about`, which says their position) and
    `completions.json` (one object a row, in the same order: task_id, task, origin, topic, set). Returns a sentence saying
    what was written.

    Raises InputMissing if the activations are not in the store, BadConfig if a file would be overwritten.
    """
    import numpy as np

    from prefprobe.features.matrix import join_features
    from prefprobe.features.stored import select

    files = [out / "activations.npz", out / "completions.json"]
    there = [f for f in files if f.exists()]
    if there:
        raise BadConfig(f"{there[0]} exists; export into a new folder.")
    if features not in (known := features_of(run.config)):
        raise BadConfig(f"run {run.id} has no features {features}; it has {', '.join(sorted(known))}.")
    source, kind = extracted_as(run.config, features)
    nodes = [n for n in run.nodes.values() if n.step.name in ("extract", "embed") and n.args["features"] == source]
    nodes = [n for n in nodes if not n.args.get("prompted")]
    parts = [
        select(read_npz(run.read(node.id, name)), kind=kind)
        for node in nodes
        for name in run.finished(node.id).outputs
        if name.endswith(".npz")
    ]
    joined = join_features(parts, f"run {run.id}")
    tasks = {t["id"]: t for t in run.table("tasks", "tasks.parquet").to_pylist()}
    topics = {t["id"]: t for t in run.table("topics", "topics.parquet").to_pylist()}
    if run.config.tasks.n_pool:
        pool = {t["id"]: t for t in run.table("tasks", "pool.parquet").to_pylist()}
        tasks, topics = pool, pool | topics
    ids = [str(i) for i in joined.ids]
    rows = [
        {
            "task_id": i,
            "task": tasks[i]["text"],
            "set": tasks[i]["set"],
            **{k: topics[i][k] for k in ("origin", "topic")},
        }
        for i in ids
    ]
    arrays = {"task_ids": joined.ids, **{f"layer_{n}": x for n, x in joined.layers.items()}}
    position = position_of(run.config, features)
    if position is not None:
        arrays["about"] = np.array(canonical_json({"features": features, "position": position}).decode())
    out.mkdir(parents=True, exist_ok=True)
    files[0].write_bytes(npz_bytes(arrays))
    files[1].write_bytes(json_bytes(rows))
    layers = ", ".join(map(str, joined.layers))
    return f"{len(ids)} rows, layers {layers}: {files[0]} and {files[1]}"


def copy_outputs(run: Run, nodes: Sequence[Node], out: Path) -> None:
    """Write the outputs of finished nodes below `out`: those of a single node there, of several in a folder each."""
    copies = {
        (out if len(nodes) == 1 else out / node.id) / name: run.read(node.id, name)
        for node in nodes
        for name in run.finished(node.id).outputs
    }
    other = next((path for path, data in copies.items() if path.exists() and path.read_bytes() != data), None)
    if other is not None:
        raise BadConfig(f"{other} exists and is another file; name a new folder.")
    for path, data in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
