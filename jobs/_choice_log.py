"""Opens the choice log of a job: the engine that the preset names, and where its answers are kept."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prefprobe.choices.answers import AnswerLog, Spend
from prefprobe.choices.log import ChoiceLog
from prefprobe.choices.stimulus import Stimulus
from prefprobe.settings import ApiSettings
from prefprobe.store.formats import json_bytes, read_json
from prefprobe.store.keys import canonical_json, sha256
from prefprobe.store.steps import StepStore
from prefprobe.study.job import Job

if TYPE_CHECKING:
    from prefprobe.choices.api.dialect import Dialect


def open_log(job: Job, texts: dict[str, str], prompts: dict[str, str]) -> ChoiceLog:
    """The choice log of `job` for tasks (id → text) under system prompts (id → prompt).

    Loads the model, or asks the endpoint how it wants to be asked; raises what these raise.
    """
    choices = job.config.choices
    stimulus = Stimulus(choices.label_a, choices.label_b)
    if choices.api is not None:
        return _api_log(job, choices.api, stimulus, texts, prompts)
    from prefprobe.activations.loading import load_model
    from prefprobe.choices.local import LocalEngine

    model = load_model(job.config.model, job.pins["model"], adapter_revision=job.pins.get("model.adapter"))
    engine = LocalEngine(model, stimulus, choices.temperature, job.node.params["model"], choices.part)
    # the last digits of an answer depend on the answers beside it: the log of a step is its own
    return ChoiceLog(engine, AnswerLog(job.store, job.store.key), texts, prompts, job.progress)


def _api_log(
    job: Job, settings: ApiSettings, stimulus: Stimulus, texts: dict[str, str], prompts: dict[str, str]
) -> ChoiceLog:
    """Its answers serve every step of this name in this store, whatever the settings that answers do not depend on."""
    from prefprobe.choices.api.endpoint import Budget
    from prefprobe.choices.api.engine import ApiEngine
    from prefprobe.choices.api.judge import Judge

    choices, budget = job.config.choices, Budget(settings, Spend())
    engine = ApiEngine(settings, stimulus, choices.temperature, choices.part, budget, _spoken(job, "dialect.json"))
    interview = _kept(job, "dialect.json", engine.dialect)
    job.progress.line(f"{job.node.id}: asks {settings.model} at {settings.base_url}; {engine.dialect.why}")
    log = ChoiceLog(engine, _answers(job, engine.identity), texts, prompts, job.progress)
    if settings.judge is not None and not engine.exact:  # a probability is no answer to be judged
        log.judge = Judge(settings, stimulus, choices.part, budget, _spoken(job, "judge.json"))
        interview += _kept(job, "judge.json", log.judge.dialect)
        log.verdicts = _answers(job, log.judge.identity)
    log.interview = interview
    budget.spent = log.spend
    return log


def _spoken(job: Job, name: str) -> "Dialect | None":
    """The dialect that this step began with."""
    from prefprobe.choices.api.dialect import Dialect

    return Dialect(**read_json(job.store.read_part(name))) if name in job.store.parts() else None


def _kept(job: Job, name: str, dialect: "Dialect") -> Spend:
    """Keep the dialect for whoever goes on with this step. Returns what it took to find it out."""
    job.store.write_part(name, json_bytes(asdict(dialect)))
    return Spend(0, dialect.prompt_tokens, dialect.completion_tokens, dialect.cost)


def _answers(job: Job, identity: Mapping[str, Any]) -> AnswerLog:
    record = {"engine": dict(identity), "node": job.node.id}
    return AnswerLog(StepStore(job.objects, "answers", sha256(canonical_json(record)), record), job.store.key)
