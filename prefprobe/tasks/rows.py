"""From the rows of a data set to tasks: which rows are tasks, and what is their id, text, topic, origin and language."""

import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.numbers import shortened
from prefprobe.settings import TaskSource
from prefprobe.tasks.files import pieces
from prefprobe.tasks.pool import text_id

SCHEMA = pa.schema([(name, pa.large_string()) for name in ("id", "text", "topic", "origin", "language")])
_LONGEST = 100
_SPACE = r"[\s\pZ\v\x{85}\x{1c}-\x{1f}]"
_NO_ID = rf"^{_SPACE}|{_SPACE}$|[\t\x00]"
"""White space around it, as `str.strip` takes it off, or a tab or NUL within."""
_USERS = ("user", "human")
"""How data sets call who speaks first."""


def read_rows(source: TaskSource, files: Sequence[Path], dropped: Counter[str]) -> tuple[pa.Table, int]:
    """The tasks of a source's files (SCHEMA), and how many rows there were; `dropped` counts those that are none, by reason.

    Raises InputMissing for a column that is not there, an id or an origin that is empty, and if no row is left.
    """
    found: list[pa.Table] = []
    read = 0
    for path in files:
        for piece in pieces(path, _columns(source)):
            read += piece.num_rows
            found.append(_tasks(source, piece, path, dropped))
    tasks = pa.concat_tables(found) if found else SCHEMA.empty_table()
    if not tasks.num_rows:
        said = ", ".join(f"{n:,} by {reason}" for reason, n in sorted(dropped.items()) if n) or "the files are empty"
        raise InputMissing(
            f"tasks of {source.label}: none of {read:,} rows is a task ({said}); correct the columns and filters of the source."
        )
    return tasks, read


def hashed_id(origin: str, text: str) -> str:
    """The id of a task of a data set without ids: the same text of the same origin, the same id."""
    return f"{origin}-{text_id(f'{origin} {text}')}"


def _columns(source: TaskSource) -> list[str]:
    named = [source.topic, source.origin, *source.where]
    for given in (source.id, source.text, source.language):
        if given is not None:
            named += [name for _, name in _template(given) if name] if "{" in given else [given]
    return named


def _tasks(source: TaskSource, rows: pa.Table, path: Path, dropped: Counter[str]) -> pa.Table:
    for name, value in source.where.items():
        if value is None:
            continue
        kept = _matches(_column(rows, name, path), value, name, source)
        dropped[f"`{name}`"] += rows.num_rows - pc.sum(kept).as_py() if rows.num_rows else 0
        rows = rows.filter(kept)
    texts = _text(source.text, rows, path)
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True)
    lengths = pc.fill_null(pc.utf8_length(texts), 0)
    reasons: list[tuple[str, Any]] = [("no text", blank)]
    if source.min_characters is not None:
        reasons.append(("min_characters", pc.less(lengths, source.min_characters)))
    if source.max_characters is not None:
        reasons.append(("max_characters", pc.greater(lengths, source.max_characters)))
    kept = np.ones(rows.num_rows, dtype=bool)
    for reason, beyond in reasons:
        out = kept & beyond.to_numpy(zero_copy_only=False)
        dropped[reason] += int(out.sum())
        kept &= ~out
    rows, texts = rows.filter(pa.array(kept)), texts.filter(pa.array(kept))
    origins = _origins(source, rows, path)
    columns = {
        "id": _ids(source, rows, texts, origins, path),
        "text": texts,
        "topic": _label(rows, source.topic, path, required=source.topic != "topic"),
        "origin": pa.array(origins, pa.large_string()),
        "language": _label(rows, source.language, path, required=source.language is not None),
    }
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _column(rows: pa.Table, name: str, path: Path) -> pa.Array:
    """A column, or a nested one, as one array."""
    top, *below = [name] if name in rows.column_names else name.split(".")
    if top in rows.column_names:
        values = rows.column(top).combine_chunks()
        values = values.chunk(0) if isinstance(values, pa.ChunkedArray) else values
        values = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
        for part in below:
            if not pa.types.is_struct(values.type) or values.type.get_field_index(part) < 0:
                break
            values = pc.struct_field(values, part)
        else:
            return values
    found = shortened(rows.schema.metadata[b"columns"].decode(), _LONGEST) or "nothing"
    raise InputMissing(f"{path.name}: no column `{name}`, found {found}; name the file's own in `tasks.sources`.")


def _matches(values: pa.Array, wanted: Any, name: str, source: TaskSource) -> pa.Array:
    options = wanted if isinstance(wanted, list) else [wanted]
    try:
        # as the column's own type, and back: 1 is not true, and "no" no number
        cast = pa.array(options).cast(values.type) if not pa.types.is_null(values.type) else None
        found = options if cast is None else cast.to_pylist()
        if any(a != b or isinstance(a, bool) != isinstance(b, bool) for a, b in zip(found, options, strict=True)):
            raise pa.ArrowInvalid("another value")
    except (pa.ArrowException, TypeError) as error:
        raise BadConfig(
            f"tasks of {source.label}: `where` wants `{name}` to be {wanted!r}, and the column holds {values.type}; "
            "correct the value."
        ) from error
    if cast is None:
        return pa.array(np.zeros(len(values), dtype=bool))
    return pc.fill_null(pc.is_in(values, cast), False)


