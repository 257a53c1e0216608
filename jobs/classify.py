"""classify: a judge says the topic of every task, or of a sample for the second judge."""

import hashlib

from prefprobe.choices.answers import AnswerLog
from prefprobe.choices.engine import Spend
from prefprobe.choices.ledger import Ledger
from prefprobe.jobs._endpoint import Trial, interviewed, kept_dialect, logs
from prefprobe.jobs._model import load
from prefprobe.jobs._pool import drawn_texts, require_pinned
from prefprobe.settings.topics import TopicJudge
from prefprobe.store.formats import json_bytes, parquet_bytes
from prefprobe.study.graph import judge_model
from prefprobe.study.job import Job, Outputs
from prefprobe.tasks.pool import read_tasks, source_path
from prefprobe.topics.judged import Judge, judge_tasks
from prefprobe.topics.taxonomy import Taxonomy, taxonomy_path


def run(job: Job) -> Outputs:
    """Writes labels.parquet (one row a task), answers.parquet (as they came) and classify.json (who judged, counts, costs).

    Raises BadConfig for a judge that names no label of the taxonomy too often, and for a budget that does not cover all tasks.
    """
    settings, which = job.config.topics, job.args["judge"]
    taxonomy = _taxonomy(job)
    judge, log, more = _open(job, settings.judges[which], taxonomy)
    texts = drawn_texts(job)
    if which == "second":
        texts = dict(sorted(texts.items(), key=lambda item: _rank(item[0], job.config.seed))[: settings.sample])
    judged = judge_tasks(judge, texts, log=log, max_unread=settings.max_unread, progress=job.progress)
    summary = {"judge": judge.name, "by": settings.judges[which].by, "asked": judge.about, **judged.summary(log, more)}
    summary["taxonomy"] = taxonomy.model_dump(mode="json")
    return {
        "labels.parquet": parquet_bytes(judged.labels),
        "answers.parquet": parquet_bytes(judged.raw_answers()),
        "classify.json": json_bytes(summary),
    }


def _rank(id_: str, seed: int) -> bytes:
    """By which a sample is drawn: a task keeps its rank when others come."""
    return hashlib.sha256(f"{seed} {id_}".encode()).digest()


def _taxonomy(job: Job) -> Taxonomy:
    named = job.config.topics.taxonomy
    path = taxonomy_path(named, job.objects)
    require_pinned(job, path, "taxonomy", named)
    return Taxonomy.parse(path.read_bytes(), named)


def _open(job: Job, settings: TopicJudge, taxonomy: Taxonomy) -> tuple[Judge, AnswerLog, Spend]:
    """The judge, where its answers are kept, and what finding out how to ask it has cost."""
    if settings.by == "api":
        return _over_api(job, settings, taxonomy)
    judge: Judge
    if settings.by == "encoder":
        judge = _nearest(job, settings, taxonomy)
    else:
        from prefprobe.topics.local import LocalJudge

        model, pin = judge_model(job.config, job.args["judge"])
        loaded = load(model, job.pins[pin], job.pins.get(f"{pin}.adapter"))
        judge = LocalJudge(loaded, taxonomy, name=model.name or model.source, revision=job.node.params["model"])
    # the last digits of a score depend on the texts beside it: the log of a step is its own
    return judge, AnswerLog(job.store, job.store.key), Spend()


def _over_api(job: Job, settings: TopicJudge, taxonomy: Taxonomy) -> tuple[Judge, AnswerLog, Spend]:
    """Its answers serve every step of this name in this store, whatever the settings that answers do not depend on."""
    from prefprobe.topics.api import ApiJudge

    assert settings.api is not None
    whom = f"{settings.api.model} at {settings.api.base_url}"
    trial, dialect = Ledger(job.store, job.store.key, "judge"), kept_dialect(job, "judge.json")
    if dialect is None:
        job.progress.line(f"{job.node.id}: finds out how {whom} answers")
    judge = ApiJudge(settings.api, taxonomy, dialect=dialect, trial=Trial(trial, job.progress))
    interview, interrupted = interviewed(job, "judge.json", judge.dialect, trial)
    log = logs(job, judge.identity)[-1]
    judge.budget.spent = log.spend + interview + interrupted
    again = log.repeated + interrupted
    if again.requests:
        job.progress.line(
            f"{job.node.id}: answers that were paid and lost with a process that was killed: {again.requests}"
        )
    return judge, log, interview + interrupted


def _nearest(job: Job, settings: TopicJudge, taxonomy: Taxonomy) -> Judge:
    from prefprobe.features.encoder import embed
    from prefprobe.topics.nearest import NearestJudge

    assert settings.encoder is not None
    source, pin = settings.encoder, f"topics.{job.args['judge']}"
    revision = job.pins[f"{pin}.encoder"]
    examples: list[tuple[str, str]] = []
    if settings.examples is not None:
        path = source_path(settings.examples, job.objects)
        require_pinned(job, path, f"{pin}.examples", settings.examples)
        examples = [(task.text, task.topic) for task in read_tasks([path]) if task.topic is not None]
    return NearestJudge(
        lambda texts: embed(source, texts, revision=revision),
        taxonomy,
        name=source,
        revision=revision,
        examples=examples,
    )
