"""`prefprobe fit`: what goes in, what comes out, and the files that are refused with one sentence."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefprobe.cli import main
from prefprobe.store.formats import read_parquet
from prefprobe.thurstonian.fit import Comparisons, fit_utilities
from prefprobe.thurstonian.published import published_objective

FILES = ["fit.json", "utilities.csv", "utilities.parquet"]
HEADER = "task_a,task_b,choice\n"
ROW = {"task_a": "x", "task_b": "y", "choice": "a"}


def call(*args: object) -> int:
    try:
        main([str(a) for a in args])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


# name of the file, its content, what the sentence says
MALFORMED: dict[str, tuple[str, str | bytes, str]] = {
    "empty CSV": ("c.csv", "", r"c\.csv: holds no choices"),
    "empty JSONL": ("c.jsonl", "\n\n", r"c\.jsonl: holds no choices"),
    "empty Parquet": ("c.parquet", b"", r"c\.parquet: cannot be read as Parquet"),
    "header alone": ("c.csv", HEADER, r"c\.csv: holds no choices"),
    "Parquet without rows": ("c.parquet", parquet(task_a=[], task_b=[], choice=[]), r"holds no choices"),
    "truncated Parquet": (
        "c.parquet",
        parquet(task_a=["x"], task_b=["y"], choice=["a"])[:-9],
        r"cannot be read as Par",
    ),
    "CSV named Parquet": ("c.parquet", HEADER + "x,y,a\n", r"cannot be read as Parquet"),
    "wrong suffix": ("c.txt", HEADER + "x,y,a\n", r"c\.txt: files of choices end in \.parquet, \.jsonl, "),
    "no task_b": ("c.csv", "task_a,choice\nx,a\n", r"row 2: no `task_b`, found task_a, choice"),
    "no task_a": ("c.jsonl", jsonl({"task_b": "y", "choice": "a"}), r"row 1: no `task_a`"),
    "no outcome": ("c.parquet", parquet(task_a=["x"], task_b=["y"]), r"row 1: no `choice` or `p_a`"),
    "no header": ("c.csv", "x,y,a\nx,z,b\n", r"row 2: no `task_a`, found x, y, a"),
    "both outcomes": ("c.csv", "task_a,task_b,choice,p_a\nx,y,a,0.9\n", r"row 2: has both `choice` and `p_a`"),
    "outcomes of two kinds": (
        "c.jsonl",
        jsonl(ROW, {"task_a": "x", "task_b": "y", "p_a": 0.5}),
        r"row 2: has `p_a` where the rows before it have `choice`, expected one of them in every row; give `p_a` in all",
    ),
    "column twice": ("c.csv", "task_a,task_b,task_b,choice\nx,y,z,a\n", r"row 1: has `task_b` 2 times"),
    "member twice": (
        "c.jsonl",
        '{"task_a":"x","task_b":"y","choice":"a","choice":"b"}',
        r"row 1: has `choice` 2 times",
    ),
    "p_a NaN": ("c.jsonl", '{"task_a":"x","task_b":"y","p_a":NaN}', r"row 1: `p_a` is nan, expected a number from 0"),
    "p_a infinite": ("c.parquet", parquet(task_a=["x"], task_b=["y"], p_a=[np.inf]), r"row 1: `p_a` is inf"),
    "p_a above 1": ("c.csv", "task_a,task_b,p_a\nx,y,0.5\nx,z,1.01\n", r"row 3: `p_a` is 1\.01"),
    "p_a below 0": ("c.csv", "task_a,task_b,p_a\nx,y,-0.5\n", r"row 2: `p_a` is -0\.5"),
    "p_a a text": ("c.jsonl", jsonl({"task_a": "x", "task_b": "y", "p_a": "0.5"}), r"row 1: `p_a` is '0\.5'"),
    "p_a true": ("c.jsonl", jsonl({"task_a": "x", "task_b": "y", "p_a": True}), r"row 1: `p_a` is True"),
    "p_a missing": ("c.csv", "task_a,task_b,p_a\nx,y,\n", r"row 2: `p_a` is nothing"),
    "mixed types": (
        "c.jsonl",
        jsonl({"task_a": "x", "task_b": "y", "p_a": 0.5}, {"task_a": "x", "task_b": "y", "p_a": [0.5]}),
        r"row 2: `p_a` is \[0\.5\]",
    ),
    "unknown word": ("c.csv", HEADER + "x,y,a\nx,z,tie\n", r"row 3: `choice` is 'tie', expected a, b or refusal"),
    "choice null": ("c.parquet", parquet(task_a=["x"], task_b=["y"], choice=pa.nulls(1)), r"`choice` is nothing"),
    "choice a number": ("c.parquet", parquet(task_a=["x"], task_b=["y"], choice=[1]), r"row 1: `choice` is 1"),
    "count negative": ("c.csv", "task_a,task_b,choice,count\nx,y,a,-2\n", r"row 2: `count` is -2\.0"),
    "count NaN": ("c.csv", "task_a,task_b,choice,count\nx,y,a,nan\n", r"row 2: `count` is 'nan', expected a number"),
    "count endless": ("c.jsonl", jsonl({**ROW, "count": 10**400}), r"row 1: `count` is 1000"),
    "counts all 0": ("c.csv", "task_a,task_b,choice,count\nx,y,a,0\n", r"every row is a refusal or has `count` 0"),
    "only refusals": ("c.csv", HEADER + "x,y,refusal\nx,z,refusal\n", r"every row is a refusal"),
    "self comparison": ("c.csv", HEADER + "x,y,a\nx,x,b\n", r"row 3: `task_a` and `task_b` are both 'x'"),
    "null id": (
        "c.parquet",
        parquet(task_a=["x", None], task_b=["y", "y"], choice=["a", "a"]),
        r"row 2: `task_a` is n",
    ),
    "blank id": ("c.csv", HEADER + "x,  ,a\n", r"row 2: `task_b` is '  ', expected a task id"),
    "id a fraction": ("c.parquet", parquet(task_a=[1.0], task_b=["y"], choice=["a"]), r"row 1: `task_a` is 1\.0"),
    "id half a character": ("c.jsonl", jsonl({**ROW, "task_b": "\ud800"}), r"row 1: `task_b` is '\\ud800'"),
    "nested JSON": ("c.jsonl", jsonl({**ROW, "task_a": {"id": "x"}}), r"row 1: `task_a` is \{'id': 'x'\}"),
    "JSON list": ("c.jsonl", jsonl([ROW]), r"row 1: expected a JSON object"),
    "bad JSON line": ("c.jsonl", jsonl(ROW) + '{"task_a": "x",\n', r"row 2: not valid JSON"),
    "bottomless JSON": ("c.jsonl", "[" * 100_000, r"row 1: not a JSON object of plain values"),
    "bad UTF-8": ("c.csv", HEADER.encode() + b"x,y,a\nx,\xe9,a\n", r"row 3: byte 29 is not UTF-8"),
    "row too short": ("c.csv", HEADER + '"x\nx",y,a\nx,y\n', r"row 4: has 2 cells, expected 3"),
    "open quote": ("c.csv", HEADER + 'x,"y,a\n', r"row 2: not valid CSV"),
}


def refused(path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which `path` is refused."""
    assert call("fit", path, "--out", out) == 78
    assert sorted(p.name for p in out.parent.iterdir() if p != path) == []
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"prefprobe: [^\n]+; [^\n]+\.\n", said.err)
    return said.err


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_with_one_sentence(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, expected = MALFORMED[case]
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    sentence = refused(path, tmp_path / "out", capsys)
    assert re.search(expected, sentence)
    assert name in sentence


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "c.csv"
    folder.mkdir()
    assert "is a folder" in refused(folder, tmp_path / "out", capsys)
    folder.rmdir()
    assert "no such file" in refused(folder, tmp_path / "out", capsys)


ROWS: list[dict[str, Any]] = [
    {"task_a": a, "task_b": b, "choice": choice, "count": count}
    for a, b, choice, count in [
        ("ü\u2028x", "b", "a", 3.0),
        ("b", "ü\u2028x", "a", 1.0),
        ("b", '7,"q"', "b", 2.5),
        ('7,"q"', "ü\u2028x", "refusal", 4.0),
        ("12", "b", "a", 0.1),
        ("12", '7,"q"', "b", 0.2),
        ("12", "ü\u2028x", "refusal", 0.3),
    ]
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_bytes("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def fitted(path: Path, *options: object) -> dict[str, bytes]:
    out = path.parent / f"out of {path.name} {len(list(path.parent.iterdir()))}"
    assert call("fit", path, "--out", out, *options) == 0
    assert sorted(p.name for p in out.iterdir()) == FILES
    return {p.name: p.read_bytes() for p in out.iterdir()}


@pytest.mark.parametrize("options", [(), ("--compat", "reference"), ("--bootstrap", "20")])
def test_three_formats_and_any_order_give_the_same_bytes(options: tuple[str, ...], tmp_path: Path) -> None:
    first = fitted(write(tmp_path / "c.csv", ROWS), *options)
    assert fitted(write(tmp_path / "c.jsonl", ROWS), *options) == first
    assert fitted(write(tmp_path / "c.parquet", ROWS), *options) == first
    for seed in range(5):
        shuffled = [ROWS[k] for k in np.random.default_rng(seed).permutation(len(ROWS))]
        assert fitted(write(tmp_path / "shuffled.csv", shuffled), *options) == first


@pytest.mark.parametrize("name", ["c.csv", "c.jsonl"])
def test_a_byte_order_mark_changes_nothing(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, ROWS)
    plain = fitted(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert fitted(path) == plain


def test_whole_numbers_are_ids_in_every_format(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"task_a": 1, "task_b": 2, "p_a": 0.75},
        {"task_a": 2, "task_b": 30, "p_a": 1.0},
    ]
    text = fitted(write(tmp_path / "c.csv", rows))
    assert fitted(write(tmp_path / "c.jsonl", rows)) == text
    assert fitted(write(tmp_path / "c.parquet", rows)) == text


def test_the_tables_are_those_of_the_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = fitted(write(tmp_path / "c.jsonl", ROWS))
    assert "4 tasks" in capsys.readouterr().out
    expected = fit_utilities(
        Comparisons.from_choices(
            ["ü\u2028x", "b", "b", "12", "12"],
            ["b", "ü\u2028x", '7,"q"', "b", '7,"q"'],
            [1, 1, 0, 1, 0],
            [3, 1, 2.5, 0.1, 0.2],
        )
    )
    table = read_parquet(files["utilities.parquet"])
    assert table.schema == pa.schema(
        {"task_id": pa.string(), "mu": pa.float64(), "sigma": pa.float64(), "se": pa.float64()}
    )
    assert table["task_id"].to_pylist() == ["12", '7,"q"', "b", "ü\u2028x"]
    for name in ("mu", "sigma", "se"):
        np.testing.assert_array_equal(table[name].to_numpy(), getattr(expected, name))
    rows = list(csv.reader(io.StringIO(files["utilities.csv"].decode(), newline="")))
    assert rows[0] == ["task_id", "mu", "sigma", "se"]
    assert [(row[0], *map(float, row[1:])) for row in rows[1:]] == [tuple(row.values()) for row in table.to_pylist()]
    about = json.loads(files["fit.json"])
    assert (about["tasks"], about["pairs"], about["comparisons"], about["refusals"]) == (4, 4, 6.8, 4.3)
    assert (about["objective"], about["converged"]) == (expected.report.objective, True)
    assert about["objective_without_penalty"] == -expected.report.log_likelihood
    assert about["why"].startswith("Converged after")
    assert about["connected"]


def test_a_refusal_is_no_win_but_in_the_published_procedure(tmp_path: Path) -> None:
    rows = [{"task_a": "x", "task_b": "y", "choice": "a"}] * 2 + [
        {"task_a": "x", "task_b": "z", "choice": "refusal"}
    ] * 3
    path = write(tmp_path / "c.csv", rows)
    default, published = fitted(path), fitted(path, "--compat", "reference")
    mu = dict(zip("xyz", read_parquet(default["utilities.parquet"])["mu"].to_pylist(), strict=True))
    assert mu["x"] > 0.0 > mu["y"]
    assert mu["z"] == 0.0
    about = json.loads(default["fit.json"])
    assert (about["never_compared"], about["components"], about["connected"]) == (["z"], 2, False)
    assert (about["always_win"], about["always_lose"]) == (["x"], ["y"])
    table, about = read_parquet(published["utilities.parquet"]), json.loads(published["fit.json"])
    mu = dict(zip("xyz", table["mu"].to_pylist(), strict=True))
    assert mu["x"] == 0.0
    assert mu["z"] > 0.0
    assert (about["comparisons"], about["refusals"], about["never_compared"]) == (5.0, 3.0, [])
    assert about["why"].startswith("The published procedure met its own loose criterion")
    as_published = Comparisons.from_choices(["x", "x"], ["y", "z"], [1, 0], [2, 3])
    form = published_objective(as_published, table["mu"].to_numpy(), np.log(table["sigma"].to_numpy()))
    assert about["objective_published_form"] == pytest.approx(form, rel=1e-12)
    assert about["objective"] == pytest.approx(form, rel=1e-12)


def listed(path: Path, ids: list[str]) -> Path:
    """A list of tasks in the form that the suffix says."""
    if path.suffix == ".txt":
        path.write_bytes("\n".join(ids).encode() + b"\n")
        return path
    return write(path, [{"rank": k, "task_id": id_} for k, id_ in enumerate(ids)])


ORDER = ["never asked", "b", "ü\u2028x", '7,"q"', "12"]


@pytest.mark.parametrize("options", [(), ("--compat", "reference")])
def test_a_list_of_tasks_gives_the_order_and_the_gauge(options: tuple[str, ...], tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", ROWS)
    first = fitted(path, "--tasks", listed(tmp_path / "t.txt", ORDER[1:]), *options)
    table = read_parquet(first["utilities.parquet"])
    assert table["task_id"].to_pylist() == ORDER[1:]
    if options:
        assert table["mu"].to_pylist()[0] == 0.0
    else:
        alone = read_parquet(fitted(path)["utilities.parquet"])
        by_id = dict(zip(alone["task_id"].to_pylist(), alone["mu"].to_pylist(), strict=True))
        np.testing.assert_allclose(table["mu"].to_numpy(), [by_id[id_] for id_ in ORDER[1:]], atol=1e-6)
    with_more = fitted(path, "--tasks", listed(tmp_path / "more.txt", [*ORDER[1:], ORDER[0]]), *options)
    assert json.loads(with_more["fit.json"])["never_compared"] == ["never asked"]
    more = read_parquet(with_more["utilities.parquet"])
    assert more["task_id"].to_pylist() == [*ORDER[1:], ORDER[0]]
    assert (more["mu"].to_pylist()[-1], more["sigma"].to_pylist()[-1]) == (0.0, 1.0)


def test_a_list_of_tasks_is_read_in_every_form(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", ROWS)
    first = fitted(path, "--tasks", listed(tmp_path / "t.txt", ORDER))
    for name in ("t.csv", "t.jsonl", "t.parquet"):
        assert fitted(path, "--tasks", listed(tmp_path / name, ORDER)) == first
    for name, before, end in (("bom.txt", "\ufeff", "\n"), ("windows.txt", "", "\r\n"), ("blank.txt", "\n", "\n \n")):
        text = tmp_path / name
        text.write_bytes((before + end.join(ORDER)).encode())
        assert fitted(path, "--tasks", text) == first


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.txt", "\ufeffb\n12\n\nb\n", r"t\.txt row 4: task 'b' stands in t\.txt row 1 too, expected every task once"),
        ("t.csv", "task_id\nb\n12\n12\n", r"t\.csv row 4: task '12' stands in t\.csv row 3 too"),
        ("t.txt", 'b\n12\n7,"q"\n', r"c\.csv row 2: `task_a` is 'ü.*x', expected a task of the list of tasks"),
        ("t.txt", '12\nü\u2028x\n7,"q"\n', r"c\.csv row 2: `task_b` is 'b', expected a task of the list of tasks"),
        ("t.txt", "\n", r"t\.txt: holds no task ids"),
        ("t.txt", b"b\n\xe9\n", r"t\.txt row 2: byte 2 is not UTF-8"),
        ("t.txt", "b\na\0\n", r"t\.txt row 2: `task_id` is 'a\\x00', expected a task id"),
        ("t.csv", "id\nb\n", r"t\.csv row 2: no `task_id`, found id"),
        ("t.md", "b\n", r"t\.md: files of task ids end in \.parquet, .* or \.txt"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_with_one_sentence(
    name: str, content: str | bytes, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, tasks = write(tmp_path / "c.csv", ROWS), tmp_path / name
    tasks.write_bytes(content.encode() if isinstance(content, str) else content)
    assert call("fit", path, "--out", tmp_path / "out", "--tasks", tasks) == 78
    said = capsys.readouterr().err
    assert re.fullmatch(r"prefprobe: [^\n]+; [^\n]+\.\n", said)
    assert re.search(expected, said)
    assert not (tmp_path / "out").exists()


def test_a_tie_is_written_as_one_half(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.csv"
    path.write_text(HEADER + "x,y,a\nx,z,tie\n")
    assert re.search(r"; .*`p_a` \(1, 0, or 0\.5 of a tie\) in every row\.$", refused(path, tmp_path / "out", capsys))
    path.write_text("task_a,task_b,p_a\nx,y,1\nx,z,0.5\n")
    mu = read_parquet(fitted(path)["utilities.parquet"])["mu"].to_pylist()
    assert mu[0] == pytest.approx(mu[2], abs=0.1)
    assert mu[0] > mu[1] + 1.0


def test_bootstrap_adds_a_column_to_both_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "c.csv", ROWS)
    files = fitted(path, "--bootstrap", 20)
    errors = read_parquet(files["utilities.parquet"])["se_bootstrap"].to_numpy()
    assert (errors > 0.0).all()
    assert files["utilities.csv"].startswith(b'"task_id","mu","sigma","se","se_bootstrap"\n')
    assert call("fit", path, "--out", tmp_path / "few", "--bootstrap", 3) == 78
    assert "--bootstrap is 3" in capsys.readouterr().err
    assert not (tmp_path / "few").exists()


def test_results_of_others_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "c.csv", ROWS)
    out = tmp_path / "out"
    out.mkdir()
    assert call("fit", path, "--out", out) == 0
    before = (out / "fit.json").stat().st_mtime_ns
    assert call("fit", path, "--out", out) == 78
    assert "write into a new folder" in capsys.readouterr().err
    assert (out / "fit.json").stat().st_mtime_ns == before
    assert call("fit", path, "--out", path) == 78
    assert call("fit", path, "--out", path / "below a file") == 78
    assert "cannot be written" in capsys.readouterr().err


def test_all_files_are_written_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, whole = write(tmp_path / "c.csv", ROWS), Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "fit.json":
            raise OSError(28, "No space left on device")
        return whole(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert call("fit", path, "--out", tmp_path / "out") == 78
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]
