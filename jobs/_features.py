"""What `probe` and `hoo` share: features, utilities and topics out of a job's inputs."""

from dataclasses import dataclass

from prefprobe.features.matrix import Features, join_features
from prefprobe.store.formats import read_npz
from prefprobe.study.job import Job


@dataclass(frozen=True)
class ProbeInputs:
    """Features, the utilities of both runs, and topics, by task id."""

    features: Features
    about: dict[str, object]
    train: dict[str, float]
    eval: dict[str, float]
    topics: dict[str, str]


def probe_inputs(job: Job) -> ProbeInputs:
    """Read what `probe` and `hoo` share."""
    nodes = [n for n in job.node.reads if n.startswith(("extract.", "embed."))]
    parts = (
        read_npz(job.read(node, name)) for node in nodes for name in job.inputs[node].outputs if name.endswith(".npz")
    )
    topics = job.table("topics", "topics.parquet")
    about = job.json(nodes[0], "features.json")
    return ProbeInputs(
        join_features(parts, job.node.id),
        {key: value for key, value in about.items() if key not in ("prompt", "alone")},  # of prompts, not of features
        _utilities(job, "measure.train"),
        _utilities(job, "measure.eval"),
        dict(zip(topics.column("id").to_pylist(), topics.column("topic").to_pylist(), strict=True)),
    )


def _utilities(job: Job, node: str) -> dict[str, float]:
    table = job.table(node, "utilities.parquet")
    return dict(zip(table.column("task_id").to_pylist(), table.column("mu").to_pylist(), strict=True))
