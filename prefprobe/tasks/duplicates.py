"""Texts that say the same: equal ones, and near duplicates by the pairs of words that they share.

Near duplicates are looked for by MinHash in bands (Broder 1997; rensa), and each that is found is held against the texts
themselves: what is called one has that Jaccard index, and of those at the threshold fewer than one in MISSED is missed. Many
texts of one template, which share some of their words, cost no comparisons: bands are as long as that allows.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from rensa import RMinHash, RMinHashLSH

MISSED = 4_000
_PERMUTATIONS, _SEED = 256, 1
_AROUND = 6 * 0.5 / _PERMUTATIONS**0.5
"""Six standard errors, at most, of an index that is estimated by sketches."""
_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


def normal(text: str) -> str:
    """The text without what does not tell texts apart: case, and how much white space stands where."""
    return " ".join(text.split()).casefold()


def repeated(texts: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Which texts say what one before them says, white space and case aside (n,)."""
    digests = [hashlib.blake2b(normal(text).encode(), digest_size=8).digest() for text in texts]
    values = np.frombuffer(b"".join(digests), dtype=np.uint64)
    later = np.ones(len(values), dtype=bool)
    later[np.unique(values, return_index=True)[1]] = False
    return later


def word_pairs(text: str) -> list[str]:
    """Neighbouring words, each sign and each letter that is none of a to z being a word of its own; the same for equal texts.

    A text of one word has that one alone.
    """
    words = _WORD.findall(text.casefold())
    return [f"{a} {b}" for a, b in pairwise(words)] or words


def jaccard(one: str, other: str) -> float:
    """Pairs of words that two texts share, of all that they have."""
    a, b = set(word_pairs(one)), set(word_pairs(other))
    return len(a & b) / len(a | b) if a | b else 1.0


def bands(threshold: float) -> int:
    """Into how many bands a sketch is cut: the fewest of which fewer than one pair in MISSED at the threshold shares none.

    Two texts with Jaccard index s share a band of r rows with probability s^r, and none of b bands with (1 − s^r)^b.
    """
    for rows in range(_PERMUTATIONS, 1, -1):
        found = _PERMUTATIONS // rows
        if (1 - threshold**rows) ** found < 1 / MISSED:
            return found
    return _PERMUTATIONS


@dataclass
class NearDuplicates:
    """The texts that were let in so far: none is a near duplicate of one before."""

    threshold: float
    """Least Jaccard index of near duplicates, 0.7 or more."""
    _index: RMinHashLSH = field(init=False, repr=False)
    _texts: list[str] = field(default_factory=list, init=False, repr=False)
    _sketches: list[RMinHash] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        self._index = RMinHashLSH(self.threshold, self._length, bands(self.threshold))

    @property
    def _length(self) -> int:
        """Of a sketch: as many whole bands as there is room for."""
        return _PERMUTATIONS // bands(self.threshold) * bands(self.threshold)

    def sketches(self, texts: Sequence[str]) -> list[RMinHash]:
        """What `like` and `add` compare texts by; many at once take less time."""
        sketches: list[RMinHash] = RMinHash.from_token_sets([word_pairs(t) for t in texts], self._length, _SEED)
        return sketches

    def like(self, text: str, sketch: RMinHash) -> int | None:
        """Which of the texts let in, by their order, this is a near duplicate of; None of none."""
        least = self.threshold - _AROUND
        found = (at for at in sorted(self._index.query(sketch)) if self._sketches[at].jaccard(sketch) >= least)
        return next((at for at in found if jaccard(text, self._texts[at]) >= self.threshold), None)

    def add(self, text: str, sketch: RMinHash) -> None:
        """Let a text in."""
        self._index.insert(len(self._texts), sketch)
        self._texts.append(text)
        self._sketches.append(sketch)
