"""measure: choices between the tasks of one set under active learning, and their utilities."""

from dataclasses import asdict

from prefprobe.choices.loop import measure_utilities
from prefprobe.jobs._choice_log import open_log
from prefprobe.store.formats import json_bytes, parquet_bytes
from prefprobe.study.job import Job, Outputs
from prefprobe.tasks.sampling import task_set
from prefprobe.thurstonian.fit import to_table


def run(job: Job) -> Outputs:
    """Writes choices.parquet, answers.parquet (as they came), utilities.parquet and measure.json."""
    texts = task_set(job.table("tasks", "tasks.parquet"), job.args["set"])  # raises on a leak, before any request
    settings = getattr(job.config, job.args["set"])
    log = open_log(job, texts, {})
    measured = measure_utilities(log, settings, store=job.store, seed=job.config.seed)
    about = {"set": job.args["set"], "temperature": job.config.choices.temperature, "engine": log.engine.name}
    about |= {"asked": log.engine.about}
    return {
        "choices.parquet": parquet_bytes(measured.choices),
        "answers.parquet": parquet_bytes(log.raw_answers()),
        "utilities.parquet": parquet_bytes(to_table(measured.utilities)),
        "measure.json": json_bytes({**about, **measured.summary, "fit": asdict(measured.utilities.report)}),
    }
