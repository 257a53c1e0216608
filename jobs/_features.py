"""What `probe`, `hoo-layers`, `hoo` and `content` share: features, utilities and topics out of a job's inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefprobe.features.matrix import Features, join_features
from prefprobe.features.stored import select
from prefprobe.store.formats import read_npz
from prefprobe.study.graph import extracted_as
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


def _nodes(job: Job, features: str) -> list[str]:
    """The nodes that wrote these features."""
    source, _ = extracted_as(job.config, features)
    return [n for n in job.node.reads if n.startswith(f"extract.{source}.") or n == f"embed.{source}"]


def about_features(job: Job, features: str) -> dict[str, Any]:
    """What features.json says of these features, such as `layers`; not how their prompts were read."""
    about = job.json(_nodes(job, features)[0], "features.json")
    of_prompts = ("prompt", "alone", "positions", "dtype")
    return {key: value for key, value in about.items() if key not in of_prompts}


def read_features(job: Job, features: str, layers: Sequence[int]) -> Features:
    """The features of that name of these layers; no other is kept in memory."""
    nodes, (_, kind) = _nodes(job, features), extracted_as(job.config, features)
    files = ((node, name) for node in nodes for name in job.inputs[node].outputs if name.endswith(".npz"))
    parts = (read_npz(job.read(node, name)) for node, name in files)
    return join_features((select(part, layers, kind) for part in parts), job.node.id)
