"""Reading choices from a file of one's own: Parquet, JSONL or CSV with `task_a`, `task_b` and `choice` or `p_a`.

`choice` is a, b or refusal; `p_a` is the probability of task_a, from 0 to 1. `count` (default 1) says how many
observations a row stands for. Other columns are not looked at. A file is read whole or refused with one sentence.
"""

import csv
import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefprobe.errors import BadConfig
from prefprobe.store.formats import read_parquet
from prefprobe.thurstonian.fit import Comparisons
from prefprobe.thurstonian.observations import Floats

_P_A = {"a": 1.0, "b": 0.0, "refusal": 0.0}
_COLUMNS = ("task_a", "task_b", "choice", "p_a", "count")
_MOST = 1e9
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

_Rows: TypeAlias = Iterator[tuple[int, dict[str, Any]]]
"""Each row under the number that a person sees: a line of a text file (a CSV's header is line 1), a Parquet row from 1."""


@dataclass(frozen=True, eq=False)
class Choices:
    """The rows of one file, in its order."""

    task_a: list[str]
    task_b: list[str]
    p_a: Floats
    """(rows,) probability that task_a was chosen; 0 for a refusal."""
    count: Floats
    """(rows,) observations that the row stands for, from 0 to 1e9."""
    refused: npt.NDArray[np.bool_]
    """(rows,) neither task was chosen."""

    def comparisons(self, *, refusals_lose: bool = False) -> Comparisons:
        """Pairs for the fit. A refusal tells nothing about them; with `refusals_lose` it counts for task_b, as published."""
        count = self.count if refusals_lose else np.where(self.refused, 0.0, self.count)
        return Comparisons.from_choices(self.task_a, self.task_b, self.p_a, count)


def read_choices(path: Path) -> Choices:
    """All choices of a file. Raises BadConfig naming file, row, column, what was expected and the next step."""
    if path.is_dir():
        raise BadConfig(f"{path} is a folder; name one .parquet, .jsonl or .csv file of choices.")
    if not path.is_file():
        raise BadConfig(f"{path}: no such file; name a .parquet, .jsonl or .csv file of choices.")
    if path.suffix not in _READERS:
        raise BadConfig(f"{path.name}: files of choices end in .parquet, .jsonl or .csv; convert the file.")
    task_a, task_b, p_a, count, refused = [], [], [], [], []
    kind = ""
    for row, record in _READERS[path.suffix](path):
        where = f"{path.name} row {row}"
        kind = kind or ("p_a" if "p_a" in record else "choice")
        if "choice" in record and "p_a" in record:
            raise BadConfig(f"{where}: has both `choice` and `p_a`, expected one of them; remove the other column.")
        a, b = (_task(_cell(record, column, where), column, where) for column in ("task_a", "task_b"))
        if a == b:
            raise BadConfig(f"{where}: `task_a` and `task_b` are both {a!r}, expected two tasks; remove the row.")
        value = _cell(record, kind, where)
        task_a.append(a)
        task_b.append(b)
        refused.append(value == "refusal")
        p_a.append(_word(value, where) if kind == "choice" else _number(value, kind, 1.0, where))
        count.append(_number(record["count"], "count", _MOST, where) if "count" in record else 1.0)
    choices = Choices(task_a, task_b, np.array(p_a), np.array(count), np.array(refused, dtype=bool))
    if not task_a:
        raise BadConfig(f"{path.name}: holds no choices, expected a row for each; check how it was written.")
    if not choices.count[~choices.refused].any():
        raise BadConfig(
            f"{path.name}: every row is a refusal or has `count` 0, expected some choices; measure other pairs."
        )
    return choices


def _cell(record: dict[str, Any], column: str, where: str) -> Any:
    if column not in record:
        wanted = "`choice` or `p_a`" if column == "choice" else f"`{column}`"
        found = ", ".join(str(name) for name in list(record)[:6]) or "nothing"
        raise BadConfig(
            f"{where}: no {wanted}, found {found}; give every row `task_a`, `task_b` and `choice` or `p_a`."
        )
    return record[column]


