"""Reading task files: JSONL, CSV or Parquet with `id`, `text`, and optionally `topic` and `origin`.

A source is `demo` (the packaged set), a file, or a file in the store (`store:KEY`).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from prefprobe.errors import BadConfig
from prefprobe.sources import input_file
from prefprobe.store.objects import ObjectStore

DEMO = Path(__file__).parent / "demo.jsonl"


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
        raise BadConfig(f"{source}: no such task file; name a JSONL, CSV or Parquet file in `tasks.sources`.")
    return path


def read_tasks(paths: list[Path]) -> list[Task]:
    """All tasks of all files, sorted by id. Raises BadConfig naming file, row and what was expected."""
    seen: dict[str, str] = {}
    tasks = []
    for path in paths:
        for row, record in _records(path):
            where = f"{path.name} row {row}"
            task = Task(
                id=_text(record, "id", where),
                text=_text(record, "text", where),
                origin=str(record.get("origin") or path.stem),
                topic=None if record.get("topic") in (None, "") else str(record["topic"]),
            )
            if task.id in seen:
                raise BadConfig(f"{where}: the id {task.id!r} stands already in {seen[task.id]}; make every id unique.")
            seen[task.id] = where
            tasks.append(task)
    return sorted(tasks, key=lambda t: t.id)


def _text(record: dict[str, Any], column: str, where: str) -> str:
    if column not in record:
        raise BadConfig(
            f"{where}: no `{column}`; every task needs `id` and `text` (found {', '.join(record) or 'nothing'})."
        )
    value = record[column]
    if column == "id" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        shown = "nothing" if value is None else repr(value)[:40]
        raise BadConfig(f"{where}: `{column}` is {shown}, expected a non-empty string; correct or remove the row.")
    return value


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        if path.suffix == ".parquet":
            yield from enumerate(pa.parquet.read_table(path).to_pylist(), 1)
        elif path.suffix == ".csv":
            kinds = pa.csv.ConvertOptions(column_types={c: pa.string() for c in ("id", "text", "topic", "origin")})
            multiline = pa.csv.ParseOptions(newlines_in_values=True)
            yield from enumerate(pa.csv.read_csv(path, parse_options=multiline, convert_options=kinds).to_pylist(), 2)
        elif path.suffix in (".jsonl", ".ndjson"):
            # split on b"\n" alone: chat data holds U+2028, which str.splitlines takes for the end of a line
            for row, line in enumerate(path.read_bytes().split(b"\n"), 1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise BadConfig(f"{path.name} row {row}: expected a JSON object with `id` and `text`.")
                    yield row, record
        else:
            raise BadConfig(f"{path.name}: task files end in .jsonl, .csv or .parquet; convert the file.")
    except json.JSONDecodeError as error:
        raise BadConfig(f"{path.name} row {row}: not valid JSON ({error.msg} at column {error.colno}).") from error
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise BadConfig(f"{path.name}: cannot be read as {path.suffix[1:]}: {str(error).splitlines()[0]}") from error
