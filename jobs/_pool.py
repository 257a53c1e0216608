"""The tasks of a study: all that its sources hold, as the run pinned them, and those that were drawn."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from prefprobe.errors import BadConfig
from prefprobe.sources import file_digest
from prefprobe.study.job import Job
from prefprobe.tasks.candidates import Candidates, read_candidates
from prefprobe.tasks.drawing import POOL
from prefprobe.tasks.located import all_files


def source_pool(job: Job) -> Candidates:
    """All tasks of all sources. Raises what reading raises, and BadConfig for files that are not those the run began with."""
    sources = job.config.tasks.all_sources
    pins = [job.pins[f"tasks.{i}"] for i in range(len(sources))]
    return read_candidates(sources, all_files(sources, pins, job.objects))


def drawn_tasks(job: Job) -> pa.Table:
    """The tasks of all sets, of a job that reads `tasks`: id, text, origin, topic (null if none), set (train, eval or pool)."""
    if job.config.tasks.pooled:
        return job.table("tasks", "pool.parquet")
    tasks = job.table("tasks", "tasks.parquet")
    of = {row["id"]: row for row in source_pool(job).table.select(["id", "origin", "topic"]).to_pylist()}
    rows = [row | of[row["id"]] for row in tasks.to_pylist()]
    return pa.Table.from_pylist(rows, schema=POOL)


def read_rows(job: Job) -> list[tuple[str, str]]:
    """(id, text) of the tasks that a node makes features of, sorted by id: the measured ones, or those of the pool beside."""
    if job.args.get("pool"):
        pool = job.table("tasks", "pool.parquet")
        tasks = pool.filter(pc.equal(pool.column("set"), "pool"))
    else:
        tasks = job.table("tasks", "tasks.parquet")
    tasks = tasks.sort_by("id")
    return list(zip(tasks.column("id").to_pylist(), tasks.column("text").to_pylist(), strict=True))


def drawn_texts(job: Job) -> dict[str, str]:
    """The tasks of all sets, id → text, sorted by id."""
    tasks = job.table("tasks", "pool.parquet" if job.config.tasks.pooled else "tasks.parquet").sort_by("id")
    return dict(zip(tasks.column("id").to_pylist(), tasks.column("text").to_pylist(), strict=True))


def require_pinned(job: Job, path: Path, pin: str, named: str) -> None:
    """Raises BadConfig for a file that is not the one that the run began with."""
    if file_digest(path) != job.pins[pin]:
        raise BadConfig(f"{named} has changed since run {job.run_id} was started; start a new run.")
