"""tasks: read the sources and freeze disjoint train and eval sets."""

from prefprobe.errors import BadConfig
from prefprobe.sources import file_digest
from prefprobe.store.formats import json_bytes, parquet_bytes
from prefprobe.study.job import Job, Outputs
from prefprobe.tasks.pool import read_tasks, source_path
from prefprobe.tasks.sampling import sample_sets, task_set


def run(job: Job) -> Outputs:
    """Writes tasks.parquet (id, text, origin, topic, set) and tasks.json (counts)."""
    settings = job.config.tasks
    paths = [source_path(source, job.objects) for source in settings.sources]
    for i, path in enumerate(paths):
        if file_digest(path) != job.pins[f"tasks.{i}"]:
            raise BadConfig(f"{settings.sources[i]} has changed since run {job.run_id} was started; start a new run.")
    pool = read_tasks(paths)
    tasks = sample_sets(pool, settings.n_train, settings.n_eval, job.config.seed)
    counts = {name: len(task_set(tasks, name)) for name in ("train", "eval")}
    return {"tasks.parquet": parquet_bytes(tasks), "tasks.json": json_bytes({"pool": len(pool), **counts})}
