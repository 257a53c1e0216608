"""measure: choices between the tasks of one set under active learning, and their utilities."""

from dataclasses import asdict

from prefprobe.choices.log import ChoiceLog
from prefprobe.choices.loop import measure_utilities
from prefprobe.choices.stimulus import Stimulus
from prefprobe.job import Job, Outputs
from prefprobe.store.formats import json_bytes, parquet_bytes
from prefprobe.tasks.sampling import task_set
from prefprobe.utilities.thurstonian import to_table


def run(job: Job) -> Outputs:
    """Writes choices.parquet, utilities.parquet and measure.json."""
    texts = task_set(job.table("tasks", "tasks.parquet"), job.args["set"])  # raises on a leak, before any request
    log = choice_log(job, texts, {})
    measured = measure_utilities(list(texts), getattr(job.config, job.args["set"]), log, job.config.seed)
    about = {"set": job.args["set"], "engine": log.engine.name, "temperature": job.config.choices.temperature}
    return {
        "choices.parquet": parquet_bytes(measured.choices),
        "utilities.parquet": parquet_bytes(to_table(measured.utilities)),
        "measure.json": json_bytes({**about, **measured.summary, "fit": asdict(measured.utilities.report)}),
    }


def choice_log(job: Job, texts: dict[str, str], prompts: dict[str, str]) -> ChoiceLog:
    """The choice log of this job, with the engine that the preset names."""
    from prefprobe.activations.loading import load_model
    from prefprobe.choices.local import LocalEngine

    choices = job.config.choices
    model = load_model(job.config.model, job.pins["model"])
    stimulus = Stimulus(choices.label_a, choices.label_b)
    engine = LocalEngine(model, stimulus, choices.temperature, job.node.params["model"])
    return ChoiceLog(job.store, engine, texts, prompts, choices.part, job.progress)
