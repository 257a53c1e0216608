"""Reads the tasks of a study's sources, as the run pinned them."""

from pathlib import Path

from prefprobe.errors import BadConfig
from prefprobe.sources import file_digest
from prefprobe.study.job import Job
from prefprobe.tasks.pool import Task, local_sources, read_tasks


def read_pool(job: Job) -> list[Task]:
    """All tasks of all sources, sorted by id. Raises BadConfig for a file that is not the one that the run began with."""
    sources = local_sources(job.config.tasks, job.objects)
    for i, (source, named) in enumerate(zip(sources, job.config.tasks.files, strict=True)):
        if file_digest(Path(source.path)) != job.pins[f"tasks.{i}"]:
            raise BadConfig(f"{named.path} has changed since run {job.run_id} was started; start a new run.")
    return read_tasks(sources)
