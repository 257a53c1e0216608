"""topics: give every task its topic."""

from prefprobe.errors import BadConfig
from prefprobe.store.formats import json_bytes, parquet_bytes
from prefprobe.study.job import Job, Outputs


def run(job: Job) -> Outputs:
    """Writes topics.parquet (id, topic) and topics.json (who judged, how many of each).

    Labels in the task files are the result; a task without one stops the step.
    """
    tasks = job.table("tasks", "tasks.parquet")
    ids, labels = tasks.column("id").to_pylist(), tasks.column("topic").to_pylist()
    without = [i for i, t in zip(ids, labels, strict=True) if t is None]
    if without:
        raise BadConfig(
            f"task {without[0]}: no `topic` ({len(without)} tasks have none); add a `topic` column to the task file, "
            "which demeaning and cross-topic folds need."
        )
    counts = {topic: labels.count(topic) for topic in sorted(set(labels))}
    summary = {"taxonomy": "given", "judge": "labels in the task files", "counts": counts}
    return {"topics.parquet": parquet_bytes(tasks.select(["id", "topic"])), "topics.json": json_bytes(summary)}
