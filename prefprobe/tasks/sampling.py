"""Freezing disjoint task sets out of a pool."""

from collections import defaultdict

import numpy as np
import pyarrow as pa

from prefprobe.errors import BadConfig
from prefprobe.tasks.pool import Task

SETS = ("train", "eval")
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "text", "origin", "topic", "set")])


def sample_sets(pool: list[Task], n_train: int, n_eval: int, seed: int) -> pa.Table:
    """Draw train and eval, stratified by topic (by origin where there is none), disjoint in ids and in texts.

    Of tasks with the same text (white space and case aside) only the first by id can be drawn. Returns the columns
    id, text, origin, topic, set, sorted by id. The draw depends on ids and seed, not on the order of the pool.
    """
    first: dict[str, Task] = {}
    for task in sorted(pool, key=lambda t: t.id):
        first.setdefault(" ".join(task.text.split()).casefold(), task)
    if len(first) < n_train + n_eval:
        raise BadConfig(
            f"tasks: {n_train} train and {n_eval} eval tasks were asked for, and the sources hold {len(first)} distinct "
            "texts; lower `tasks.n_train` or `tasks.n_eval`, or add sources."
        )
    strata: dict[str, list[Task]] = defaultdict(list)
    for task in first.values():
        strata[task.topic or task.origin].append(task)
    rng = np.random.default_rng([seed, 1])
    # every task gets its quantile within its own stratum; cutting the merged order then cuts each stratum in proportion
    ranked: list[tuple[float, str, Task]] = []
    for name in sorted(strata):
        members = sorted(strata[name], key=lambda t: t.id)
        offset = rng.random()
        ranked += [((k + offset) / len(members), name, members[i]) for k, i in enumerate(rng.permutation(len(members)))]
    order = [task for _, _, task in sorted(ranked, key=lambda r: (r[0], r[1]))]
    chosen = {t.id: "train" for t in order[:n_train]} | {t.id: "eval" for t in order[n_train : n_train + n_eval]}
    tasks = sorted((t for t in order if t.id in chosen), key=lambda t: t.id)
    rows = [{"id": t.id, "text": t.text, "origin": t.origin, "topic": t.topic, "set": chosen[t.id]} for t in tasks]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


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
