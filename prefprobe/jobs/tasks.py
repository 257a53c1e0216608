"""tasks: read the sources and freeze disjoint train and eval sets."""

from prefprobe.job import Job, Outputs
from prefprobe.store.formats import json_bytes, parquet_bytes
from prefprobe.tasks.sampling import sample_sets, task_set
from prefprobe.tasks.sources import read_tasks


def run(job: Job) -> Outputs:
    """Writes tasks.parquet (id, text, origin, topic, set) and tasks.json (counts)."""
    settings = job.config.tasks
    pool = read_tasks(settings.sources)
    tasks = sample_sets(pool, settings.n_train, settings.n_eval, job.config.seed)
    counts = {name: len(task_set(tasks, name)) for name in ("train", "eval")}
    return {"tasks.parquet": parquet_bytes(tasks), "tasks.json": json_bytes({"pool": len(pool), **counts})}
