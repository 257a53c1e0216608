"""Records out of a user's JSONL, CSV or Parquet file: read whole, or refused with one sentence.

A sentence names the file, the row that a person sees (a line of a text file, where a CSV's header is line 1; in Parquet
a row from 1), the column, what was expected, and the next step. Columns that nobody asks for are not looked at.
"""

import csv
import io
import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from prefprobe.errors import BadConfig
from prefprobe.numbers import shortened
from prefprobe.store.formats import read_parquet

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".csv")

_LONGEST = 60
LARGEST = 3.4028235e38
"""The largest number of float32, and of a user's numbers: what comes of their squares is finite in float64."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_HALF = re.compile("[\ud800-\udfff]")
"""Half of a character beyond U+FFFF, which JSON can spell and no other text can hold."""

_Rows: TypeAlias = Iterator[tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class Columns:
    """What is asked of a file."""

    of: str
    """What a row is, in the plural: tasks, choices."""
    texts: Sequence[str]
    needed: str
    """Which columns every row needs, as a sentence ends: "every task `id` and `text`"."""
    numbers: Sequence[str] = ()
    """Columns in which a CSV's cells are numbers if they look like one."""
    lines: str = ""
    """The column that stands alone in a .txt file, one cell a line; without it no such file is read."""

    @property
    def all(self) -> list[str]:
        """Every column that is asked for."""
        return [*self.texts, *self.numbers]


@dataclass(frozen=True)
class Record:
    """One row: its cells by column, None where a cell is empty."""

    where: str
    """File and row, as sentences begin."""
    cells: Mapping[str, Any]
    columns: Columns

    def __contains__(self, column: str) -> bool:
        return column in self.cells

    def cell(self, column: str, named: str = "") -> Any:
        """A cell that must be there, if only empty; `named` is what the sentence calls it."""
        if column not in self.cells:
            names = ", ".join(map(str, self.cells)).encode("utf-8", "backslashreplace").decode()
            found = shortened(names, _LONGEST) or "nothing"
            raise BadConfig(f"{self.where}: no {named or f'`{column}`'}, found {found}; give {self.columns.needed}.")
        return self.cells[column]

    def task_id(self, column: str) -> str:
        """A cell that names a task. Whole numbers are taken as text.

        No white space stands around it, so that ids that look alike are the same, and no tab within, which separates two
        ids in the rows of features. Numpy's strings cannot hold a NUL at their end.
        """
        value = self.cell(column)
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(text, str) or not text.strip() or "\0" in text:
            raise self.refusal(column, "a task id (text that is not blank, or a whole number)")
        if text != text.strip() or "\t" in text:
            raise self.refusal(column, "a task id without white space around it and without tabs")
        return text

    def number(self, column: str, least: float = -LARGEST, most: float = LARGEST) -> float:
        """A cell that is a finite number, from `least` to `most`; by default one of float32."""
        value = self.cell(column)
        # NaN fails the comparison, and an integer of any length can be compared.
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            bounds = [f"from {least:g}"] * (least != -LARGEST) + [f"to {most:g}"] * (most != LARGEST)
            within = " ".join(["a number", *bounds]) if bounds else "a finite number within float32"
            raise self.refusal(column, within)
        return float(value)

    def refusal(self, column: str, expected: str, step: str = "correct or remove the row") -> BadConfig:
        """The error for a cell that is not what was expected, with the next step."""
        value = self.cells[column]
        shown = "nothing" if value is None else repr(value)[:_LONGEST]
        return BadConfig(f"{self.where}: `{column}` is {shown}, expected {expected}; {step}.")


