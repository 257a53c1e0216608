"""The one reader of users' files, through both of its callers: what is read, and what is refused with one sentence."""

import contextlib
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefprobe.errors import BadConfig
from prefprobe.tasks.pool import Task, read_tasks
from prefprobe.thurstonian.choice_files import read_choices

TASK = {"id": "i", "text": "t", "topic": "m"}
CHOICE = {"task_a": "x", "task_b": "y", "choice": "a"}
READERS: dict[str, tuple[Callable[[Path], Any], dict[str, str], str]] = {
    "tasks": (lambda path: read_tasks([path]), TASK, "text"),
    "choices": (read_choices, CHOICE, "task_b"),
}

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ['"', '""', "a,b", "l\nm", "\r", "\r\n", "\u2028", "\ufeff", "NA", "null", "7", " ", "\x85", "\0"]
)
labels = words.filter(lambda word: word.strip() not in ("nan", "NaN", "inf", "-inf"))
tasks = st.lists(
    st.fixed_dictionaries({"text": words.filter(str.strip), "topic": labels, "origin": labels}), min_size=1, max_size=5
).map(lambda rows: [{"id": f"t{i}", **row} for i, row in enumerate(rows)])


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def as_csv(rows: list[dict[str, str]], quoting: Any = csv.QUOTE_MINIMAL, end: str = "\n") -> str:
    text = io.StringIO(newline="")
    if any("\r" in value for row in rows for value in row.values()):
        quoting = csv.QUOTE_ALL  # else the writer leaves a carriage return bare, which ends a row for any reader
    writer = csv.DictWriter(text, list(rows[0]), quoting=quoting, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_jsonl(rows: list[dict[str, Any]], ascii_: bool = False) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=ascii_) for row in rows)


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@settings(max_examples=200, deadline=None)
@given(tasks, st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_csv_is_read_as_another_library_reads_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], quoting: int, end: str, mark: bool
) -> None:
    """The oracle is Arrow's reader, which has no code in common with the one in use."""
    data = as_csv(rows, quoting, end).encode()
    path = written(tmp_path_factory.mktemp("csv") / "f.csv", b"\xef\xbb\xbf" * mark + data)
    strings = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(rows[0], pa.string()))
    multiline = pyarrow.csv.ParseOptions(newlines_in_values=True)
    oracle = pyarrow.csv.read_csv(path, parse_options=multiline, convert_options=strings).to_pylist()
    expected = [Task(r["id"], r["text"], r["origin"].strip() or "f", r["topic"].strip() or None) for r in oracle]
    assert read_tasks([path]) == expected


@settings(max_examples=100, deadline=None)
@given(tasks, st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n \t\n"]))
def test_three_formats_hold_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], ascii_: bool, end: str
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    expected = [Task(r["id"], r["text"], r["origin"].strip() or "f", r["topic"].strip() or None) for r in rows]
    lines = end.join(as_jsonl([row], ascii_) for row in rows) + end
    files = [
        written(folder / "f.jsonl", lines),
        written(folder / "f.ndjson", "\ufeff" + lines),
        written(folder / "f.csv", as_csv(rows)),
        as_parquet(folder / "f.parquet", rows),
    ]
    for file in files:
        assert read_tasks([file]) == expected, file.name


