"""How far two judges agree, and how far a task's origin alone tells its topic."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from prefprobe.probes.intervals import Interval, around

Floats = npt.NDArray[np.float64]
_Z = float(ndtri(0.975))


class Kappa(TypedDict):
    """Cohen's κ with its 95 % bounds; κ and bounds are None where both judges know one label only."""

    n: int
    agreed: float
    """Share of tasks of which both say the same."""
    by_chance: float
    """The share that would be the same if both drew their labels by chance, each with the shares that it gives them."""
    value: float | None
    low: float | None
    high: float | None


class Association(TypedDict):
    """Cramér's V of two columns, corrected for bias, with 95 % bounds."""

    n: int
    rows: int
    columns: int
    v: Interval | None
    """None where one of the columns has one value alone."""


def confusion(first: Sequence[str], second: Sequence[str]) -> dict[tuple[str, str], int]:
    """{(label by the first judge, by the second): tasks}, sorted; pairs that never occur are left out."""
    return dict(sorted(Counter(zip(first, second, strict=True)).items()))


def kappa(first: Sequence[str], second: Sequence[str]) -> Kappa:
    """Cohen's (1960) κ = (p_o − p_e) / (1 − p_e) of two judges' labels of the same n tasks.

    The bounds are Wilson's score interval (1927) of p_o, of as many tasks as make its variance that of κ (Fleiss, Cohen and
    Everitt 1969), put through the same formula: unlike κ ± 1.96 standard errors they stay below 1, and are not 0 wide where
    nothing differs. What they cover is in benchmarks/kappa.py.
    """
    table = _table(first, second)
    n = table.sum()
    p = table / n
    of_first, of_second = p.sum(1), p.sum(0)
    agreed, chance = float(np.trace(p)), float(of_first @ of_second)
    found = Kappa(n=int(n), agreed=agreed, by_chance=chance, value=None, low=None, high=None)
    if chance >= 1.0:
        return found
    value = (agreed - chance) / (1.0 - chance)
    # n times the variance of kappa (Fleiss, Cohen and Everitt 1969, eq. 13)
    weights = of_second[:, None] + of_first[None, :]
    diagonal = np.diag(p) @ (1.0 - np.diag(weights) * (1.0 - value)) ** 2
    beside = (1.0 - value) ** 2 * ((p - np.diag(np.diag(p))) * (of_first[None, :] + of_second[:, None]) ** 2).sum()
    variance = (diagonal + beside - (value - chance * (1.0 - value)) ** 2) / (1.0 - chance) ** 2
    naive = agreed * (1.0 - agreed) / (1.0 - chance) ** 2
    effective = n if variance <= 0 or naive <= 0 else n * naive / variance
    low, high = _wilson(agreed, float(effective))
    low, high = ((bound - chance) / (1.0 - chance) for bound in (low, high))
    return {**found, "value": value, "low": max(-1.0, min(low, value)), "high": max(high, value)}


def cramers_v(one: Sequence[str], other: Sequence[str]) -> Association:
    """V, corrected for bias (Bergsma 2013), of two columns of n values: 0 where one says nothing of the other, 1 where it
    says all. The bounds are those of V², by a jackknife over rows before what the correction makes negative is taken for 0:
    V itself is 0 then whichever row is left out, as though it were known. `se` is that of V².
    """
    rows, columns = sorted(set(one)), sorted(set(other))
    found = Association(n=len(one), rows=len(rows), columns=len(columns), v=None)
    if len(rows) < 2 or len(columns) < 2:
        return found
    table = np.zeros((len(rows), len(columns)))
    np.add.at(table, (_places(one, rows), _places(other, columns)), 1.0)
    square = _v_squared(table)
    # rows of one cell are alike: leaving out any of them leaves the same table
    squares = 0.0
    for cell in np.argwhere(table > 0):
        at = tuple(cell)
        less = table.copy()
        less[at] -= 1.0
        squares += table[at] * (_v_squared(less) - square) ** 2
    n = table.sum()
    v = around(square, float(np.sqrt((n - 1) / n * squares)), float(n - 1))
    v["value"] = _root(square)
    if v["low"] is not None and v["high"] is not None:
        v["low"], v["high"] = _root(v["low"]), _root(v["high"])
    return {**found, "v": v}


def origins(origin: Sequence[str], topic: Sequence[str]) -> list[dict[str, Any]]:
    """Rows origin, topic, tasks, and `share` of the origin's tasks, sorted; also of pairs that never occur."""
    pairs, whole = Counter(zip(origin, topic, strict=True)), Counter(origin)
    return [
        {"origin": o, "topic": t, "tasks": pairs[o, t], "share": pairs[o, t] / whole[o]}
        for o in sorted(whole)
        for t in sorted(set(topic))
    ]


def _root(square: float) -> float:
    return float(np.sqrt(min(1.0, max(0.0, square))))


def _v_squared(table: Floats) -> float:
    """V² corrected for bias, below 0 where there is less than chance makes of nothing."""
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    n, (r, c) = table.sum(), table.shape
    if min(r, c) < 2:
        return 0.0
    expected = np.outer(table.sum(1), table.sum(0)) / n
    phi2 = float(((table - expected) ** 2 / expected).sum() / n - (r - 1) * (c - 1) / (n - 1))
    smaller = min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1))
    return phi2 / float(smaller - 1) if smaller > 1 else 0.0


def _table(first: Sequence[str], second: Sequence[str]) -> Floats:
    labels = sorted({*first, *second})
    table = np.zeros((len(labels), len(labels)))
    np.add.at(table, (_places(first, labels), _places(second, labels)), 1.0)
    return table


def _places(values: Sequence[str], known: Sequence[str]) -> npt.NDArray[np.intp]:
    at = {value: i for i, value in enumerate(known)}
    return np.array([at[value] for value in values], dtype=np.intp)


def _wilson(p: float, n: float) -> tuple[float, float]:
    middle, reach = p + _Z**2 / (2 * n), _Z * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return float((middle - reach) / (1 + _Z**2 / n)), float((middle + reach) / (1 + _Z**2 / n))


def agreement_of(first: Mapping[str, str | None], second: Mapping[str, str | None]) -> dict[str, Any]:
    """Two judges' labels (task id → label, None where none was read) compared, as plain JSON: `kappa` of the tasks that both
    have labelled, `unread` of those that only one has, and `confusion`, rows of both labels and a number of tasks.
    """
    asked = sorted(first.keys() & second.keys())
    both = [(a, b) for id_ in asked if (a := first[id_]) is not None and (b := second[id_]) is not None]
    one, other = [a for a, _ in both], [b for _, b in both]
    table = [{"first": a, "second": b, "tasks": n} for (a, b), n in confusion(one, other).items()]
    return {
        "asked": len(asked),
        "unread": len(asked) - len(both),
        "kappa": kappa(one, other) if both else None,
        "confusion": table,
    }