def _template(text: str) -> list[tuple[str, str | None]]:
    """[(words, the column after them)] of a template."""
    try:
        parts = [(words, name) for words, name, _, _ in string.Formatter().parse(text)]
        if "" in (names := [name for _, name in parts if name is not None]) or not names:
            raise ValueError("it names no column")
        return parts
    except ValueError as error:
        raise BadConfig(f"tasks.sources: {text!r} is no template of columns ({error}); write `{{column}}`.") from error


def _text(given: str, rows: pa.Table, path: Path) -> pa.Array:
    """The texts of the rows, null where there is none; of a template without white space around it."""
    if "{" not in given:
        return _plain(_first(_column(rows, given, path)), given, path)
    joined: list[Any] = []
    for words, name in _template(given):
        joined += [pa.scalar(words, pa.large_string())] if words else []
        joined += [_plain(_column(rows, name, path), name, path)] if name else []
    texts = pc.binary_join_element_wise(
        *joined, pa.scalar("", pa.large_string()), null_handling="replace", null_replacement=""
    )
    return pc.utf8_trim_whitespace(texts.cast(pa.large_string()))


def _plain(values: pa.Array, name: str, path: Path) -> pa.Array:
    """Text and whole numbers as text."""
    kind = values.type
    if pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_text(kind):
        return values.cast(pa.large_string())
    raise InputMissing(f"{path.name}: `{name}` holds {str(kind)[:80]}, expected text; name another column.")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _first(values: pa.Array) -> pa.Array:
    """Of lists of texts the first, of conversations what the user says first; anything else as it is."""
    kind = values.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return values
    # a slice of a list array keeps the values before it
    inner, offsets = values.values, values.offsets.to_numpy().astype(np.int64)
    if pa.types.is_struct(kind.value_type):
        names = [field.name for field in kind.value_type]
        speaks, says = ("role", "content") if "role" in names else ("from", "value")
        if speaks not in names or says not in names:
            return values
        users = pc.is_in(pc.struct_field(inner, speaks), pa.array(_USERS))
        at = np.flatnonzero(pc.fill_null(users, False).to_numpy(zero_copy_only=False))
        inner = pc.struct_field(inner, says)
    else:
        at = np.arange(len(inner))
    first = np.searchsorted(at, offsets[:-1])
    there = first < len(at)
    rows = at[np.minimum(first, len(at) - 1)] if len(at) else np.zeros(len(values), dtype=np.int64)
    there &= (rows < offsets[1:]) & values.is_valid().to_numpy(zero_copy_only=False)
    return (
        inner.take(pa.array(np.where(there, rows, 0), mask=~there)) if len(inner) else pa.nulls(len(values), inner.type)
    )


def _label(rows: pa.Table, name: str | None, path: Path, *, required: bool) -> pa.Array:
    """A topic, origin or language: null where it is blank, or not there and not required."""
    if name is None or (not required and name not in rows.column_names):
        return pa.nulls(rows.num_rows, pa.large_string())
    values = pc.utf8_trim_whitespace(_plain(_column(rows, name, path), name, path))
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.large_string()), values)


def _origins(source: TaskSource, rows: pa.Table, path: Path) -> list[str]:
    if source.name is not None:
        return [source.name] * rows.num_rows
    default = source.hub.rpartition("/")[2] if source.hub else path.stem
    required = source.origin != "origin"
    found = _label(rows, source.origin, path, required=required)
    if required and found.null_count:
        raise InputMissing(
            f"{path.name}: `{source.origin}` is empty in {found.null_count:,} rows; give every task its origin, or leave "
            "`origin` out."
        )
    return [str(origin or default) for origin in found.to_pylist()]


def _ids(source: TaskSource, rows: pa.Table, texts: pa.Array, origins: Sequence[str], path: Path) -> pa.Array:
    ours = source.name is None and source.hub is None
    if source.id is None:
        said = texts.to_pylist()
        made = map(text_id, said) if ours else map(hashed_id, origins, said)
        return pa.array(made, pa.large_string())
    given = _text(source.id, rows, path)
    bad = pc.or_(pc.fill_null(pc.equal(given, ""), True), pc.match_substring_regex(given, _NO_ID))
    if (at := pc.index(pc.fill_null(bad, True), True).as_py()) >= 0:
        shown = given[at].as_py()
        raise InputMissing(
            f"{path.name}: `{source.id}` is {'empty' if not shown else repr(shown)[:60]} in a row, expected a task id without "
            "white space around it and without tabs; set `id: null` to have ids made of the texts."
        )
    if ours:
        return given
    return pc.binary_join_element_wise(pa.array(origins, pa.large_string()), given, pa.scalar("-", pa.large_string()))