def bad_files(good: dict[str, str], column: str) -> dict[str, tuple[str, str | bytes, str]]:
    """Name of the file, its content, what the sentence says; `column` is one that must be there."""
    head, line = as_csv([good]).split("\n")[:2]
    row, other = as_jsonl([good]), as_jsonl([{k: v + "2" for k, v in good.items() if k != "choice"}])
    assert good.keys() >= {column}
    return {
        "empty": ("f.csv", "", r"f\.csv: holds no "),
        "empty JSONL": ("f.jsonl", "", r"f\.jsonl: holds no "),
        "a mark alone": ("f.jsonl", b"\xef\xbb\xbf", r"f\.jsonl: holds no "),
        "header alone": ("f.csv", head + "\n", r"f\.csv: holds no "),
        "no bytes of Parquet": ("f.parquet", b"", r"f\.parquet: cannot be read as Parquet"),
        "another format": ("f.parquet", f"{head}\n{line}\n", r"f\.parquet: cannot be read as Parquet"),
        "compressed": ("f.jsonl.gz", b"\x1f\x8b", r"f\.jsonl\.gz: files of \w+ end in .*; unpack or convert"),
        "compressed, with another name": ("f.csv", b"\x1f\x8b\x08", r"f\.csv row 1: byte 1 is not UTF-8"),
        "capitals": ("f.CSV", f"{head}\n{line}\n", r"f\.CSV: files of \w+ end in "),
        "UTF-16": ("f.csv", f"{head}\n{line}\n".encode("utf-16"), r"f\.csv row 1: byte 0 is not UTF-8"),
        "UTF-16 without a mark": ("f.csv", f"{head}\n{line}\n".encode("utf-16-le"), r"f\.csv row 1: holds a NUL byte"),
        "Latin-1": (
            "f.csv",
            f"{head},z\n{line},\n{line},é\n".encode("latin-1"),
            r"f\.csv row 3: byte \d+ is not UTF-8",
        ),
        "Latin-1 in JSONL": ("f.jsonl", f'{row}\n{{"z": "é"}}'.encode("latin-1"), r"f\.jsonl row 2: byte \d+ is not"),
        "too many cells": ("f.csv", f"{head}\n\n{line},z\n", r"f\.csv row 3: has 4 cells, expected 3"),
        "too few cells": (
            "f.csv",
            f'{head}\n"n\nn",{line[2:]}\n"x"\n',
            r"f\.csv row 4: has 1 cells, expected 3",
        ),
        "more after a quote": ("f.csv", f'{head}\n"x"y,z,a\n', r"f\.csv row 2: not valid CSV"),
        "open quote": ("f.csv", f'{head}\n"x,y,a\n', r"f\.csv row 2: not valid CSV"),
        "column twice": ("f.csv", f"{head},{column}\n{line},z\n", rf"f\.csv row 1: has `{column}` 2 times"),
        "member twice": ("f.jsonl", f'{row[:-1]}, "{column}": "z"}}', rf"f\.jsonl row 1: has `{column}` 2 times"),
        "no column": ("f.csv", f"{head.replace(column, 'z')}\n{line}\n", rf"f\.csv row 2: no `{column}`, found .*z"),
        "a name of two lines": ("f.jsonl", '{"a\\nb": 1}', r"f\.jsonl row 1: no `\w+`, found a b; give every "),
        "list": ("f.jsonl", f"{row}\n[1]", r"f\.jsonl row 2: expected a JSON object; give every "),
        "cut line": ("f.jsonl", f"{row}\n\n{other[:-3]}", r"f\.jsonl row 3: not valid JSON"),
        "bottomless": ("f.jsonl", row + "\n" + '{"z":' * 100_000, r"f\.jsonl row 2: not a JSON object of plain values"),
        "endless number": ("f.jsonl", f'{row}\n{{"z": {"1" * 5000}}}', r"f\.jsonl row 2: not a JSON object of plain"),
        "white space that is none": ("f.jsonl", f"{row}\n\u00a0\n", r"f\.jsonl row 2: not valid JSON"),
        "half a character": (
            "f.jsonl",
            as_jsonl([good | {column: "\ud83d"}], True),
            rf"row 1: `{column}` is '\\ud83d'",
        ),
        "NaN": ("f.jsonl", as_jsonl([good | {column: float("nan")}]), rf"row 1: `{column}` is nan"),
        "blank": ("f.jsonl", as_jsonl([good | {column: " "}]), rf"row 1: `{column}` is ' '"),
        "null": ("f.jsonl", as_jsonl([good | {column: None}]), rf"row 1: `{column}` is nothing"),
        "no text": ("f.jsonl", as_jsonl([good | {column: {"a": 1}}]), rf"row 1: `{column}` is \{{'a': 1\}}"),
    }


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", bad_files(TASK, "text"))
def test_both_refuse_the_same_files(reader: str, case: str, tmp_path: Path) -> None:
    read, good, column = READERS[reader]
    name, content, expected = bad_files(good, column)[case]
    with pytest.raises(BadConfig, match=expected) as refused:
        read(written(tmp_path / name, content))
    assert re.fullmatch(r".+; .+\.", str(refused.value))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("id_", [" x", "x\n", "x\u00a0", "x\ty", "\t"])
