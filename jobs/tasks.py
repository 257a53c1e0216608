"""tasks: read the sources and freeze disjoint train and eval sets."""

from prefprobe.jobs._pool import read_pool
from prefprobe.plan.frozen import freeze
from prefprobe.plan.model import ModelFacts, pinned_facts
from prefprobe.shift.prompted import prompted_tasks
from prefprobe.store.formats import json_bytes, parquet_bytes
from prefprobe.study.job import Job, Outputs
from prefprobe.tasks.sampling import SETS, task_set


def run(job: Job) -> Outputs:
    """Writes tasks.parquet (id, text, set) and tasks.json (counts).

    Raises BadConfig for what `freeze` refuses, and TemporaryFailure if the hub does not give a model's tokenizer.
    """
    config, pool = job.config, read_pool(job)
    models = {"model": pinned_facts(config.model, job.pins["model"])}
    if config.base:
        models["base"] = pinned_facts(config.base, job.pins["base"])
    for facts in models.values():
        _say_unchecked(job, facts)
    frozen = freeze(config, pool, models, prompted_tasks(config.shift, job.objects))
    if frozen.too_long:
        job.progress.line(f"{job.node.id}: {len(frozen.too_long)} tasks beyond the context are dropped")
    counts = {"pool": len(pool), "too_long": len(frozen.too_long)}
    counts |= {name: len(task_set(frozen.tasks, name)) for name in SETS}
    return {"tasks.parquet": parquet_bytes(frozen.tasks), "tasks.json": json_bytes(counts)}


def _say_unchecked(job: Job, facts: ModelFacts) -> None:
    unknown = "no limit is known" if facts.context is None else "its tokenizer or chat template cannot be read here"
    if facts.context is None or facts.lengths.counts([]) is None:
        job.progress.line(f"{job.node.id}: prompts are not held against the context of {facts.name}: {unknown}")
