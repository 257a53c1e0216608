"""Reading task files of one's own: JSONL, CSV or Parquet with `id`, `text`, and optionally `topic` and `origin`.

A source is `demo` (the packaged set), a file, or a file in the store (`store:KEY`); its columns may have other names. Data
sets of the hub, and files of which only some rows are tasks, are read by `tasks/rows.py`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefprobe.errors import BadConfig
from prefprobe.records import Columns, Record, read_records
from prefprobe.settings import TaskSource
from prefprobe.settings.tasks import named_sources
from prefprobe.sources import input_file
from prefprobe.store.objects import ObjectStore

DEMO = Path(__file__).parent / "demo.jsonl"

_NO_TEXT = ("nan", "NaN", "inf", "-inf")
"""Numbers that are none, also as text: what is left of an empty cell when a table is written so."""


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
        named = ", ".join(["demo", *(name for name in named_sources() if name != "demo")])
        raise BadConfig(f"{source}: {found}; name a JSONL, CSV or Parquet file in `tasks.sources`, or one of {named}.")
    return path


def read_tasks(sources: Sequence[str | Path | TaskSource]) -> list[Task]:
    """All tasks of all files, sorted by id; "demo" is the packaged set, a `TaskSource` names the columns of its file.

    Raises BadConfig naming file, row and what was expected.
    """
    if isinstance(sources, str | Path):
        raise BadConfig(f"{sources}: expected a list of files; put it into a list.")
    seen: dict[str, str] = {}
    tasks: dict[str, Task] = {}
    for source in sources:
        named = source.whole if isinstance(source, TaskSource) else TaskSource(path=str(source))
        if not named.strict:
            raise BadConfig(
                f"{named.label}: not a file of tasks alone; draw from it by a study, or see `prefprobe tasks`."
            )
        for record, task in _tasks(named):
            if named.id is None and task.id in tasks and tasks[task.id].text == task.text:
                continue  # the same text is the same task
            if task.id in seen:
                raise BadConfig(
                    f"{record.where}: the id {task.id!r} stands already in {seen[task.id]}; make every id unique."
                )
            seen[task.id], tasks[task.id] = record.where, task
    return [tasks[id_] for id_ in sorted(tasks)]


def text_id(text: str) -> str:
    """The id of a task whose file has no column for it: the same text, the same id."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _tasks(source: TaskSource) -> Iterator[tuple[Record, Task]]:
    path = DEMO if source.path == "demo" else Path(source.path or "")
    named = [name for name in (source.id, source.text) if name is not None]
    for record in read_records(path, Columns("tasks", (*named, source.topic, source.origin), _needed(named))):
        text = task_text(record, source.text)
        id_ = text_id(text) if source.id is None else record.task_id(source.id)
        topic = _label(record, source.topic, required=source.topic != "topic")
        origin = _label(record, source.origin, required=source.origin != "origin")
        yield record, Task(id_, text, origin or path.stem, topic)


def _needed(named: list[str]) -> str:
    return f"every task {' and '.join(f'`{name}`' for name in named)}, or name the file's columns in `tasks.sources`"


def task_text(record: Record, column: str) -> str:
    """A task's text; of several turns the first, which is all that a model has before it answers.

    Raises BadConfig naming the row for one that is blank.
    """
    value = record.cell(column)
    text = value[0] if isinstance(value, list) and value and all(isinstance(turn, str) for turn in value) else value
    if not isinstance(text, str) or not text.strip():
        raise record.refusal(column, "text that is not blank, or a list of such texts")
    return text


def _label(record: Record, column: str, *, required: bool) -> str | None:
    """A topic or an origin, for which any plain value will do; None where the cell is blank, or not there and not required."""
    value = record.cell(column) if required else record.cells.get(column)
    if value is None:
        return None
    if not isinstance(value, str | int | float) or str(value).strip() in _NO_TEXT:
        raise record.refusal(column, "a text, or nothing")
    return str(value).strip() or None
