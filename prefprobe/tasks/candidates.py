"""All tasks that a study's sources hold, of files of one's own and of data sets alike, before any are drawn."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefprobe.errors import InputMissing
from prefprobe.settings import TaskSource
from prefprobe.tasks.pool import Task, read_tasks
from prefprobe.tasks.rows import SCHEMA, read_rows


@dataclass(frozen=True)
class Counts:
    """What became of the rows of a source."""

    source: str
    """Its name, its repository, or the name of its file; files of one's own stand together."""
    rows: int
    dropped: dict[str, int]
    """By reason, those that are no tasks."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Tasks that may be drawn."""

    table: pa.Table
    """id, text, topic, origin, language, sorted by id."""
    counts: Sequence[Counts] = ()

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> "Candidates":
        """Of tasks that were read otherwise."""
        return cls(_table(tasks).sort_by("id"))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def with_(self, other: "Candidates | None") -> "Candidates":
        """Both together. Raises InputMissing if an id stands for two texts."""
        if other is None:
            return self
        return Candidates(_once(pa.concat_tables([self.table, other.table])), [*self.counts, *other.counts])

    def without(self, ids: Sequence[str]) -> "Candidates":
        """All but some."""
        if not ids:
            return self
        out = pc.is_in(self.table.column("id"), pa.array(ids, pa.large_string()))
        return Candidates(self.table.filter(pc.invert(out)), self.counts)

    @property
    def texts(self) -> dict[str, str]:
        """Text by id, sorted by id."""
        return dict(zip(self.table.column("id").to_pylist(), self.table.column("text").to_pylist(), strict=True))


def read_candidates(sources: Sequence[TaskSource], files: Sequence[Sequence[Path]]) -> Candidates:
    """The tasks of all sources, whose files are here.

    A file of the user's own is read strictly, as `read_tasks` does; of data sets the rows that are no tasks are dropped and
    counted. The order of rows and files makes no difference. Raises BadConfig or InputMissing in one sentence.
    """
    found: list[pa.Table] = []
    counts: list[Counts] = []
    own = [(s, s.model_copy(update={"path": str(f[0])})) for s, f in zip(sources, files, strict=True) if s.strict]
    if own:
        tasks = read_tasks([here for _, here in own])
        found.append(_table(tasks))
        counts.append(Counts(", ".join(named.label for named, _ in own), len(tasks), {}))
    for source, paths in zip(sources, files, strict=True):
        if not source.strict:
            dropped: Counter[str] = Counter()
            table, rows = read_rows(source, paths, dropped)
            found.append(table)
            counts.append(Counts(source.label, rows, {reason: n for reason, n in sorted(dropped.items()) if n}))
    return Candidates(_once(pa.concat_tables(found)), counts)


def _table(tasks: Sequence[Task]) -> pa.Table:
    columns = {name: [getattr(task, name) for task in tasks] for name in ("id", "text", "topic", "origin")}
    columns["language"] = [None] * len(tasks)
    return pa.table({name: pa.array(columns[name], pa.large_string()) for name in SCHEMA.names}, schema=SCHEMA)


def _once(tasks: pa.Table) -> pa.Table:
    """Sorted by id, each id once. Raises InputMissing for two texts with one id."""
    order = pc.sort_indices(
        tasks, [("id", "ascending"), ("text", "ascending"), ("topic", "ascending"), ("origin", "ascending")]
    )
    tasks = tasks.take(order).combine_chunks()
    ids, texts = tasks.column("id"), tasks.column("text")
    same = np.zeros(tasks.num_rows, dtype=bool)
    same[1:] = pc.equal(ids[1:], ids[:-1]).to_numpy()
    if same.any():
        other = same.copy()
        other[1:] &= pc.not_equal(texts[1:], texts[:-1]).to_numpy()
        if other.any():
            raise InputMissing(
                f"tasks: the id {ids[int(other.argmax())].as_py()!r} stands for two texts; name another column as `id`, or set "
                "`id: null` to have ids made of the texts."
            )
        tasks = tasks.filter(pa.array(~same))
    return tasks
