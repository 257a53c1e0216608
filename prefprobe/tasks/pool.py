"""Reading task files: JSONL, CSV or Parquet with `id`, `text`, and optionally `topic` and `origin`.

A source is `demo` (the packaged set), a file, or a file in the store (`store:KEY`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefprobe.errors import BadConfig
from prefprobe.records import Columns, Record, read_records
from prefprobe.sources import input_file
from prefprobe.store.objects import ObjectStore

DEMO = Path(__file__).parent / "demo.jsonl"

_COLUMNS = Columns("tasks", ("id", "text", "topic", "origin"), "every task `id` and `text`")


@dataclass(frozen=True)
class Task:
    """One prompt that a model could be given."""

    id: str
    text: str
    origin: str
    topic: str | None


def source_path(source: str, objects: ObjectStore) -> Path:
    """The file of a source. Raises BadConfig if there is none."""
    path = DEMO if source == "demo" else input_file(source, objects)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such task file"
        raise BadConfig(f"{source}: {found}; name a JSONL, CSV or Parquet file in `tasks.sources`.")
    return path


def read_tasks(paths: Sequence[str | Path]) -> list[Task]:
    """All tasks of all files, sorted by id; "demo" is the packaged set.

    Raises BadConfig naming file, row and what was expected.
    """
    if isinstance(paths, str | Path):
        raise BadConfig(f"{paths}: expected a list of files; put it into a list.")
    seen: dict[str, str] = {}
    tasks = []
    for path in (DEMO if name == "demo" else Path(name) for name in paths):
        for record in read_records(path, _COLUMNS):
            task = Task(
                id=record.task_id("id"),
                text=_text(record),
                origin=(_label(record, "origin") if record.cells.get("origin") else None) or path.stem,
                topic=_label(record, "topic"),
            )
            if task.id in seen:
                raise BadConfig(
                    f"{record.where}: the id {task.id!r} stands already in {seen[task.id]}; make every id unique."
                )
            seen[task.id] = record.where
            tasks.append(task)
    return sorted(tasks, key=lambda t: t.id)


def _text(record: Record) -> str:
    value = record.cell("text")
    if not isinstance(value, str) or not value.strip():
        raise record.refusal("text", "text that is not blank")
    return value


def _label(record: Record, column: str) -> str | None:
    """A topic or an origin, for which any plain value will do; None where the cell is empty or not there."""
    value = record.cells.get(column)
    if value is None or value == "":
        return None
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise record.refusal(column, "a text")
    return str(value)
