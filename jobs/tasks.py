"""tasks: read the sources and freeze disjoint train and eval sets, and a pool beside them."""

from dataclasses import asdict

from prefprobe.errors import BadConfig
from prefprobe.jobs._pool import source_pool
from prefprobe.plan.frozen import freeze
from prefprobe.plan.model import ModelFacts, pinned_facts
from prefprobe.shift.prompted import prompted_tasks
from prefprobe.store.formats import json_bytes, parquet_bytes
from prefprobe.study.job import Job, Outputs
from prefprobe.tasks.sampling import SETS, task_set


def run(job: Job) -> Outputs:
    """Writes tasks.parquet (id, text, set of what is measured), tasks.json and sources.json (counts), and pool.parquet (all
    sets) where there are quotas, a pool or data sets.

    Raises BadConfig and InputMissing for what `freeze` and the reading of sources refuse, and TemporaryFailure if the hub does
    not give a data set or a model's tokenizer.
    """
    config = job.config
    pool = source_pool(job)
    models = {"model": pinned_facts(config.model, job.pins["model"])}
    if config.base:
        models["base"] = pinned_facts(config.base, job.pins["base"])
    for facts in models.values():
        _say_unchecked(job, facts)
    if config.tasks.max_tokens is not None and models["model"].lengths.counts([]) is None:
        raise BadConfig(
            f"tasks.max_tokens: the tokenizer or chat template of {models['model'].name} cannot be read here; set "
            "`max_characters` of the sources instead."
        )
    frozen = freeze(config, pool, models, prompted_tasks(config.shift, job.objects))
    if frozen.too_long:
        job.progress.line(f"{job.node.id}: {len(frozen.too_long)} tasks beyond the context are dropped")
    counts = {"pool": len(pool), "too_long": len(frozen.too_long)}
    counts |= {name: len(task_set(frozen.tasks, name)) for name in SETS}
    about = {
        "sources": [asdict(of) for of in pool.counts],
        "looked": frozen.drawn.looked,
        "dropped": frozen.drawn.dropped,
    }
    outputs = {
        "tasks.parquet": parquet_bytes(frozen.tasks),
        "tasks.json": json_bytes(counts),
        "sources.json": json_bytes(about),
    }
    return outputs | ({"pool.parquet": parquet_bytes(frozen.drawn.pool)} if config.tasks.pooled else {})


def _say_unchecked(job: Job, facts: ModelFacts) -> None:
    unknown = "no limit is known" if facts.context is None else "its tokenizer or chat template cannot be read here"
    if facts.context is None or facts.lengths.counts([]) is None:
        job.progress.line(f"{job.node.id}: prompts are not held against the context of {facts.name}: {unknown}")
