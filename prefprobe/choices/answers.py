"""The answers of one engine: kept as they came, each under the identity of its question, and never asked for twice.

Answers are appended in parts that are numbered without gaps. Whoever writes a number first has it, and others read what
they find there before they write the next one: so all readers see the same answers in the same order, and of two answers
to one question the first one counts. Appending costs what is appended, whatever is there already.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Protocol, TypeVar

import pyarrow as pa

from prefprobe.choices.engine import Answer, Save
from prefprobe.progress import Progress
from prefprobe.store.formats import parquet_bytes, read_parquet
from prefprobe.store.keys import sha256
from prefprobe.store.steps import StepStore

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), tuple[str, ...]: pa.list_(pa.string())}
SCHEMA = pa.schema([*((f.name, _TYPES[f.type]) for f in fields(Answer)), ("payer", pa.string())])  # type: ignore[index]

CLOSED = "closed.json"
"""The part that says that a log is closed."""


@dataclass(frozen=True)
class Spend:
    """What answers cost."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0

    @classmethod
    def of(cls, answers: Iterable[Answer]) -> "Spend":
        """The sum over some answers."""
        some = list(answers)
        return cls(
            len(some),
            sum(a.prompt_tokens for a in some),
            sum(a.completion_tokens for a in some),
            sum(a.cost for a in some),
        )

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.dollars + other.dollars,
        )


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
        self._known: dict[str, Answer] = {}
        self._paid: set[str] = set()
        self._next = 0
        if store is not None:
            for name in store.parts():
                if name.startswith("answers-"):
                    self._adopt(store.read_part(name))

    @property
    def spend(self) -> Spend:
        """What `payer` has paid so far, in this process and before it."""
        return Spend.of(self._known[id_] for id_ in sorted(self._paid))

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

        def save(answers: Sequence[Answer]) -> None:
            if answers:
                self._append(answers)
            progress.advance(len(answers))

        if missing:
            answer(missing, save)
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
            data = parquet_bytes(answers_table(new, self._payer))
            name = f"answers-{self._next:08d}.parquet"
            first = data
            if self._store is not None and self._store.write_part(name, data).digest != sha256(data):
                first = self._store.read_part(name)
            self._adopt(first)
            if first is data:
                return
            new = [a for a in new if a.id not in self._known]  # another process was here: its answers count

    def _adopt(self, data: bytes) -> None:
        self._next += 1
        for row in read_parquet(data).to_pylist():
            payer = row.pop("payer")
            if row["id"] not in self._known:
                self._known[row["id"]] = Answer(**row | {"losses": tuple(row["losses"])})
                if payer == self._payer:
                    self._paid.add(row["id"])


def answers_table(answers: Iterable[Answer], payer: str = "") -> pa.Table:
    """Answers as rows with the columns of SCHEMA, in their order."""
    return pa.Table.from_pylist([asdict(a) | {"payer": payer} for a in answers], schema=SCHEMA)
