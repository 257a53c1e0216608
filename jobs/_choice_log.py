"""Opens the choice log of a job: the engine that the preset names, and where its answers are kept."""

from prefprobe.choices.answers import AnswerLog
from prefprobe.choices.engine import Spend
from prefprobe.choices.ledger import Ledger
from prefprobe.choices.log import ChoiceLog
from prefprobe.choices.pairs import few_pairs
from prefprobe.choices.stimulus import Stimulus
from prefprobe.jobs._endpoint import Trial, interviewed, kept_dialect, logs
from prefprobe.jobs._model import open_model
from prefprobe.settings.api import ApiSettings
from prefprobe.study.job import Job
from prefprobe.tasks.sampling import task_set


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
    trial, dialect = Ledger(job.store, job.store.key, "dialect"), kept_dialect(job, "dialect.json")
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
        trial=Trial(trial, job.progress),
    )
    interview, interrupted = interviewed(job, "dialect.json", engine.dialect, trial)
    estimated = "" if engine.dialect.usage else "; tokens are estimated: the endpoint reports none"
    job.progress.line(f"{job.node.id}: asks {settings.model} at {settings.base_url}; {engine.dialect.why}{estimated}")
    *closed, answers = logs(job, engine.identity)
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
        trial, dialect = Ledger(job.store, job.store.key, "judge"), kept_dialect(job, "judge.json")
        log.judge = Judge(settings, stimulus, choices.part, budget, dialect, Trial(trial, job.progress))
        interview, interrupted = interviewed(job, "judge.json", log.judge.dialect, trial)
        log.judgements = logs(job, log.judge.identity)[-1]
        log.interview += interview
        log.interrupted += interrupted
    budget.spent = log.spend
    again = log.repeated.requests
    if again:
        job.progress.line(f"{job.node.id}: answers that were paid and lost with a process that was killed: {again}")
    return log


def _samples(job: Job) -> list[tuple[str, str]]:
    """Pairs of the train set, so that all steps of a study find out the same."""
    from prefprobe.choices.api.engine import INTERVIEWED

    train = task_set(job.table("tasks", "tasks.parquet"), "train")
    return [(train[a], train[b]) for a, b in few_pairs(train, INTERVIEWED, job.config.seed)]
