"""The choice log: what was asked, what came back, each observation under its identity, in immutable parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from prefprobe.progress import Progress
from prefprobe.store.formats import parquet_bytes, read_parquet
from prefprobe.store.keys import canonical_json, sha256
from prefprobe.store.steps import StepStore

SCHEMA = pa.schema(
    [
        ("choice_id", pa.string()),
        ("round", pa.int32()),
        ("prompt_id", pa.string()),
        ("task_a", pa.string()),
        ("task_b", pa.string()),
        ("logit", pa.float64()),
        ("p_a", pa.float64()),
        ("label_mass", pa.float64()),
    ]
)


@dataclass(frozen=True, order=True)
class Request:
    """One ordered pair to be shown: `task_a` first, under the system prompt `prompt_id` ("" for none)."""

    prompt_id: str
    task_a: str
    task_b: str


@dataclass(frozen=True)
class Answer:
    """What an exact engine reads off: log P(A)/P(B) given a label, and the probability that an answer begins with one."""

    logit: float
    p_a: float
    label_mass: float


class Engine(Protocol):
    """Anything that answers requests."""

    name: str

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that an answer depends on besides the texts: model, temperature, stimulus."""
        ...

    def measure(self, requests: Sequence[tuple[str | None, str, str]]) -> list[Answer]:
        """Answers to (system prompt, text shown first, text shown second), in order."""
        ...


@dataclass
class ChoiceLog:
    """Measures requests part by part; a part that is in the store is read, never measured again."""

    store: StepStore
    engine: Engine
    texts: Mapping[str, str]
    """Task id → text."""
    prompts: Mapping[str, str]
    """Prompt id → system prompt; the id "" stands for none and is not in here."""
    part: int
    progress: Progress

    def measure(self, requests: Sequence[Request], round_: int, unit: str = "choices") -> pa.Table:
        """All requests of one round as a table with the columns of SCHEMA.

        Requests are sorted so that prompts and first tasks stand together, which lets an engine compute shared beginnings
        once, and cut into parts at fixed places: a resumed round repeats exactly the parts that are missing.
        """
        ordered = sorted(set(requests))
        parts = [ordered[i : i + self.part] for i in range(0, len(ordered), self.part)]
        names = [f"round-{round_:03d}-part-{k:05d}.parquet" for k in range(len(parts))]
        there = self.store.parts()
        saved = sum(len(p) for n, p in zip(names, parts, strict=True) if n in there)
        self.progress.start(len(ordered), f"{unit}, round {round_}", saved)
        tables = []
        for name, part in zip(names, parts, strict=True):
            if name in there:
                tables.append(read_parquet(self.store.read_part(name)))
                continue
            answers = self.engine.measure([self._shown(r) for r in part])
            rows = [
                {
                    "choice_id": self._identity(r),
                    "round": round_,
                    "prompt_id": r.prompt_id,
                    "task_a": r.task_a,
                    "task_b": r.task_b,
                }
                | {"logit": a.logit, "p_a": a.p_a, "label_mass": a.label_mass}
                for r, a in zip(part, answers, strict=True)
            ]
            data = parquet_bytes(pa.Table.from_pylist(rows, schema=SCHEMA))
            first = self.store.write_part(name, data)
            # another process may have saved this part meanwhile, and the first one counts
            tables.append(read_parquet(data if first.digest == sha256(data) else self.store.read_part(name)))
            self.progress.advance(len(part))
        return pa.concat_tables(tables) if tables else SCHEMA.empty_table()

    def _shown(self, request: Request) -> tuple[str | None, str, str]:
        system = self.prompts[request.prompt_id] if request.prompt_id else None
        return system, self.texts[request.task_a], self.texts[request.task_b]

    def _identity(self, request: Request) -> str:
        return sha256(canonical_json([dict(self.engine.identity), *self._shown(request)]))[:32]