def _bad(value: Any, column: str, expected: str, where: str) -> BadConfig:
    shown = "nothing" if value is None else repr(value)[:60]
    return BadConfig(f"{where}: `{column}` is {shown}, expected {expected}; correct or remove the row.")


def _task(value: Any, column: str, where: str) -> str:
    """A task id. Whole numbers are taken as text, as they are in task files."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not text.strip() or any("\ud800" <= c <= "\udfff" for c in text):
        raise _bad(value, column, "a task id", where)
    return text


def _word(value: Any, where: str) -> float:
    if not isinstance(value, str) or value not in _P_A:
        raise _bad(value, "choice", "a, b or refusal", where)
    return _P_A[value]


def _number(value: Any, column: str, most: float, where: str) -> float:
    # NaN fails the comparison, and an integer of any length can be compared.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= most:
        raise _bad(value, column, f"a number from 0 to {most:g}", where)
    return float(value)


def _parquet(path: Path) -> _Rows:
    try:
        table = read_parquet(path.read_bytes())
        names = table.column_names
        _distinct(names, f"{path.name} schema")
        rows = table.select([name for name in names if name in _COLUMNS]).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise BadConfig(f"{path.name}: cannot be read as Parquet ({reason}); write the file again.") from error
    return enumerate(rows, 1)


def _jsonl(path: Path) -> _Rows:
    # Split on "\n" alone: chat data holds U+2028, which str.splitlines takes for the end of a line.
    for row, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path.name} row {row}"

        def members(pairs: list[tuple[str, Any]], where: str = where) -> dict[str, Any]:
            _distinct([name for name, _ in pairs], where)
            return dict(pairs)

        try:
            record = json.loads(line, object_pairs_hook=members)
        except json.JSONDecodeError as error:
            raise BadConfig(
                f"{where}: not valid JSON ({error.msg} at character {error.colno}); correct the line."
            ) from error
        except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
            raise BadConfig(f"{where}: not a JSON object of plain values; correct the line.") from error
        if not isinstance(record, dict):
            raise BadConfig(f"{where}: expected a JSON object with `task_a`, `task_b` and `choice`; correct the line.")
        yield row, record


def _csv(path: Path) -> _Rows:
    lines = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    header: list[str] = []
    row = 1
    try:
        for cells in lines:
            if cells and header and len(cells) != len(header):
                raise BadConfig(
                    f"{path.name} row {row}: has {len(cells)} cells, expected {len(header)} as in the header; correct the row."
                )
            if cells and header:
                yield row, {name: _csv_value(name, cell) for name, cell in zip(header, cells, strict=True)}
            elif cells:
                header = cells
                _distinct(header, f"{path.name} row {row}")
            row = lines.line_num + 1
    except csv.Error as error:
        raise BadConfig(f"{path.name} row {row}: not valid CSV ({error}); correct the row.") from error


_READERS = {".parquet": _parquet, ".jsonl": _jsonl, ".csv": _csv}


def _csv_value(name: str, cell: str) -> str | float | None:
    """A cell as the other formats have it: empty is nothing, and numbers are numbers."""
    if name in ("p_a", "count") and _NUMBER.fullmatch(cell):
        return float(cell)
    return cell or None


def _distinct(names: list[str], where: str) -> None:
    for name in _COLUMNS:
        if names.count(name) > 1:
            raise BadConfig(f"{where}: has `{name}` {names.count(name)} times, expected it once; remove the others.")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadConfig(f"{path}: cannot be read ({error.strerror}); check its permissions.") from error
    if data.startswith(BOM_UTF8):
        raise BadConfig(f"{path.name} row 1: begins with a byte-order mark, expected plain UTF-8; save it without one.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise BadConfig(
            f"{path.name} row {row}: byte {error.start} is not UTF-8, expected UTF-8; save it so."
        ) from error
