"""What every job shares that asks an endpoint: how it finds out its dialect once, and where answers are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from prefprobe.choices.answers import CLOSED, AnswerLog
from prefprobe.choices.engine import Answer, Spend
from prefprobe.choices.ledger import Ledger, left_by
from prefprobe.errors import InputMissing
from prefprobe.progress import Progress
from prefprobe.store.formats import json_bytes, read_json
from prefprobe.store.keys import canonical_json, sha256
from prefprobe.store.steps import StepStore
from prefprobe.study.job import Job

if TYPE_CHECKING:
    from prefprobe.choices.api.dialect import Dialect


@dataclass(frozen=True)
class Trial:
    """The `Save` of an interview, in which a requested stop takes effect too."""

    ledger: Ledger
    progress: Progress

    def __call__(self, answers: Sequence[Answer]) -> None:
        self.ledger(answers)
        self.progress.check_stop()

    def owe(self, costs: Mapping[str, Spend]) -> None:
        self.ledger.owe(costs)


def kept_dialect(job: Job, name: str) -> "Dialect | None":
    """The dialect that this step began with, None if it begins now."""
    return _read_dialect(job, name)[0] if name in job.store.parts() else None


def interviewed(job: Job, name: str, dialect: "Dialect", trial: Ledger) -> tuple[Spend, Spend]:
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


def logs(job: Job, identity: Mapping[str, Any]) -> list[AnswerLog]:
    """All logs of these answers: those that were closed, since they came from another model than own weights, and one."""
    logs: list[AnswerLog] = []
    closed = True
    while closed:
        record = {"engine": dict(identity), "node": job.node.id} | ({"anew": len(logs)} if logs else {})
        store = StepStore(job.objects, "answers", sha256(canonical_json(record)), record)
        logs.append(AnswerLog(store, job.store.key))
        closed = CLOSED in store.parts()
    return logs
