"""What `probe`, `hoo-layers`, `hoo` and `content` share: features, utilities and topics out of a job's inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefprobe.features.matrix import Features, join_features
from prefprobe.store.formats import read_npz
from prefprobe.study.job import Job


@dataclass(frozen=True)
class Measured:
    """The utilities of both runs, and topics, by task id."""

    train: dict[str, float]
    eval: dict[str, float]
    topics: dict[str, str]


def measured(job: Job) -> Measured:
    """Read utilities and topics."""
    topics = job.table("topics", "topics.parquet")
    return Measured(
        utilities(job, "measure.train"),
        utilities(job, "measure.eval"),
        dict(zip(topics.column("id").to_pylist(), topics.column("topic").to_pylist(), strict=True)),
    )


def utilities(job: Job, node: str) -> dict[str, float]:
    """Utility by task id, of measure.train or measure.eval."""
    table = job.table(node, "utilities.parquet")
    return dict(zip(table.column("task_id").to_pylist(), table.column("mu").to_pylist(), strict=True))


def feature_nodes(job: Job, features: str) -> list[str]:
    """The nodes that wrote these features."""
    return [n for n in job.node.reads if n.startswith(f"extract.{features}.") or n == f"embed.{features}"]


def about_features(job: Job, nodes: Sequence[str]) -> dict[str, Any]:
    """What features.json says of them, such as `layers`."""
    about = job.json(nodes[0], "features.json")
    return {key: value for key, value in about.items() if key not in ("prompt", "alone")}  # of prompts, not of features


def read_features(job: Job, nodes: Sequence[str], layers: Sequence[int]) -> Features:
    """The features of these layers that `nodes` wrote; no other is kept in memory."""
    names = {"task_ids", *(f"layer_{layer}" for layer in layers)}
    files = ((node, name) for node in nodes for name in job.inputs[node].outputs if name.endswith(".npz"))
    parts = (read_npz(job.read(node, name)) for node, name in files)
    return join_features(({name: part[name] for name in part if name in names} for part in parts), job.node.id)
