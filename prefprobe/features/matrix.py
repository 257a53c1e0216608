"""Features as probes read them: one matrix per layer, rows in a known order. Needs no torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from prefprobe.errors import InputMissing


@dataclass(frozen=True)
class Features:
    """`layers[L]` is (n, d) float32, row i belonging to `ids[i]`; ids are sorted and unique."""

    ids: np.ndarray
    layers: dict[int, np.ndarray]


def join_features(parts: Iterable[Mapping[str, np.ndarray]], origin: str) -> Features:
    """Features out of their parts, each with `task_ids` (k,) and `layer_<L>` (k, d) float32; the order does not matter.

    Raises InputMissing, naming `origin`, if there are no rows or one stands twice.
    """
    some = [p for p in parts if len(p["task_ids"])]
    if not some:
        raise InputMissing(f"{origin}: its features have no rows; extract them again.")
    ids = np.concatenate([p["task_ids"] for p in some])
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if (ids[1:] == ids[:-1]).any():
        twice = ids[1:][ids[1:] == ids[:-1]][0]
        raise InputMissing(f"{origin}: the row {twice} stands twice in its features; extract them again.")
    names = [n for n in some[0] if n.startswith("layer_")]
    layers = {int(n.removeprefix("layer_")): np.concatenate([p[n] for p in some])[order] for n in names}
    return Features(ids, dict(sorted(layers.items())))
