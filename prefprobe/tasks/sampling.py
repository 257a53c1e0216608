"""Freezing disjoint task sets out of a pool."""

import hashlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from prefprobe.errors import BadConfig

SETS = ("train", "eval")
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "text", "set")])
BLOCK = 30
"""About how many tasks that follow each other by id are drawn from together."""


def shard_of(id_: str, shards: int) -> int:
    """Which of the shards a task is in: a digest of its id, so that other tasks, or more of them, move none."""
    return int.from_bytes(hashlib.sha256(id_.encode()).digest()[:8]) % shards


def sample_sets(pool: Mapping[str, str], n_train: int, n_eval: int, seed: int) -> pa.Table:
    """Draw train and eval out of `pool` (id → text), disjoint in ids and in texts.

    The tasks in the order of their ids are cut into blocks of the same size, and of each the same share is drawn: ids that
    begin with a topic or a source are drawn from evenly. Of tasks with the same text (white space and case aside) only
    the first by id can be drawn. Returns the columns id, text, set, sorted by id. The draw depends on ids, texts and seed
    alone: what is measured does not change with the topics.
    """
    first: dict[str, str] = {}
    for id_ in sorted(pool):
        first.setdefault(" ".join(pool[id_].split()).casefold(), id_)
    if len(first) < n_train + n_eval:
        raise BadConfig(
            f"tasks: {n_train} train and {n_eval} eval tasks were asked for, and there are {len(first)} distinct texts to "
            "draw from; lower `tasks.n_train` or `tasks.n_eval`, or add sources."
        )
    rng = np.random.default_rng([seed, 1])
    # every task gets its quantile within its own block; cutting the merged order then cuts each block in proportion
    ranked: list[tuple[float, int, str]] = []
    ids = sorted(first.values())
    for block, members in enumerate(np.array_split(np.arange(len(ids)), -(-len(ids) // BLOCK))):
        offset = rng.random()
        order = enumerate(rng.permutation(members))
        ranked += [((k + offset) / len(members), block, ids[i]) for k, i in order]
    drawn = [id_ for _, _, id_ in sorted(ranked)]
    of = dict.fromkeys(drawn[:n_train], "train") | dict.fromkeys(drawn[n_train : n_train + n_eval], "eval")
    return pa.Table.from_pylist([{"id": i, "text": pool[i], "set": of[i]} for i in sorted(of)], schema=SCHEMA)


def task_set(tasks: pa.Table, name: str) -> dict[str, str]:
    """{id: text} of one set, sorted by id.

    Raises BadConfig if train and eval share an id or a text: a leak stops a run before anything is measured.
    """
    columns = {c: tasks.column(c).to_pylist() for c in ("id", "text", "set")}
    of: dict[str, dict[str, str]] = {s: {} for s in SETS}
    for id_, text, set_ in zip(columns["id"], columns["text"], columns["set"], strict=True):
        of[set_][id_] = text
    shared = of["train"].keys() & of["eval"].keys()
    texts = {text: id_ for id_, text in of["train"].items()}
    leaks = sorted(shared) or sorted(f"{texts[t]} = {i}" for i, t in of["eval"].items() if t in texts)
    if leaks:
        raise BadConfig(f"tasks.parquet: train and eval share {leaks[0]} ({len(leaks)} in all); sample the sets again.")
    return dict(sorted(of[name].items()))
