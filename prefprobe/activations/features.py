"""Features as probes read them: one matrix per layer, rows in a known order. Needs no torch."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from prefprobe.errors import InputMissing
from prefprobe.job import Job
from prefprobe.store.formats import read_npz


@dataclass(frozen=True)
class Features:
    """`layers[L]` is (n, d) float32, row i belonging to `ids[i]`; ids are sorted and unique."""

    ids: np.ndarray
    layers: dict[int, np.ndarray]


def read_features(job: Job, nodes: Iterable[str]) -> Features:
    """Join the parts of all given nodes. Raises InputMissing if a row stands twice."""
    parts = [
        read_npz(job.read(node, name)) for node in nodes for name in job.inputs[node].outputs if name.endswith(".npz")
    ]
    parts = [p for p in parts if len(p["task_ids"])]
    ids = np.concatenate([p["task_ids"] for p in parts])
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if (ids[1:] == ids[:-1]).any():
        twice = ids[1:][ids[1:] == ids[:-1]][0]
        raise InputMissing(f"{job.node.id}: the row {twice} stands twice in its features; extract them again.")
    names = [n for n in parts[0] if n.startswith("layer_")]
    layers = {int(n.removeprefix("layer_")): np.concatenate([p[n] for p in parts])[order] for n in names}
    return Features(ids, dict(sorted(layers.items())))
