"""The answers of one engine: kept as they came, each under the identity of its question, and never asked for twice.

Answers are appended in parts that are numbered without gaps. Whoever writes a number first has it, and others read what
they find there before they write the next one: so all readers see the same answers in the same order, and of two answers
to one question the first one counts. Appending costs what is appended, whatever is there already.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import pyarrow as pa

from prefprobe.choices.engine import Answer, Engine, Question
from prefprobe.progress import Progress
from prefprobe.store.formats import parquet_bytes, read_parquet
from prefprobe.store.keys import sha256
from prefprobe.store.steps import StepStore

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), tuple[str, ...]: pa.list_(pa.string())}
SCHEMA = pa.schema([*((f.name, _TYPES[f.type]) for f in fields(Answer)), ("payer", pa.string())])  # type: ignore[index]


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


class AnswerLog:
    """All answers of one engine in `store`; `payer` is who asks now, so that what it has paid can be told apart."""

    def __init__(self, store: StepStore, payer: str) -> None:
        self._store, self._payer = store, payer
        self._known: dict[str, Answer] = {}
        self._paid: set[str] = set()
        self._next = 0
        for name in store.parts():
            if name.startswith("answers-"):
                self._adopt(store.read_part(name))

    @property
    def spend(self) -> Spend:
        """What `payer` has paid so far, in this process and before it."""
        return Spend.of(self._known[id_] for id_ in sorted(self._paid))

    def ask(self, engine: Engine, questions: Sequence[Question], progress: Progress) -> Mapping[str, Answer]:
        """Answers by the id of their question: what is not known yet is asked for.

        A question is missing from the result only where the engine's budget did not cover it.
        """
        missing = [q for q in questions if q.id not in self._known]

        def save(answers: Sequence[Answer]) -> None:
            if answers:
                self._append(answers)
            progress.advance(len(answers))

        if missing:
            engine.answer(missing, save)
        return {q.id: self._known[q.id] for q in questions if q.id in self._known}

    def known(self, questions: Iterable[Question]) -> int:
        """How many of the questions have an answer."""
        return sum(q.id in self._known for q in questions)

    def _append(self, answers: Sequence[Answer]) -> None:
        new = list({a.id: a for a in reversed(answers) if a.id not in self._known}.values())[::-1]
        while new:
            data = parquet_bytes(table(new, self._payer))
            name = f"answers-{self._next:08d}.parquet"
            written = self._store.write_part(name, data)
            first = data if written.digest == sha256(data) else self._store.read_part(name)
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


def table(answers: Iterable[Answer], payer: str = "") -> pa.Table:
    """Answers as rows with the columns of SCHEMA, in their order."""
    return pa.Table.from_pylist([asdict(a) | {"payer": payer} for a in answers], schema=SCHEMA)
