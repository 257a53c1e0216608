"""Prompts laid out so that every distinct token is computed once.

Prompts that share a beginning share its computation: sequences are sorted and laid out as the nodes of a prefix tree,
each node attending to its ancestors only, with the position it has in its own sequence. Nothing is padded but the end of
a pack. A beginning that *all* sequences share (a system prompt, the instructions) is computed once for the whole call and
kept as keys and values. Several packs form one batch, so that matrix products stay large while attention stays small.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

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
    return _laid_out(sequences, skip, capacity, _sorted(sequences))


def even_packs(sequences: Sequence[Sequence[int]], skip: int, about: int, most: float = math.inf) -> list[Pack]:
    """Packs of nearly the same size, of `about` so many nodes and at most as many as `pack` would give for `most`."""
    order = _sorted(sequences)
    nodes = sum(len(sequences[row]) - max(shared, skip) for row, shared in order)
    n = max(1, round(nodes / min(about, most)))
    longest = max(map(len, sequences)) - skip
    capacity = nodes if n == 1 and nodes <= most else int(min(nodes // n + longest, most))
    return _laid_out(sequences, skip, capacity, order)


def _sorted(sequences: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Rows in the order of their tokens, each with the number of tokens that it shares with the one before it."""
    lists = [s if isinstance(s, list) else list(s) for s in sequences]
    order = sorted(range(len(lists)), key=lambda row: (lists[row], row))
    shared = [_common(lists[before], lists[row]) for before, row in pairwise(order)]
    return list(zip(order, [0, *shared], strict=False))  # of none there is none


def _laid_out(
    sequences: Sequence[Sequence[int]], skip: int, capacity: int, order: Sequence[tuple[int, int]]
) -> list[Pack]:
    packs: list[Pack] = []
    for row, common in order:
        sequence = sequences[row][skip:]
        shared = max(0, common - skip)
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
    return packs


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
