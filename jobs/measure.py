"""measure: choices between the tasks of one set under active learning, and their utilities."""

from dataclasses import asdict, replace
from typing import Any

from prefprobe.choices.agreement import SAMPLES, agreement, objection
from prefprobe.choices.log import ChoiceLog
from prefprobe.choices.loop import measure_utilities
from prefprobe.errors import BadConfig
from prefprobe.jobs._choice_log import open_log
from prefprobe.store.formats import json_bytes, parquet_bytes
from prefprobe.study.job import Job, Outputs
from prefprobe.tasks.sampling import task_set
from prefprobe.thurstonian.fit import to_table


def run(job: Job) -> Outputs:
    """Writes choices.parquet, answers.parquet (as they came), utilities.parquet and measure.json.

    Raises BadConfig where an endpoint is not the model of own weights, before anything else is asked.
    """
    texts = task_set(job.table("tasks", "tasks.parquet"), job.args["set"])  # raises on a leak, before any request
    settings = getattr(job.config, job.args["set"])
    log = open_log(job, texts, {})
    compared = _compared(job, log)
    measured = measure_utilities(log, settings, store=job.store, seed=job.config.seed)
    about = {"set": job.args["set"], "temperature": job.config.choices.temperature, "engine": log.engine.name}
    about |= {"asked": log.engine.about, **compared}
    return {
        "choices.parquet": parquet_bytes(measured.choices),
        "answers.parquet": parquet_bytes(log.raw_answers()),
        "utilities.parquet": parquet_bytes(to_table(measured.utilities)),
        "measure.json": json_bytes({**about, **measured.summary, "fit": asdict(measured.utilities.report)}),
    }


def _compared(job: Job, log: ChoiceLog) -> dict[str, Any]:
    """{"agreement": that of the endpoint with own weights}, empty where these were not asked."""
    api = job.config.choices.api
    if api is None or not api.compare:
        return {}
    whom = f"{job.node.id}: {api.model} at {api.base_url}"
    if log.engine.about["reasons"]:
        raise BadConfig(
            f"{whom} thinks before it answers, and own weights are read without a thought: they cannot be compared; have it "
            "answer at once by a field in choices.api.extra, or set choices.api.compare to 0."
        )
    own = job.table("own-choices", "choices.parquet")
    train = task_set(job.table("tasks", "tasks.parquet"), "train")
    # the same answers and the same purse, but no row of these choices in those of the study
    beside = replace(log, texts=train, judge=None, judgements=None, min_label_mass=0.0, asked={})
    orders = zip(own.column("task_a").to_pylist(), own.column("task_b").to_pylist(), strict=True)
    there = beside.measure(beside.questions((("", *order) for order in orders), SAMPLES), 0)
    found = agreement(own, there, min_agreement=api.min_agreement, max_difference=api.max_difference)
    if (sentence := objection(found, whom)) is not None:
        log.answers.close(json_bytes(asdict(found)))  # once that is mended it is asked anew
        raise BadConfig(sentence)
    job.progress.line(f"{job.node.id}: beside own weights, over {found.pairs} pairs, {found.found}")
    return {"agreement": asdict(found)}
