"""From a claim of the report back to what it came from: numbers, rows, keys, parameters, and the commands that show them."""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prefprobe.errors import BadConfig
from prefprobe.numbers import count
from prefprobe.study.graph import Node
from prefprobe.study.run import Run

_SHOWN = 160
"""Characters of a parameter's value that are printed."""


@dataclass(frozen=True)
class Evidence:
    """One output that a claim rests on."""

    node: str
    file: str
    path: tuple[str, ...] = ()
    """Where the number stands in a JSON file."""
    only: tuple[str, str] | None = None
    """The rows that count in a table: those with this value in this column."""


def why(run: Run, claim_id: str) -> Iterator[str]:
    """The lines that `prefprobe why` prints.

    Raises InputMissing if the run has no report yet or an output is gone, BadConfig for a claim that the verdict lacks, naming
    those that it has, or why it was not run.
    """
    verdict = run.json("report", "verdict.json")
    entry = _entry(verdict, claim_id)
    yield f"{entry['id']}: {entry.get('claim') or entry['check']}"
    yield f"  {entry['verdict']}: {entry['why']}"
    for name in ("value", "low", "high", "published", "expected", "p", "p_holm"):
        if entry.get(name) is not None:
            yield f"  {name}: {_short(entry[name])}"
    yield f"  rule: {entry['rule']}"

    found = evidence(str(entry["id"]))
    yield ""
    yield "It rests on"
    for at in found:
        yield from _described(run, at)

    yield ""
    yield "These were computed from (key, seconds, parameters)"
    yield from _lineage(run, {at.node for at in found})

    yield ""
    yield "To see the numbers and the rows"
    for at in found:
        yield f"  {command(run, at)}"
    url = shlex.quote(run.objects.url)
    for node in dict.fromkeys(at.node for at in found):
        yield f"  prefprobe step {node} --run {run.id} --store {url} --out rows/{node}"


def evidence(claim_id: str) -> list[Evidence]:
    """The outputs that a claim of `verdict.json` is made of, by its id."""
    if claim_id == "reliability":
        return [
            Evidence("measure.train", "measure.json", ("reliability",)),
            Evidence("measure.train", "choices.parquet"),
        ]
    if claim_id.startswith("shift_"):
        name = claim_id.removeprefix("shift_")
        return [
            Evidence("shift", "shift.json", ("experiments", name)),
            Evidence("shift", "points.parquet", only=("experiment", name)),
        ]
    kind, _, other = claim_id.partition("_above_")
    features = ["model", other] if other else ["model"]
    if kind == "cross_topic":
        numbers = [Evidence(f"hoo.{name}", "hoo.json", (key,)) for name in features for key in ("mean", "folds")]
        return numbers + [Evidence(f"hoo.{name}", "predictions.parquet") for name in features]
    target = "demeaned" if kind == "heldout_demeaned" else "raw"
    number = "accuracy" if kind == "heldout_accuracy" else "r"
    numbers = [Evidence(f"probe.{name}", "probe.json", ("targets", target, number)) for name in features]
    numbers += [Evidence(f"probe.{name}", "predictions.parquet", only=("target", target)) for name in features]
    return numbers + ([Evidence("measure.eval", "choices.parquet")] if number == "accuracy" else [])


def command(run: Run, at: Evidence) -> str:
    """A shell command that prints the JSON value, or one row a line."""
    q = json.dumps  # double quotes, so that the shell's single ones need no escape
    of = f"Run.open({q(run.objects.url)}, {q(run.id)})"
    if at.file.endswith(".json"):
        value = f"{of}.json({q(at.node)}, {q(at.file)})" + "".join(f"[{q(key)}]" for key in at.path)
        code = f"import json; from prefprobe import Run; print(json.dumps({value}, indent=1))"
    else:
        only = f" if row[{q(at.only[0])}] == {q(at.only[1])}" if at.only else ""
        rows = f"{of}.table({q(at.node)}, {q(at.file)}).to_pylist()"
        code = f"from prefprobe import Run; [print(row) for row in {rows}{only}]"
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"


def _entry(verdict: Mapping[str, Any], claim_id: str) -> dict[str, Any]:
    wanted = claim_id.removeprefix("claim-").replace("-", "_")
    entries = [*verdict["claims"], *verdict["checks"]]
    for entry in entries:
        if entry["id"] == claim_id or entry["id"].replace("-", "_") == wanted:
            return dict(entry)
    for missing in verdict["not_run"]:
        if missing["id"].replace("-", "_") == wanted:
            raise BadConfig(f"{missing['id']} was not run: {missing['why']} Set it, and run the study again.")
    known = ", ".join(entry["id"] for entry in entries)
    raise BadConfig(f"there is no claim {claim_id!r} in this run’s verdict; its claims are {known}.")


def _described(run: Run, at: Evidence) -> Iterator[str]:
    key = run.finished(at.node).key
    if at.file.endswith(".json"):
        value = run.json(at.node, at.file)
        for name in at.path:
            value = value[name]
        yield f"  {at.node} ({key[:12]}) {at.file}: {'.'.join(at.path)} = {_short(value)}"
        return
    table = run.table(at.node, at.file)
    n, which = table.num_rows, ""
    if at.only:
        column, wanted = at.only
        n, which = sum(value == wanted for value in table.column(column).to_pylist()), f" with {column} = {wanted}"
    yield f"  {at.node} ({key[:12]}) {at.file}: {count(n)} rows{which}; columns {', '.join(table.column_names)}"


def _lineage(run: Run, nodes: set[str]) -> Iterator[str]:
    """Every node that these read, directly or not, the nearest last; parameters once where shards share them."""
    wanted: set[str] = set()
    todo = list(nodes)
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += run.nodes[name].reads
    said: set[str] = set()
    for name, node in run.nodes.items():
        if name not in wanted:
            continue
        manifest = run.finished(name)
        seconds = manifest.meta.get("seconds")
        yield f"  {name}  {manifest.key[:12]}  {'' if seconds is None else f'{seconds:g} s'}".rstrip()
        lines = list(_parameters(node))
        if "\n".join(lines) in said:
            yield "      the same parameters as the shard above"
            continue
        said.add("\n".join(lines))
        yield from lines


def _parameters(node: Node) -> Iterator[str]:
    for key, value in node.params.items():
        if key != "shard":
            yield f"      {key}: {_short(value)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
