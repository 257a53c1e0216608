"""Prompts laid out so that every distinct token is computed once.

Prompts that share a beginning share its computation: sequences are sorted and laid out as the nodes of a prefix tree,
each node attending to its ancestors only, with the position it has in its own sequence. Nothing is padded but the end of
a pack. A beginning that *all* sequences share (a system prompt, the instructions) is computed once for the whole call and
kept as keys and values. Several packs form one batch, so that matrix products stay large while attention stays small.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class Pack:
    """A prefix tree in depth-first order."""

    tokens: list[int]
    positions: list[int]
    paths: list[np.ndarray]
    """For each sequence the nodes of its tokens, in order; (length,) int64."""
    rows: list[int]
    """Which of the caller's sequences these are."""


def pack(sequences: Sequence[Sequence[int]], skip: int, capacity: int) -> list[Pack]:
    """Lay the sequences out in packs of at most `capacity` nodes (a longer sequence gets a pack of its own).

    The first `skip` tokens, common to all, are left out. Same sequences, same packs: the caller's order does not matter.
    """
    order = sorted(range(len(sequences)), key=lambda row: (list(sequences[row]), row))
    packs: list[Pack] = []
    previous: list[int] = []
    for row in order:
        sequence = list(sequences[row][skip:])
        shared = _common(previous, sequence) if packs else 0
        if not packs or (len(packs[-1].tokens) + len(sequence) - shared > capacity and packs[-1].rows):
            packs.append(Pack([], [], [], []))
            shared = 0
        here = packs[-1]
        first = len(here.tokens)
        here.tokens += sequence[shared:]
        here.positions += range(skip + shared, skip + len(sequence))
        new = np.arange(first, len(here.tokens))
        here.paths.append(np.concatenate([here.paths[-1][:shared], new]) if shared else new)
        here.rows.append(row)
        previous = sequence
    return packs


def even_packs(sequences: Sequence[Sequence[int]], skip: int, about: int, most: float = math.inf) -> list[Pack]:
    """Packs of nearly the same size, of `about` so many nodes and at most as many as `pack` would give for `most`."""
    whole = pack(sequences, skip, sum(map(len, sequences)))
    nodes = sum(len(p.tokens) for p in whole)
    n = max(1, round(nodes / min(about, most)))
    longest = max(map(len, sequences)) - skip
    return whole if n == 1 and nodes <= most else pack(sequences, skip, int(min(nodes // n + longest, most)))


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n


def shared_beginning(sequences: Sequence[Sequence[int]]) -> int:
    """Number of tokens with which all sequences begin."""
    return _common(min(sequences, key=list), max(sequences, key=list))


def batches(packs: list[Pack], batch_tokens: int) -> Iterator[list[Pack]]:
    """Packs of about the same size together, at most `batch_tokens` places a batch."""
    batch: list[Pack] = []
    for p in sorted(packs, key=lambda p: -len(p.tokens)):
        width = max(len(q.tokens) for q in [*batch, p])
        if batch and width * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(p)
    if batch:
        yield batch
