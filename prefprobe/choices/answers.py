"""The answers of one engine: kept as they came, each under the identity of its question, and never asked for again.

Answers are appended in parts that are numbered without gaps. Whoever writes a number first has it, and others read what
they find there before they write the next one: so all readers see the same answers in the same order, and of two answers
to one question the first one counts. Appending costs what is appended, whatever is there already.

What a process that is killed had on its way, or not yet saved, is asked again; its ledger says so, and both are paid.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Protocol, TypeVar

import pyarrow as pa

from prefprobe.choices.engine import Answer, Save, Spend
from prefprobe.choices.ledger import Ledger, left_by
from prefprobe.progress import Progress
from prefprobe.store.formats import parquet_bytes, read_parquet
from prefprobe.store.keys import sha256
from prefprobe.store.steps import StepStore

_TYPES = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    tuple[str, ...]: pa.list_(pa.string()),
}
SCHEMA = pa.schema([*((f.name, _TYPES[f.type]) for f in fields(Answer)), ("payer", pa.string())])  # type: ignore[index]
_LEDGER = "answers"
CLOSED = "closed.json"
"""The part that says that a log is closed."""


class Identified(Protocol):
    """What can be asked, be it an engine's question or a judge's."""

    @property
    def id(self) -> str:
        """A digest of all that its answer depends on."""
        ...


Asked = TypeVar("Asked", bound=Identified)


class AnswerLog:
    """All answers of one engine or one judge in `store`; without one they are gone with the process.

    `payer` is who asks now, so that what it has paid can be told apart.
    """

    def __init__(self, store: StepStore | None = None, payer: str = "") -> None:
        self._store, self._payer = store, payer
        self._ledger = Ledger(store, payer, _LEDGER)
        self._known: dict[str, Answer] = {}
        self._paid: dict[str, str] = {}  # which process has saved it
        self._next = 0
        if store is not None:
            for data in store.read_parts("answers-"):
                self._adopt(data)

    @property
    def spend(self) -> Spend:
        """What `payer` has paid so far, in this process and before it, `repeated` included."""
        return Spend.of(self._known[id_] for id_ in sorted(self._paid)) + self.repeated

    @property
    def repeated(self) -> Spend:
        """What `payer` has paid for answers that are not here: those that processes which were killed had asked for, and
        those that another process had saved by the time they came.
        """
        left = {} if self._store is None else left_by(self._store, self._payer, _LEDGER)
        return sum((each.cost(partial(self._lost, process)) for process, each in left.items()), Spend())

    def _lost(self, process: str, id_: str, thought: Spend) -> Spend:
        """What a question counts that a process had asked: nothing if the answer here is its own, which is paid for."""
        if self._paid.get(id_) == process:
            return Spend()
        return Spend.of([self._known[id_]]).per(thought.requests) if id_ in self._known else thought

    def ask(
        self, answer: Callable[[Sequence[Asked], Save], None], questions: Iterable[Asked], progress: Progress, unit: str
    ) -> Mapping[str, Answer]:
        """Answers by the id of their question; those that are not known yet are had from `answer`, see `Engine.answer`.

        Questions of one id are one question, asked once. One is missing from the result only where the budget did not
        cover it. `unit` names what `progress` counts.
        """
        distinct = {q.id: q for q in questions}
        missing = [q for id_, q in distinct.items() if id_ not in self._known]
        progress.start(len(distinct), unit, len(distinct) - len(missing))

        if missing:
            try:
                answer(missing, _Saving(self._append, self._ledger, progress.advance))
            finally:
                self._ledger.write()
        return self.known(distinct)

    def known(self, ids: Iterable[str]) -> dict[str, Answer]:
        """The answers that are here already, by the id of their question."""
        return {id_: self._known[id_] for id_ in ids if id_ in self._known}

    def close(self, why: bytes) -> None:
        """Says of all answers, with a reason as JSON, that they must not be used: whoever asks begins another log."""
        if self._store is not None:
            self._store.write_part(CLOSED, why)

    def _append(self, answers: Sequence[Answer]) -> None:
        new = list({a.id: a for a in reversed(answers) if a.id not in self._known}.values())[::-1]
        while new:
            table = answers_table(new, self._payer)
            signed = table.append_column("process", pa.array([self._ledger.signature] * len(new), pa.string()))
            data = parquet_bytes(signed)
            name = f"answers-{self._next:08d}.parquet"
            first = data
            if self._store is not None and self._store.write_part(name, data).digest != sha256(data):
                first = self._store.read_part(name)
            self._adopt(first)
            if first is data:
                break
            new = [a for a in new if a.id not in self._known]  # another process was here: its answers count
        kept = {a.id for a in new}
        self._ledger.settle(kept)
        self._ledger([a for a in answers if a.id not in kept])

    def _adopt(self, data: bytes) -> None:
        self._next += 1
        for row in read_parquet(data).to_pylist():
            payer, process = row.pop("payer"), row.pop("process", "")
            if row["id"] not in self._known:
                self._known[row["id"]] = Answer(**row | {"losses": tuple(row["losses"])})
                if payer == self._payer:
                    self._paid[row["id"]] = process


@dataclass(frozen=True)
class _Saving:
    """The `Save` of a log."""

    append: Callable[[Sequence[Answer]], None]
    ledger: Ledger
    advance: Callable[[int], None]

    def __call__(self, answers: Sequence[Answer]) -> None:
        if answers:
            self.append(answers)
        self.ledger.write_less()
        self.advance(len(answers))

    def owe(self, costs: Mapping[str, Spend]) -> None:
        self.ledger.owe(costs)


def answers_table(answers: Iterable[Answer], payer: str = "") -> pa.Table:
    """Answers as rows with the columns of SCHEMA, in their order."""
    return pa.Table.from_pylist([asdict(a) | {"payer": payer} for a in answers], schema=SCHEMA)
