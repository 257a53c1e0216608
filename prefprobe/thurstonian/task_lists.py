"""Reading a list of tasks in the order that a fit shall have: text with one id a line, or a column `task_id` of a table."""

from pathlib import Path

from prefprobe.errors import BadConfig
from prefprobe.records import Columns, read_records

_COLUMNS = Columns("task ids", ("task_id",), "every row a `task_id`", lines="task_id")


def read_task_ids(path: Path) -> list[str]:
    """All task ids of a .txt, CSV, JSONL or Parquet file, in its order. Raises BadConfig as `read_records` does, and for an
    id that stands twice.
    """
    rows: dict[str, str] = {}
    for record in read_records(path, _COLUMNS):
        task_id = record.task_id("task_id")
        if task_id in rows:
            raise BadConfig(
                f"{record.where}: task {task_id!r} stands in {rows[task_id]} too, expected every task once; remove one."
            )
        rows[task_id] = record.where
    return list(rows)
