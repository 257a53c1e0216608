"""Drawing task sets and a pool by quotas, so that what is drawn stays drawn when the pool grows.

Tasks take their turn by a hash of seed and id, within each origin; origins take turns by their weights (the next is the one
whose share is furthest behind, as in Sainte-Laguë's method). So every draw is the beginning of a longer one: no order of
rows, files or sources, and no size of the pool, changes who comes first.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.settings import TaskSettings
from prefprobe.tasks.candidates import Candidates
from prefprobe.tasks.duplicates import NearDuplicates, normal, repeated
from prefprobe.tasks.sampling import sample_sets

POOL = pa.schema([(name, pa.string()) for name in ("id", "text", "origin", "topic", "set")])
_LOOK = 1024
"""Candidates of an origin that are looked at together."""

Fits = Callable[[Sequence[str]], Sequence[bool]]
"""Which texts are short enough for a model."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Tasks of the sets train, eval and pool."""

    pool: pa.Table
    """POOL, sorted by id."""
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    """{origin: {reason: n}} of the candidates that were looked at."""
    looked: dict[str, int] = field(default_factory=dict)
    """{origin: candidates that were looked at} for near duplicates, tokens and the tasks of experiments."""

    @property
    def tasks(self) -> pa.Table:
        """The tasks that are measured: id, text, set, sorted by id."""
        measured = self.pool.filter(pc.not_equal(self.pool.column("set"), "pool"))
        return measured.select(["id", "text", "set"])


def draw(
    candidates: Candidates,
    settings: TaskSettings,
    seed: int,
    shifted: Sequence[str] = (),
    fits: Fits | None = None,
) -> Drawn:
    """Draw train, eval and pool; of equal texts only the first by id is drawn, and none that equals one of `shifted`.

    `shifted` are the texts of tasks under system prompts. Without quotas train and eval are drawn evenly along the ids
    (`sample_sets`) and the pool by the hash. Raises BadConfig for fewer tasks than asked, InputMissing for a quota of an
    origin without tasks.
    """
    look = _Look(settings, shifted, fits)
    table = candidates.table
    again = repeated(text.as_py() for text in table.column("text"))
    look.count(table.column("origin"), again, "equal text")
    there = sorted(table.column("origin").unique().to_pylist())
    table = table.filter(pa.array(~again)).combine_chunks()
    order = np.argsort(_turns(table.column("id").to_pylist(), seed), kind="stable")
    columns = _Columns(table.column("origin").to_numpy(), table.column("text").combine_chunks())
    if settings.quotas is None:
        sets = _along_ids(table.column("id").to_pylist(), columns, order, settings, seed, look)
    else:
        sets = _by_quota(columns, order, there, settings, look)
    rows = table.take(pa.array(sorted(sets)))
    names = pa.array([sets[at] for at in sorted(sets)])
    pool = rows.select(["id", "text", "origin", "topic"]).append_column("set", names).cast(POOL).sort_by("id")
    return Drawn(pool.combine_chunks(), look.dropped(), dict(sorted(look.looked.items())))


@dataclass(frozen=True, eq=False)
class _Columns:
    origins: npt.NDArray[np.object_]
    texts: pa.Array