def read_records(path: Path, columns: Columns) -> Iterator[Record]:
    """All rows of a file, in its order. Raises BadConfig for a file that is not there or not what its suffix says, for a
    column that stands twice, for half a character in a text column, and for a file without rows.
    """
    suffixes = (*SUFFIXES, ".txt") if columns.lines else SUFFIXES
    if path.is_dir():
        raise BadConfig(f"{path} is a folder; name one {_either(suffixes)} file of {columns.of}.")
    if not path.is_file():
        raise BadConfig(f"{path}: no such file; name a {_either(suffixes)} file of {columns.of}.")
    if path.suffix not in suffixes:
        raise BadConfig(f"{path.name}: files of {columns.of} end in {_either(suffixes)}; unpack or convert the file.")
    read = {".parquet": _parquet, ".csv": _csv, ".txt": _txt}.get(path.suffix, _jsonl)
    empty = True
    for row, cells in read(path, columns):
        empty = False
        record = Record(f"{path.name} row {row}", cells, columns)
        for column in columns.texts:
            value = cells.get(column)
            if any(
                isinstance(text, str) and _HALF.search(text) for text in (value if isinstance(value, list) else [value])
            ):
                raise record.refusal(column, "whole characters and no half of one")
        yield record
    if empty:
        raise BadConfig(f"{path.name}: holds no {columns.of}, expected a row for each; check how it was written.")


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _parquet(path: Path, columns: Columns) -> _Rows:
    try:
        table = read_parquet(_bytes(path))
        names = table.column_names
        _once(names, columns, f"{path.name} schema")
        # other columns may be wide: they are there by name alone
        rows = table.select([name for name in names if name in columns.all]).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise BadConfig(f"{path.name}: cannot be read as Parquet ({reason}); write the file again.") from error
    return enumerate((dict.fromkeys(names) | row for row in rows), 1)


def _jsonl(path: Path, columns: Columns) -> _Rows:
    # Split on "\n" alone: chat data holds U+2028, which str.splitlines takes for the end of a line.
    for row, line in enumerate(_text(path).split("\n"), 1):
        line = line.removeprefix("\ufeff")  # of a file that was joined to others
        if not line.strip(string.whitespace):
            continue
        where = f"{path.name} row {row}"
        members: list[str] = []

        def remember(pairs: list[tuple[str, Any]], members: list[str] = members) -> dict[str, Any]:
            members[:] = [name for name, _ in pairs]  # the outermost object is the last to be whole
            return dict(pairs)

        try:
            record = json.loads(line, object_pairs_hook=remember)
        except json.JSONDecodeError as error:
            raise BadConfig(
                f"{where}: not valid JSON ({error.msg} at character {error.colno}); correct the line."
            ) from error
        except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
            raise BadConfig(f"{where}: not a JSON object of plain values; correct the line.") from error
        if not isinstance(record, dict):
            raise BadConfig(f"{where}: expected a JSON object; give {columns.needed}.")
        _once(members, columns, where)
        yield row, record


def _txt(path: Path, columns: Columns) -> _Rows:
    lines = enumerate(_text(path).split("\n"), 1)
    return ((row, {columns.lines: line.removesuffix("\r")}) for row, line in lines if line.strip(string.whitespace))


def _csv(path: Path, columns: Columns) -> _Rows:
    header: list[str] = []
    for row, cells in _lines(path):
        where = f"{path.name} row {row}"
        if not header:
            header = cells
            _once(header, columns, where)
        elif len(cells) != len(header):
            raise BadConfig(
                f"{where}: has {len(cells)} cells, expected {len(header)} as in the header; correct the row."
            )
        else:
            yield (
                row,
                {
                    name: float(cell) if name in columns.numbers and _NUMBER.fullmatch(cell) else cell or None
                    for name, cell in zip(header, cells, strict=True)
                },
            )


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """The cells of every line that is not empty, under the number of the line on which it begins."""
    text = _text(path)
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    row, found = 1, []
    limit = csv.field_size_limit(len(text) + 1)  # a task may be longer than the module's own limit of 128 KiB
    try:
        for cells in lines:
            if cells:
                found.append((row, cells))
            row = lines.line_num + 1
    except csv.Error as error:
        raise BadConfig(f"{path.name} row {row}: not valid CSV ({error}); correct the row.") from error
    finally:
        csv.field_size_limit(limit)
    return found


def _once(names: Sequence[str], columns: Columns, where: str) -> None:
    for name in columns.all:
        if names.count(name) > 1:
            raise BadConfig(f"{where}: has `{name}` {names.count(name)} times, expected it once; remove the others.")


def _text(path: Path) -> str:
    """The file's text, without the byte-order mark that Excel puts before it."""
    data = _bytes(path)
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise BadConfig(
            f"{path.name} row {row}: byte {error.start} is not UTF-8, expected UTF-8; save it so."
        ) from error
    if re.match(r"[^\r\n]*\0", text):  # UTF-16 that does not say so; a cell below may hold one, as chat data do
        raise BadConfig(f"{path.name} row 1: holds a NUL byte, expected text in UTF-8; save it so.")
    return text


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadConfig(f"{path}: cannot be read ({error.strerror}); check its permissions.") from error
