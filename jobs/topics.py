"""topics: give every task its topic. Nothing is measured before it is known that the topics will do."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from prefprobe.jobs._pool import drawn_tasks
from prefprobe.plan.frozen import freeze_topics
from prefprobe.store.formats import json_bytes, parquet_bytes
from prefprobe.study.job import Job, Outputs
from prefprobe.tasks.sampling import task_set
from prefprobe.tasks.topics import OTHER
from prefprobe.topics.agreement import agreement_of

_KEPT = ("by", "asked", "n", "how", "refusals", "fallbacks", "own", "spend", "repeated")
"""Of classify.json, what judging.json says too."""


def run(job: Job) -> Outputs:
    """Writes topics.parquet (id, topic, origin) and topics.json (who judged, how many of each, what was merged).

    Topics are those of the task files, or a judge's, OTHER where it named none; then judging.json says what became of all
    answers, those on the pool too, and how far a second judge agrees. Raises BadConfig for what `freeze_topics` refuses.
    """
    config, tasks = job.config, job.table("tasks", "tasks.parquet")
    drawn = drawn_tasks(job)
    ids_, given = drawn.column("id").to_pylist(), drawn.column("topic").to_pylist()
    told: dict[str, str | None] = dict(zip(ids_, given, strict=True))
    origins = dict(zip(ids_, drawn.column("origin").to_pylist(), strict=True))
    judged = _labels(job, "first") if config.topics.judges else None
    said = told if judged is None else {id_: label or OTHER for id_, label in judged.items()}
    topics, small = freeze_topics(config, said, task_set(tasks, "train"), task_set(tasks, "eval"))
    ids = tasks.column("id").to_pylist()
    table = pa.table({"id": ids, "topic": [topics[i] for i in ids], "origin": [origins[i] for i in ids]})
    summary: dict[str, Any] = {"taxonomy": "given", "judge": "labels in the task files", "merged": small}
    summary |= {"counts": dict(sorted(Counter(topics.values()).items()))}
    if judged is None:
        return {"topics.parquet": parquet_bytes(table), "topics.json": json_bytes(summary)}
    first = job.json("classify.first", "classify.json")
    summary |= {"taxonomy": "{name}, version {version}".format(**first["taxonomy"]), "judge": first["judge"]}
    judging = {"judged": {name: first[name] for name in _KEPT}, **_agreement(job, judged, told)}
    return {
        "topics.parquet": parquet_bytes(table),
        "topics.json": json_bytes(summary),
        "judging.json": json_bytes(judging),
    }


def _labels(job: Job, which: str) -> dict[str, str | None]:
    """{task id: label, None where none was read} by one of the judges."""
    labels = job.table(f"classify.{which}", "labels.parquet")
    return dict(zip(labels.column("id").to_pylist(), labels.column("primary").to_pylist(), strict=True))


def _agreement(job: Job, judged: Mapping[str, str | None], told: Mapping[str, str | None]) -> dict[str, Any]:
    """How far a second judge, or the topics that the task files state, agree with the first; nothing if there is none."""
    second = job.config.topics.second
    if second is None:
        return {}
    if second.by == "given":
        other, whom, spend = told, "labels in the task files", None
    else:
        said = job.json("classify.second", "classify.json")
        other, whom, spend = _labels(job, "second"), said["judge"], said["spend"]
    return {"agreement": {"judge": whom, "spend": spend, **agreement_of(judged, other)}}
