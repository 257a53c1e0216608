"""Reading the files of a data set in pieces, and of them only the columns that are asked for: Parquet, JSONL, JSON, CSV."""

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from prefprobe.errors import InputMissing

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv")
ROWS = 8192
"""Rows that are in memory at once: of conversations some tens of megabytes."""
_BUFFER = 1 << 20
"""Bytes."""
_KINDS = {str: "texts", int: "numbers", float: "fractions", bool: "truth values", list: "lists", dict: "objects"}
_Tops: TypeAlias = Mapping[str, set[str]]
"""{column: what is asked for within it}; nothing is all of it."""
_OF_A_TURN = ("role", "content", "from", "value")
"""Of a list of objects these alone are read: what a turn is, and whose."""


def pieces(path: Path, columns: Iterable[str]) -> Iterator[pa.Table]:
    """Tables of some thousand rows with those of `columns` that the file has, in the order of the file.

    A column `a.b` is `b` within `a`. JSONL is cut at line feeds alone, and a JSON file holds an array of objects. Raises
    InputMissing for a file that is not what its suffix says, with the row where there is one, and for a column that stands
    twice.
    """
    wanted = sorted(set(columns))
    tops = {name: set[str]() for name in wanted} | {name.partition(".")[0]: set[str]() for name in wanted}
    for name in wanted:
        top, _, below = name.partition(".")
        tops[top] |= {below} - {""}
    read = {".parquet": _parquet, ".csv": _csv, ".json": _json}.get(path.suffix, _jsonl)
    try:
        yield from read(path, tops)
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160].rstrip(".")
        kind = path.suffix.removeprefix(".").upper()
        raise InputMissing(
            f"{path.name}: cannot be read as {kind} ({reason}); fetch or write the file again, or name others by `files`."
        ) from error


def _parquet(path: Path, tops: _Tops) -> Iterator[pa.Table]:
    # read through a small buffer: a mapped file, or a column chunk read whole, would count as memory
    with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
        leaves = [file.schema.column(i).path for i in range(len(file.schema))]
        _once(file.schema_arrow.names, tops)
        chosen = [leaf for leaf in leaves if _asked(leaf, tops)]
        for batch in file.iter_batches(ROWS, columns=chosen, use_threads=False):
            yield _named(pa.Table.from_batches([batch]), dict.fromkeys(leaf.partition(".")[0] for leaf in leaves))


def _asked(leaf: str, tops: _Tops) -> bool:
    top, _, below = leaf.partition(".")
    if leaf in tops:
        return True
    if top not in tops:
        return False
    of_list = below.partition(".")[0] == "list" and below.count(".") == 2  # conversation.list.element.role
    return not of_list or below.rpartition(".")[2] in _OF_A_TURN


def _jsonl(path: Path, tops: _Tops) -> Iterator[pa.Table]:
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


def _json(path: Path, tops: _Tops) -> Iterator[pa.Table]:
    rows = json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    if not isinstance(rows, list):
        raise ValueError("it holds no array of objects")
    return _tables((_object(row, number) for number, row in enumerate(rows, 1)), tops)


def _csv(path: Path, tops: _Tops) -> Iterator[pa.Table]:
    limit = csv.field_size_limit(max(path.stat().st_size, 1 << 17))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            _once(header, tops)

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


def _once(names: Sequence[str], tops: _Tops) -> None:
    twice = next((name for name in names if name in tops and names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the column `{twice}` stands {names.count(twice)} times")


def _tables(rows: Iterator[dict[str, Any]], tops: _Tops) -> Iterator[pa.Table]:
    while some := list(islice(rows, ROWS)):
        names: Sequence[str] = sorted({name for row in some for name in row.keys() & tops.keys()})
        table = pa.table({name: _array(name, [_read(row.get(name), tops[name]) for row in some]) for name in names})
        yield _named(table, dict.fromkeys(name for row in some for name in row))


def _read(cell: Any, below: Collection[str]) -> Any:
    """Of a list of objects what makes a turn, and of an object what is asked for: what else is in them may be of any kind."""
    if isinstance(cell, list):
        return [{k: turn[k] for k in _OF_A_TURN if k in turn} if isinstance(turn, dict) else turn for turn in cell]
    if not isinstance(cell, dict) or not below:
        return cell
    parts = [name.partition(".") for name in below]
    return {
        top: _read(cell[top], {rest for first, _, rest in parts if first == top and rest})
        for top in sorted({first for first, _, _ in parts} & cell.keys())
    }


def _array(name: str, cells: list[Any]) -> pa.Array:
    try:
        return pa.array(cells)
    except UnicodeEncodeError:  # half of a character, which JSON can spell and no text can hold: the cell has no text
        return _array(name, [cell if _is_whole(cell) else None for cell in cells])
    except (pa.ArrowException, OverflowError) as error:
        kinds = {type(cell) for cell in cells if cell is not None}
        if kinds <= {str, int}:  # ids some of which are numbers, or numbers of any length
            return pa.array([cell if cell is None else str(cell) for cell in cells])
        if len(kinds) > 1:
            said = " and ".join(sorted(_KINDS.get(kind, kind.__name__) for kind in kinds))
            raise ValueError(f"`{name}` holds {said}") from error
        raise ValueError(f"`{name}`: {error}") from error


def _is_whole(cell: Any) -> bool:
    try:
        json.dumps(cell, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _named(piece: pa.Table, names: Iterable[str]) -> pa.Table:
    """With the names of all columns of the file, for sentences on those that are not there."""
    return piece.replace_schema_metadata({"columns": ", ".join(names)})
