"""topics: give every task its topic. Nothing is measured before it is known that the topics will do."""

from collections import Counter

import pyarrow as pa

from prefprobe.jobs._pool import read_pool
from prefprobe.plan.frozen import freeze_topics
from prefprobe.store.formats import json_bytes, parquet_bytes
from prefprobe.study.job import Job, Outputs
from prefprobe.tasks.sampling import task_set


def run(job: Job) -> Outputs:
    """Writes topics.parquet (id, topic, origin) and topics.json (who judged, how many of each, what was merged).

    Labels in the task files are the result; raises BadConfig for what `freeze_topics` refuses.
    """
    tasks = job.table("tasks", "tasks.parquet")
    pool = read_pool(job)
    topics, small = freeze_topics(job.config, pool, task_set(tasks, "train"), task_set(tasks, "eval"))
    origins = {task.id: task.origin for task in pool}
    ids = tasks.column("id").to_pylist()
    table = pa.table({"id": ids, "topic": [topics[i] for i in ids], "origin": [origins[i] for i in ids]})
    summary = {"taxonomy": "given", "judge": "labels in the task files", "merged": small}
    summary |= {"counts": dict(sorted(Counter(topics.values()).items()))}
    return {"topics.parquet": parquet_bytes(table), "topics.json": json_bytes(summary)}
