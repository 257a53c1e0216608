"""Reading the files of a data set in pieces, and of them only the columns that are asked for: Parquet, JSONL, JSON, CSV."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prefprobe.errors import InputMissing

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv")
ROWS = 8192
"""Rows that are in memory at once: of conversations some tens of megabytes."""
_BUFFER = 1 << 20
"""Bytes."""
_OF_A_TURN = ("role", "content", "from", "value")
"""Of a list of objects these alone are read: what a turn is, and whose."""


def pieces(path: Path, columns: Iterable[str]) -> Iterator[pa.Table]:
    """Tables of some thousand rows with those of `columns` that the file has, in the order of the file.

    A column `a.b` is `b` within `a`. JSONL is cut at line feeds alone, and a JSON file holds an array of objects. Raises
    InputMissing for a file that is not what its suffix says, with the row where there is one.
    """
    wanted = sorted(set(columns))
    tops = {name.partition(".")[0] for name in wanted} | set(wanted)
    read = {".parquet": _parquet, ".csv": _csv, ".json": _json}.get(path.suffix, _jsonl)
    try:
        yield from read(path, tops)
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160].rstrip(".")
        kind = path.suffix.removeprefix(".").upper()
        raise InputMissing(
            f"{path.name}: cannot be read as {kind} ({reason}); fetch or write the file again, or name others by `files`."
        ) from error


def _parquet(path: Path, tops: set[str]) -> Iterator[pa.Table]:
    # read through a small buffer: a mapped file, or a column chunk read whole, would count as memory
    with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
        leaves = [file.schema.column(i).path for i in range(len(file.schema))]
        chosen = [leaf for leaf in leaves if _asked(leaf, tops)]
        for batch in file.iter_batches(ROWS, columns=chosen, use_threads=False):
            yield _named(pa.Table.from_batches([batch]), dict.fromkeys(leaf.partition(".")[0] for leaf in leaves))


def _asked(leaf: str, tops: set[str]) -> bool:
    top, _, below = leaf.partition(".")
    if leaf in tops:
        return True
    if top not in tops:
        return False
    of_list = below.partition(".")[0] == "list" and below.count(".") == 2  # conversation.list.element.role
    return not of_list or below.rpartition(".")[2] in _OF_A_TURN


def _jsonl(path: Path, tops: set[str]) -> Iterator[pa.Table]:
    def rows() -> Iterator[dict[str, Any]]:
        with path.open("rb") as file:  # bytes: their lines end in line feeds alone, and chat data hold U+2028
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
                    except ValueError as error:
                        raise ValueError(f"row {number}: {error}") from error
                    yield _object(row, number)

    return _tables(rows(), tops)


def _json(path: Path, tops: set[str]) -> Iterator[pa.Table]:
    rows = json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    if not isinstance(rows, list):
        raise ValueError("it holds no array of objects")
    return _tables((_object(row, number) for number, row in enumerate(rows, 1)), tops)


def _csv(path: Path, tops: set[str]) -> Iterator[pa.Table]:
    limit = csv.field_size_limit(max(path.stat().st_size, 1 << 17))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])

            def rows() -> Iterator[dict[str, Any]]:
                for cells in lines:
                    if cells and len(cells) != len(header):
                        raise ValueError(f"line {lines.line_num}: {len(cells)} cells, expected {len(header)}")
                    if cells:
                        yield {name: cell or None for name, cell in zip(header, cells, strict=True)}

            yield from _tables(rows(), tops)
    finally:
        csv.field_size_limit(limit)


def _object(row: Any, number: int) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"row {number} is no object")
    return row


def _tables(rows: Iterator[dict[str, Any]], tops: set[str]) -> Iterator[pa.Table]:
    while some := list(islice(rows, ROWS)):
        names: Sequence[str] = sorted({name for row in some for name in row.keys() & tops})
        table = pa.table({name: _array([row.get(name) for row in some]) for name in names})
        yield _named(table, dict.fromkeys(name for row in some for name in row))


def _array(cells: list[Any]) -> pa.Array:
    try:
        return pa.array(cells)
    except UnicodeEncodeError:  # half of a character, which JSON can spell and no text can hold: the cell has no text
        return pa.array([cell if _is_whole(cell) else None for cell in cells])


def _is_whole(cell: Any) -> bool:
    try:
        json.dumps(cell, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _named(piece: pa.Table, names: Iterable[str]) -> pa.Table:
    """With the names of all columns of the file, for sentences on those that are not there."""
    return piece.replace_schema_metadata({"columns": ", ".join(names)})
