"""Opens the choice log of a job: the engine that the preset names, and where its answers are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from prefprobe.choices.answers import CLOSED, AnswerLog
from prefprobe.choices.engine import Answer, Spend
from prefprobe.choices.ledger import Ledger, left_by
from prefprobe.choices.log import ChoiceLog
from prefprobe.choices.pairs import few_pairs
from prefprobe.choices.stimulus import Stimulus
from prefprobe.errors import InputMissing
from prefprobe.jobs._model import open_model
from prefprobe.progress import Progress
from prefprobe.settings.api import ApiSettings
from prefprobe.store.formats import json_bytes, read_json
from prefprobe.store.keys import canonical_json, sha256
from prefprobe.store.steps import StepStore
from prefprobe.study.job import Job
from prefprobe.tasks.sampling import task_set

if TYPE_CHECKING:
    from prefprobe.choices.api.dialect import Dialect


def open_log(job: Job, texts: dict[str, str], prompts: dict[str, str]) -> ChoiceLog:
    """The choice log of `job` for tasks (id → text) under system prompts (id → prompt).

    Loads the model, or asks the endpoint how it wants to be asked; raises what these raise.
    """
    choices = job.config.choices
    if choices.api is not None:
        return _api_log(job, choices.api, Stimulus(choices.label_a, choices.label_b), texts, prompts)
    return own_log(job, texts, prompts, min_label_mass=choices.min_label_mass)


def own_log(job: Job, texts: dict[str, str], prompts: dict[str, str], *, min_label_mass: float) -> ChoiceLog:
    """As `open_log`, of own weights whatever the preset's engine."""
    from prefprobe.choices.local import LocalEngine

    choices = job.config.choices
    stimulus = Stimulus(choices.label_a, choices.label_b)
    engine = LocalEngine(
        open_model(job), stimulus, choices.temperature, revision=job.node.params["model"], part=choices.part
    )
    # the last digits of an answer depend on the answers beside it: the log of a step is its own
    answers = AnswerLog(job.store, job.store.key)
    return ChoiceLog(engine, texts, prompts, answers, job.progress, min_label_mass=min_label_mass)


def _api_log(
    job: Job, settings: ApiSettings, stimulus: Stimulus, texts: dict[str, str], prompts: dict[str, str]
) -> ChoiceLog:
    """Its answers serve every step of this name in this store, whatever the settings that answers do not depend on."""
    from prefprobe.choices.api.endpoint import Budget
    from prefprobe.choices.api.engine import ApiEngine
    from prefprobe.choices.api.judge import Judge

    choices, budget = job.config.choices, Budget(settings, Spend())
    trial, dialect = Ledger(job.store, job.store.key, "dialect"), _dialect(job, "dialect.json")
    if dialect is None:
        job.progress.line(f"{job.node.id}: finds out how {settings.model} at {settings.base_url} answers")
    engine = ApiEngine(
        settings,
        stimulus,
        choices.temperature,
        part=choices.part,
        budget=budget,
        dialect=dialect,
        samples=_samples(job),
        trial=_Trial(trial, job.progress),
    )
    interview, interrupted = _interviewed(job, "dialect.json", engine.dialect, trial)
    estimated = "" if engine.dialect.usage else "; tokens are estimated: the endpoint reports none"
    job.progress.line(f"{job.node.id}: asks {settings.model} at {settings.base_url}; {engine.dialect.why}{estimated}")
    *closed, answers = _logs(job, engine.identity)
    log = ChoiceLog(
        engine,
        texts,
        prompts,
        answers,
        job.progress,
        interview=sum((each.spend for each in closed), interview),
        interrupted=interrupted,
        min_label_mass=choices.min_label_mass,
    )
    if settings.judge is not None and not engine.exact:  # a probability is no answer to be judged
        trial, dialect = Ledger(job.store, job.store.key, "judge"), _dialect(job, "judge.json")
        log.judge = Judge(settings, stimulus, choices.part, budget, dialect, _Trial(trial, job.progress))
        interview, interrupted = _interviewed(job, "judge.json", log.judge.dialect, trial)
        log.judgements = _logs(job, log.judge.identity)[-1]
        log.interview += interview
        log.interrupted += interrupted
    budget.spent = log.spend
    again = log.repeated.requests
    if again:
        job.progress.line(f"{job.node.id}: answers that were paid and lost with a process that was killed: {again}")
    return log


@dataclass(frozen=True)
class _Trial:
    """The `Save` of an interview, in which a requested stop takes effect too."""

    ledger: Ledger
    progress: Progress

    def __call__(self, answers: Sequence[Answer]) -> None:
        self.ledger(answers)
        self.progress.check_stop()

    def owe(self, costs: Mapping[str, Spend]) -> None:
        self.ledger.owe(costs)


def _samples(job: Job) -> list[tuple[str, str]]:
    """Pairs of the train set, so that all steps of a study find out the same."""
    from prefprobe.choices.api.engine import INTERVIEWED

    train = task_set(job.table("tasks", "tasks.parquet"), "train")
    return [(train[a], train[b]) for a, b in few_pairs(train, INTERVIEWED, job.config.seed)]


def _dialect(job: Job, name: str) -> "Dialect | None":
    """The dialect that this step began with, None if it begins now."""
    return _read_dialect(job, name)[0] if name in job.store.parts() else None


def _interviewed(job: Job, name: str, dialect: "Dialect", trial: Ledger) -> tuple[Spend, Spend]:
    """Keep a dialect if none is kept yet. Returns what the one cost that is kept, and what other processes have spent on
    finding one.
    """
    if name not in job.store.parts():
        job.store.write_part(name, json_bytes(asdict(dialect) | {"process": trial.process}))
    kept, process = _read_dialect(job, name)
    left = left_by(job.store, job.store.key, trial.name)
    return kept.spend, sum((each.cost() for by, each in left.items() if by != process), Spend())


def _read_dialect(job: Job, name: str) -> "tuple[Dialect, str]":
    """What is kept, and which process found it out. Raises InputMissing for one that a later version has kept."""
    from prefprobe.choices.api.dialect import Dialect

    saved = read_json(job.store.read_part(name))
    process = saved.pop("process", "")
    unknown = sorted(saved.keys() - {field.name for field in fields(Dialect)})
    if unknown:
        raise InputMissing(
            f"{name} of step {job.store.step} says {', '.join(unknown)} of the endpoint, which this version does not know how to "
            "ask: go on with the version that began the step."
        )
    return Dialect(**saved), process


def _logs(job: Job, identity: Mapping[str, Any]) -> list[AnswerLog]:
    """All logs of these answers: those that were closed, since they came from another model than own weights, and one."""
    logs: list[AnswerLog] = []
    closed = True
    while closed:
        record = {"engine": dict(identity), "node": job.node.id} | ({"anew": len(logs)} if logs else {})
        store = StepStore(job.objects, "answers", sha256(canonical_json(record)), record)
        logs.append(AnswerLog(store, job.store.key))
        closed = CLOSED in store.parts()
    return logs
