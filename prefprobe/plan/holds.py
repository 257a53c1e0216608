"""What the pool of a study holds, before anything runs: how many of what origin and set, how long, what was dropped and why."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Column, Table

from prefprobe.numbers import count, shortened
from prefprobe.plan.frozen import freeze
from prefprobe.plan.model import model_facts, pinned_facts
from prefprobe.settings import Config
from prefprobe.settings.tasks import named_sources, quotable
from prefprobe.shift.prompted import prompted_tasks
from prefprobe.sources import source_revision
from prefprobe.store.objects import ObjectStore
from prefprobe.tasks.candidates import read_candidates
from prefprobe.tasks.located import all_files, pin

SETS = ("train", "eval", "pool")
EXAMPLES, _LONGEST = 3, 100
"""Texts of each origin that are shown, and characters of each."""
QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


def holds(config: Config, objects: ObjectStore) -> dict[str, Any]:
    """Read the sources as a run would (what is not here is downloaded) and draw from them; nothing is saved.

    No text of an origin that may not be quoted is among the examples. Raises what the step `tasks` raises.
    """
    sources = config.tasks.all_sources
    pins = [pin(source, objects) for source in sources]
    pool = read_candidates(sources, all_files(sources, pins, objects))
    read = {"model": config.model} | ({"base": config.base} if config.base else {})
    models = {name: model_facts(settings) for name, settings in read.items()}
    if config.tasks.max_tokens is not None and models["model"].lengths.counts([]) is None:
        models["model"] = pinned_facts(config.model, source_revision(config.model.source, config.model.revision))
    frozen = freeze(config, pool, models, prompted_tasks(config.shift, objects))
    drawn = frozen.drawn
    origins = sorted(pool.table.column("origin").unique().to_pylist())
    of: dict[str, dict[str, Any]] = {}
    for origin in origins:
        there = pool.table.filter(pc.equal(pool.table.column("origin"), origin))
        mine = drawn.pool.filter(pc.equal(drawn.pool.column("origin"), origin))
        of[origin] = {
            "candidates": there.num_rows,
            **{name: pc.sum(pc.equal(mine.column("set"), name)).as_py() or 0 for name in SETS},
            "characters": _quantiles(pc.utf8_length(mine.column("text"))),
            "tokens": _quantiles(models["model"].lengths.counts([(t, None) for t in mine.column("text").to_pylist()])),
            "languages": _counted(there.column("language")),
            "topics": _counted(mine.column("topic")),
            "untold": _untold(config, mine),
            "looked": drawn.looked.get(origin, 0),
            "dropped": drawn.dropped.get(origin, {}),
            "examples": [shortened(t, _LONGEST) for t in _some(mine)] if quotable(origin) else [],
        }
    known = {name: named.licence for name, named in named_sources().items()}
    about = [
        {"source": s.label, "pin": pinned, "licence": known.get(s.name or s.path or "")}
        for s, pinned in zip(sources, pins, strict=True)
    ]
    return {
        "sources": about,
        "read": [asdict(counts) for counts in pool.counts],
        "too_long": len(frozen.too_long),
        "origins": of,
    }


def show(name: str, found: dict[str, Any]) -> None:
    """Tables for the terminal."""
    console = Console(highlight=False, width=max(110, Console().width))
    table = Table(
        "origin",
        *(Column(head, justify="right") for head in ("candidates", *SETS, "characters 5 %", "50 %", "95 %", "max")),
        box=None,
        pad_edge=False,
        title=name,
        title_justify="left",
    )
    for origin, of in found["origins"].items():
        lengths = [of["characters"][q] for q in ("p05", "p50", "p95", "max")] if of["characters"] else [None] * 4
        table.add_row(origin, *(count(n) for n in (of["candidates"], *(of[s] for s in SETS), *lengths)))
    console.print(table)
    for source in found["sources"]:
        licence = f", {source['licence']}" if source["licence"] else ""
        console.print(f"{source['source']} at {source['pin'][:12]}{licence}", markup=False, soft_wrap=True)
    for read in found["read"]:
        said = ", ".join(f"{reason} {count(n)}" for reason, n in read["dropped"].items()) or "nothing"
        console.print(f"{read['source']}: {count(read['rows'])} rows; dropped: {said}", markup=False, soft_wrap=True)
    for origin, of in found["origins"].items():
        for what, said in (("dropped", of["dropped"]), ("languages", of["languages"]), ("topics", of["topics"])):
            if said:
                looked = f" (of {count(of['looked'])} looked at)" if what == "dropped" and of["looked"] else ""
                listed = ", ".join(f"{reason} {count(n)}" for reason, n in said.items())
                console.print(f"{origin}, {what}{looked}: {listed}", markup=False, soft_wrap=True)
        if of["untold"]:
            said = "name their column in `tasks.sources`, or let a judge say it (`topics.judge`)"
            console.print(f"{origin}, no topic: {count(of['untold'])}; {said}", markup=False, soft_wrap=True)
        for text in of["examples"]:
            console.print(f"  {origin}: {text}", markup=False, soft_wrap=True)
        if not quotable(origin):
            console.print(f"  {origin}: its texts are not shown", markup=False)
    if found["too_long"]:
        console.print(f"beyond a model's context and dropped: {count(found['too_long'])}")


def _quantiles(lengths: Any) -> dict[str, int] | None:
    if lengths is None or not len(lengths):
        return None
    values = np.asarray(lengths)
    return {name: int(np.quantile(values, q, method="nearest")) for name, q in QUANTILES.items()}


def _untold(config: Config, tasks: pa.Table) -> int:
    """Tasks to be measured at whose lack of a topic the step topics would stop."""
    if config.topics.judge.by != "given":
        return 0
    return sum(row["topic"] is None and row["set"] != "pool" for row in tasks.select(["topic", "set"]).to_pylist())


def _counted(values: pa.ChunkedArray) -> dict[str, int]:
    """The most frequent first; nulls are left out."""
    found = [(one["values"], one["counts"]) for one in pc.value_counts(values.drop_null()).to_pylist()]
    return dict(sorted(found, key=lambda pair: (-pair[1], pair[0])))


def _some(tasks: pa.Table) -> list[str]:
    """A few texts, evenly along the ids."""
    texts: list[str] = tasks.column("text").to_pylist()
    return texts[:: -(-len(texts) // EXAMPLES)] if texts else []