def test_ids_have_no_white_space_around_them_and_no_tab(id_: str, tmp_path: Path) -> None:
    for (read, good, _), column in ((READERS["tasks"], "id"), (READERS["choices"], "task_a")):
        good = good | {column: id_}
        for path in (written(tmp_path / "f.jsonl", as_jsonl([good])), as_parquet(tmp_path / "f.parquet", [good])):
            with pytest.raises(BadConfig, match=rf"{path.name} row 1: `{column}` is .*, expected a task id"):
                read(path)
        assert read(written(tmp_path / "f.jsonl", as_jsonl([good | {column: "x y"}])))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_byte_order_mark_is_read_by_both(reader: str, suffix: str, tmp_path: Path) -> None:
    read, good, _ = READERS[reader]
    text = as_csv([good]) if suffix == "csv" else as_jsonl([good])
    plain = str(read(written(tmp_path / f"f.{suffix}", text)))
    assert str(read(written(tmp_path / f"f.{suffix}", "\ufeff" + text))) == plain


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("depth", [900, 20_000])
@pytest.mark.parametrize("asked", [True, False])
def test_what_is_nested_deeply_is_read_past_or_refused_and_no_traceback(
    reader: str, depth: int, asked: bool, tmp_path: Path
) -> None:
    """Where it becomes too deep to be read at all is the interpreter's own business."""
    read, good, column = READERS[reader]
    row = as_jsonl([{k: v for k, v in good.items() if not (asked and k == column)}])
    name = column if asked else "z"
    path = written(tmp_path / "f.jsonl", f'{row[:-1]}, "{name}": {"[" * depth}1{"]" * depth}}}')
    with pytest.raises(BadConfig) if asked else contextlib.suppress(BadConfig) as refused:
        read(path)
    said = str(refused.value) if refused else ""
    assert re.match(rf"(f\.jsonl row 1: (`{name}` is \[|not a JSON object of plain values)|$)", said)


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_a_missing_file_and_one_that_may_not_be_read(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, good, _ = READERS[reader]
    path = tmp_path / "f.csv"
    with pytest.raises(BadConfig, match=r"f\.csv: no such file; name one|f\.csv: no such file; name a"):
        read(path)
    path.mkdir()
    with pytest.raises(BadConfig, match=r"f\.csv is a folder; name one"):
        read(path)
    path.rmdir()
    written(path, as_csv([good]))

    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(BadConfig, match=r"f\.csv: cannot be read \(Permission denied\)"):
        read(path)


@pytest.mark.parametrize("reader", READERS)
def test_parquet_with_a_column_twice(reader: str, tmp_path: Path) -> None:
    read, good, column = READERS[reader]
    table = pa.table([[v] for v in (*good.values(), "z")], names=[*good, column])
    pq.write_table(table, tmp_path / "f.parquet")
    with pytest.raises(BadConfig, match=rf"f\.parquet schema: has `{column}` 2 times"):
        read(tmp_path / "f.parquet")
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "f.parquet")
    with pytest.raises(BadConfig, match=r"f\.parquet row 1: no `\w+`, found a, b; give every "):
        read(tmp_path / "f.parquet")


@pytest.mark.parametrize("reader", READERS)
def test_names_of_columns_with_half_a_character_are_shown_in_a_sentence_that_can_be_written(
    reader: str, tmp_path: Path
) -> None:
    read, _, _ = READERS[reader]
    with pytest.raises(BadConfig, match=r"found \\ud83d; give") as refused:
        read(written(tmp_path / "f.jsonl", '{"\\ud83d": 1}'))
    assert str(refused.value).encode("utf-8")


@pytest.mark.parametrize("reader", READERS)
def test_what_nobody_asks_for_is_not_looked_at(reader: str, tmp_path: Path) -> None:
    read, good, column = READERS[reader]
    plain = read(written(tmp_path / "f.csv", as_csv([good])))
    nested = {column: 1, "z": float("nan"), "half": "\ud800", "deep": [[[{column: None}]]]}
    line = as_jsonl([good | {"z": nested}], True).replace('"half"', f'"{column}"')  # twice, but not as the row's own
    head, row = as_csv([good]).split("\n")[:2]
    wide = pa.table({k: [v] for k, v in good.items()} | {"z": [[0.0, float("inf")]], "b": [b"\xff"]})
    pq.write_table(wide, tmp_path / "f.parquet")
    others = [
        written(tmp_path / "f.jsonl", line),
        written(tmp_path / "f.csv", f"{head},z,z,\n{row},\0,1,\n"),
        tmp_path / "f.parquet",
    ]
    for path in others:
        assert str(read(path)) == str(plain), path.name


def test_a_text_longer_than_the_csv_module_likes(tmp_path: Path) -> None:
    before, text = csv.field_size_limit(), "long, " * 100_000
    path = written(tmp_path / "f.csv", as_csv([TASK | {"text": text}]))
    assert read_tasks([path])[0].text == text
    assert csv.field_size_limit() == before