class _Look:
    """Looks at candidates in the order of their turns, and counts what it turns down."""

    def __init__(self, settings: TaskSettings, shifted: Sequence[str], fits: Fits | None) -> None:
        self.looked: Counter[str] = Counter()
        self.shifted = {normal(text) for text in shifted}
        self._fits = fits if settings.max_tokens is not None else None
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._near = None if settings.near_duplicates is None else NearDuplicates(settings.near_duplicates)
        self._first = 0 if self._near is None else len(shifted)
        if self._near is not None and shifted:
            for text, sketch in zip(shifted, self._near.sketches(shifted), strict=True):
                self._near.add(text, sketch)

    @property
    def idle(self) -> bool:
        """Whether neither near duplicates nor tokens are asked for."""
        return self._fits is None and self._near is None

    def admitted(self, rows: npt.NDArray[np.int64], columns: _Columns) -> Iterator[int]:
        """The rows that are let in, in their order; those that are not asked for have no effect."""
        for start in range(0, len(rows), _LOOK):
            some = rows[start : start + _LOOK]
            texts = columns.texts.take(pa.array(some)).to_pylist()
            fits = [True] * len(texts) if self._fits is None else self._fits(texts)
            sketches = [None] * len(texts) if self._near is None else self._near.sketches(texts)
            for row, text, short, sketch in zip(some, texts, fits, sketches, strict=True):
                self.looked[columns.origins[row]] += 1
                reason = self._reason(text, short, sketch)
                if reason:
                    self._dropped[columns.origins[row], reason] += 1
                    continue
                if self._near is not None:
                    self._near.add(text, sketch)
                yield int(row)

    def count(self, origins: pa.ChunkedArray, out: npt.NDArray[np.bool_], reason: str) -> None:
        """Count those that are out by their origins."""
        for one in pc.value_counts(origins.filter(pa.array(out))).to_pylist():
            self._dropped[one["values"], reason] += one["counts"]

    def dropped(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for (origin, reason), n in sorted(self._dropped.items()):
            found.setdefault(origin, {})[reason] = n
        return found

    def _reason(self, text: str, short: bool, sketch: Any) -> str:
        if not short:
            return "max_tokens"
        if self.shifted and normal(text) in self.shifted:
            return "task of an experiment"
        if self._near is not None and (like := self._near.like(text, sketch)) is not None:
            return "near duplicate of a task of an experiment" if like < self._first else "near duplicate"
        return ""


def _turns(ids: Sequence[str], seed: int) -> npt.NDArray[np.uint64]:
    """When each id has its turn: a number that follows from it and the seed alone."""
    key = str(seed).encode()
    digests = [hashlib.blake2b(id_.encode(), digest_size=8, key=key).digest() for id_ in ids]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _by_quota(
    columns: _Columns, order: npt.NDArray[np.int64], there: Sequence[str], settings: TaskSettings, look: _Look
) -> dict[int, str]:
    """{row: set}."""
    weights = settings.weights or dict.fromkeys(there, 1.0)
    wrong = sorted(weights.keys() ^ set(there)) if isinstance(settings.quotas, dict) else []
    if wrong:
        raise InputMissing(
            f"tasks: the origin {wrong[0]!r} has no {'tasks' if wrong[0] in weights else 'quota'}; `tasks.quotas` names "
            f"{', '.join(sorted(weights))}, and the sources hold {', '.join(there)}."
        )
    queues = {of: look.admitted(order[columns.origins[order] == of], columns) for of in there}
    measured, asked = settings.n_train + settings.n_eval, settings.n_train + settings.n_eval + settings.n_pool
    drawn = list(_turn_by_turn(queues, weights, asked))
    has = Counter(origin for origin, _ in drawn)
    empty = next((of for of in there if not has[of] and next(queues[of], None) is None), None)
    if empty is not None:
        said = ", ".join(f"{n:,} by {reason}" for reason, n in look.dropped().get(empty, {}).items())
        raise InputMissing(
            f"tasks: none of the origin {empty!r} is left ({said}); leave the source out, or filter less."
        )
    if len(drawn) < asked:
        raise BadConfig(
            f"tasks: {settings.n_train} train, {settings.n_eval} eval and {settings.n_pool} pool tasks were asked for, and there "
            f"are {len(drawn)} ({', '.join(f'{n} of {of}' for of, n in sorted(has.items()))}); lower the numbers, or add sources."
        )
    of = _share(drawn[:measured], settings.n_train)
    return of | dict.fromkeys((row for _, row in drawn[measured:]), "pool")


def _turn_by_turn(
    queues: Mapping[str, Iterator[int]], weights: Mapping[str, float], n: int
) -> Iterator[tuple[str, int]]:
    """(origin, row) n times, or until all queues are empty."""
    turns = [(0.5 / weights[origin], origin, 0) for origin in queues]
    heapq.heapify(turns)
    while turns and n:
        _, origin, before = heapq.heappop(turns)
        row = next(queues[origin], None)
        if row is None:
            continue
        n -= 1
        yield origin, row
        heapq.heappush(turns, ((before + 1.5) / weights[origin], origin, before + 1))


def _share(measured: Sequence[tuple[str, int]], n_train: int) -> dict[int, str]:
    """{row: train or eval}, every origin cut in the same proportion."""
    total = Counter(origin for origin, _ in measured)
    before: Counter[str] = Counter()
    ranked = []
    for origin, row in measured:
        ranked.append(((before[origin] + 0.5) / total[origin], origin, row))
        before[origin] += 1
    rows = [row for _, _, row in sorted(ranked)]
    return dict.fromkeys(rows[:n_train], "train") | dict.fromkeys(rows[n_train:], "eval")


def _along_ids(
    ids: Sequence[str],
    columns: _Columns,
    order: npt.NDArray[np.int64],
    settings: TaskSettings,
    seed: int,
    look: _Look,
) -> dict[int, str]:
    """{row: set}."""
    rows = [int(row) for row in order] if look.idle else list(look.admitted(order, columns))
    row_of = {ids[row]: row for row in rows}
    texts = {id_: columns.texts[row].as_py() for id_, row in row_of.items()}
    sampled = sample_sets(texts, settings.n_train, settings.n_eval, seed)
    of = {
        row_of[i]: s for i, s in zip(sampled.column("id").to_pylist(), sampled.column("set").to_pylist(), strict=True)
    }
    rest = [row for id_, row in row_of.items() if row not in of and normal(texts[id_]) not in look.shifted]
    if len(rest) < settings.n_pool:
        raise BadConfig(
            f"tasks: {settings.n_pool} tasks of a pool were asked for beside train and eval, and there are {len(rest)}; lower "
            "`tasks.n_pool`, or add sources."
        )
    return of | dict.fromkeys(rest[: settings.n_pool], "pool")
