"""Rows of data sets become tasks: formats, columns, filters, ids; and each way in which a source can be wrong."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.settings import TaskSettings, TaskSource
from prefprobe.settings.tasks import named_sources, quotable
from prefprobe.store.objects import ObjectStore
from prefprobe.tasks.candidates import Candidates, read_candidates
from prefprobe.tasks.located import fetched, local_files, pin

Rows = Sequence[Mapping[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=7)
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(rows), ensure_ascii=False), "utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path, **keys: Any) -> Candidates:
    source = TaskSource(path=str(path), **keys).whole
    return read_candidates([source], [local_files(source, ObjectStore.open(str(path.parent / "store")))])


def conversation(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": text, "toxic": False, "more": {"a": 1}} for role, text in turns]


SAID: list[dict[str, Any]] = [
    {
        "conversation": conversation(
            ("user", "Name three rivers.\u2028Short ones."), ("assistant", "No."), ("user", "Why?")
        )
    },
    {"conversation": conversation(("system", "Be kind."), ("user", "Write a limerick."), ("assistant", "x" * 2000))},
    {"conversation": conversation(("user", "Nommez trois fleuves.")), "language": "French"},
    {"conversation": conversation(("user", "Swear at me, now.")), "toxic": True},
    {"conversation": conversation(("user", "My name is NAME.")), "redacted": True},
    {"conversation": conversation(("assistant", "I speak first and alone."))},
    {"conversation": []},
    {"conversation": conversation(("user", "Hi."))},
    {"conversation": conversation(("user", "long " * 300))},
    {"conversation": conversation(("user", "   \n "))},
]
CHATS = [{"language": "English", "toxic": False, "redacted": False, "hash": i, **row} for i, row in enumerate(SAID)]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json"])
def test_conversations_give_what_their_user_says_first(tmp_path: Path, suffix: str) -> None:
    found = read(write(tmp_path / f"chats{suffix}", CHATS), name="wildchat")
    assert set(found.table.column("text").to_pylist()) == {"Name three rivers.\u2028Short ones.", "Write a limerick."}
    assert set(found.table.column("language").to_pylist()) == {"English"}
    (counts,) = found.counts
    reasons = {"`language`": 1, "`toxic`": 1, "`redacted`": 1, "no text": 3, "min_characters": 1, "max_characters": 1}
    assert (counts.rows, counts.dropped) == (10, reasons)
    asked = read(tmp_path / f"chats{suffix}", name="wildchat", where={"toxic": None, "language": ["English", "French"]})
    assert {"Swear at me, now.", "Nommez trois fleuves."} < set(asked.table.column("text").to_pylist())


def test_other_shapes_of_turns(tmp_path: Path) -> None:
    rows = [{"id": 1, "c": [{"from": "system", "value": "s"}, {"from": "human", "value": "Say a."}]}]
    assert read(write(tmp_path / "sharegpt.jsonl", rows), text="c", min_characters=1).texts == {"1": "Say a."}
    listed: Rows = [{"id": "a", "c": ["Say b.", "And c."]}, {"id": "b", "c": None}]
    assert read(write(tmp_path / "turns.parquet", listed), text="c", min_characters=1).texts == {"a": "Say b."}
    nested: Rows = [
        {"id": "a", "row": {"q": "Say d.", "kind": {"n": 2}}},
        {"id": "b", "row": {"q": "Say e.", "kind": {"n": 3}}},
    ]
    for suffix in ("parquet", "jsonl"):
        path = write(tmp_path / f"nested.{suffix}", nested)
        assert read(path, text="row.q", where={"row.kind.n": 3}).texts == {"b": "Say e."}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text("ab ", max_size=4)), max_size=4),
        min_size=1,
        max_size=20,
    ),
    st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_the_first_turn_agrees_with_a_loop(tmp_path_factory: Any, chats: list[Any], kept: list[bool]) -> None:
    """Filters before it cut the arrays into slices, and lists may be empty."""
    rows: list[dict[str, Any]] = [
        {"id": str(i), "c": conversation(*turns), "keep": keep}
        for i, (turns, keep) in enumerate(zip(chats, kept, strict=False))
    ]
    expected = {}
    for row in rows:
        said = next((turn["content"] for turn in row["c"] if turn["role"] == "user"), "")
        if row["keep"] and said.strip():
            expected[row["id"]] = said
    path = write(tmp_path_factory.mktemp("chats") / "c.jsonl", rows)
    if expected:
        assert read(path, text="c", where={"keep": True}).texts == expected
    else:
        with pytest.raises(InputMissing, match=r"none of \d+ rows is a task"):
            read(path, text="c", where={"keep": True})


def test_half_a_character_is_no_text_and_costs_its_row_alone(tmp_path: Path) -> None:
    (tmp_path / "half.jsonl").write_text('{"query": "Say \\ud83d."}\n{"query": "Say \\ud83d\\ude00."}\n')
    found = read(tmp_path / "half.jsonl", name="stress_test")
    assert list(found.texts.values()) == ["Say \U0001f600."]
    assert found.counts[0].dropped == {"no text": 1}


def test_categories_are_texts(tmp_path: Path) -> None:
    kinds = pa.array(["x", "y", "x"]).dictionary_encode()
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": kinds, "kind": kinds}), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet", where={"kind": "x"}, topic="kind").texts == {"a": "x", "c": "x"}


def test_templates_join_columns(tmp_path: Path) -> None:
    rows = [{"instruction": "Sum up.", "input": "A text, {so} it is."}, {"instruction": "Count to ten.", "input": ""}]
    for suffix in ("json", "csv", "parquet"):
        found = read(write(tmp_path / f"a.{suffix}", rows), name="alpaca")
        assert set(found.texts.values()) == {"Sum up.\n\nA text, {so} it is.", "Count to ten."}
    numbered = [{"chunk": 3, "entry": 1, "query": "Q"}]
    assert read(write(tmp_path / "n.jsonl", numbered), id="{chunk}-{entry}", text="query").texts == {"3-1": "Q"}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "json", "csv"])
def test_ids_are_those_of_shuffled_files_and_of_other_formats(tmp_path: Path, suffix: str) -> None:
    rows = [{"content": f"Do thing {i % 40}.", "category": "c"} for i in range(50)]
    first = read(write(tmp_path / "a.jsonl", rows), name="bailbench")
    Random(3).shuffle(rows)
    other = read(write(tmp_path / f"b.{suffix}", rows), name="bailbench")
    assert other.table.equals(first.table)
    assert len(first) == 40
    assert all(id_.startswith("bailbench-") for id_ in first.texts)


def test_files_of_a_folder_are_one_source_in_any_order(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for name, ids in (("x", range(5)), ("y", range(5, 9))):
        write(folder / f"{name}.jsonl", [{"query": f"Q{i}"} for i in ids])
    store = ObjectStore.open(str(tmp_path / "store"))
    source = TaskSource(name="stress_test", path=str(folder)).whole
    pinned = pin(source, store)
    assert len(read_candidates([source], [fetched(source, pinned, store)])) == 9
    (folder / "x.jsonl").rename(folder / "z.jsonl")
    assert pin(source, store) == pinned
    write(folder / "z.jsonl", [{"query": "other"}])
    with pytest.raises(BadConfig, match="has changed since the run was started"):
        fetched(source, pinned, store)


GOOD = [{"id": "a", "text": "Say it.", "kind": "x", "n": 1}, {"id": "b", "text": "Sing it.", "kind": "y", "n": 2}]


@pytest.mark.parametrize(
    ("rows", "keys", "error", "said"),
    [
        (GOOD, {"text": "query"}, InputMissing, r"no column `query`, found id, text, kind, n; name the file's own"),
        (GOOD, {"text": "{text} {more}"}, InputMissing, r"no column `more`"),
        (GOOD, {"text": "{text"}, BadConfig, r"no template of columns"),
        (GOOD, {"text": "kind.x"}, InputMissing, r"no column `kind\.x`"),
        (GOOD, {"origin": "from"}, InputMissing, r"no column `from`"),
        (GOOD, {"where": {"lang": "x"}}, InputMissing, r"no column `lang`"),
        (GOOD, {"where": {"kind": "z"}}, InputMissing, r"none of 2 rows is a task \(2 by `kind`\); correct"),
        (GOOD, {"where": {"n": "one"}}, BadConfig, r"`where` wants `n` to be 'one', and the column holds int64"),
        (GOOD, {"where": {"n": True}}, BadConfig, r"`where` wants `n` to be True"),
        (GOOD, {"min_characters": 100}, InputMissing, r"none of 2 rows is a task \(2 by min_characters\)"),
        ([*GOOD, {**GOOD[0], "id": None}], {"min_characters": 1}, InputMissing, r"`id` is empty in a row"),
        ([{**GOOD[0], "id": " a"}], {"min_characters": 1}, InputMissing, r"`id` is ' a' in a row.*set `id: null`"),
        (
            [{**GOOD[0], "kind": " "}],
            {"origin": "kind", "min_characters": 1},
            InputMissing,
            r"`kind` is empty in 1 rows",
        ),
        ([*GOOD, {**GOOD[0], "text": "Else."}], {"min_characters": 1}, InputMissing, r"id 'a' stands for two texts"),
        ([{**GOOD[0], "text": 1.5}], {"min_characters": 1}, InputMissing, r"`text` holds double, expected text"),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_wrong_source_is_one_sentence(
    tmp_path: Path, suffix: str, rows: Rows, keys: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        read(write(tmp_path / f"t.{suffix}", rows), **{"max_characters": 10_000, **keys})
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("t.csv", b"id,text,text\na,x,y\n", r"cannot be read as CSV \(the column `text` stands 2 times\)"),
        ("t.parquet", b"PAR1 no", r"^t\.parquet: cannot be read as PARQUET \("),
        ("t.jsonl", b'{"id": "a", "text": "x"}\n{"id":', r"^t\.jsonl: cannot be read as JSONL \(row 2: "),
        ("t.jsonl", b"[1]\n", r"row 1 is no object"),
        ("t.json", b'{"a": 1}', r"it holds no array of objects"),
        ("t.json", b"[" * 100_000, r"cannot be read as JSON"),
        ("t.csv", b"id,text\na\n", r"line 2: 1 cells, expected 2"),
        ("t.csv", b'id,text\na,"\xff"\n', r"cannot be read as CSV"),
        ("t.jsonl", b"", r"none of 0 rows is a task \(the files are empty\)"),
        (
            "t.jsonl",
            b'{"id": "a", "text": "x"}\n{"id": "b", "text": 5.5}\n',
            r"cannot be read as JSONL \(`text` holds fr",
        ),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputMissing, match=said):
        read(tmp_path / name, min_characters=1)


def test_a_column_that_stands_twice_in_parquet_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([["a"], ["x"], ["y"]], names=["id", "text", "text"]), tmp_path / "t.parquet")
    with pytest.raises(InputMissing, match=r"the column `text` stands 2 times"):
        read(tmp_path / "t.parquet", min_characters=1)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_what_is_not_asked_for_may_be_of_any_kind(tmp_path: Path, suffix: str) -> None:
    rows = [
        {
            "said": [{"from": "human", "value": f"Task {i}.", "weight": 1 if i else "1"}],
            "at": {"q": str(i), "z": i or ""},
        }
        for i in range(3)
    ]
    found = read(write(tmp_path / f"t.{suffix}", rows), id="at.q", text="said", min_characters=1)
    assert found.texts == {str(i): f"Task {i}." for i in range(3)}


def test_whole_numbers_among_ids_are_text_of_any_length(tmp_path: Path) -> None:
    rows = [{"id": id_, "text": f"Task {id_}."} for id_ in ("a", 7, 2**70)]
    path = write(tmp_path / "t.jsonl", rows)
    assert list(read(path, min_characters=1).texts) == list(read(path).texts) == [str(2**70), "7", "a"]


@pytest.mark.parametrize("text", ["{}", "{{}}", "{} {text}"])
def test_a_template_names_columns(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadConfig, match="is no template of columns \\(it names no column\\); write"):
        read(write(tmp_path / "t.jsonl", GOOD), text=text)


@pytest.mark.parametrize("id_", ["a ", "\xa0a", "a\u2003", "a\x1d", "\x85a", "a\tb"])
def test_ids_have_no_white_space_around_them_however_they_are_read(tmp_path: Path, id_: str) -> None:
    path = write(tmp_path / "t.jsonl", [{**GOOD[0], "id": id_}])
    for keys in ({}, {"min_characters": 1}):
        with pytest.raises((BadConfig, InputMissing), match="without white space around it"):
            read(path, **keys)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"sources": ["alpaca"]}, r"alpaca is under CC BY-NC 4\.0: set `tasks\.non_commercial` to true"),
        ({"sources": [{"name": "alpaca", "path": "x.json"}]}, r"alpaca is under CC BY-NC"),
        ({"sources": ["bailbench"]}, r"no place is known for bailbench: say where it is by `path` or `hub`"),
        ({"sources": [{"name": "wildcat"}]}, r"no source named wildcat; named are demo, wildchat"),
        ({"sources": [{"path": "x", "hub": "a/b"}]}, r"not both"),
        ({"sources": [{"text": "x"}]}, r"a source has a `name`, a `path` or"),
        ({"sources": [{"path": "x", "revision": "main"}]}, r"`revision` is of a `hub`"),
        ({"sources": ["x.csv"], "quotas": "published"}, r"the published pool has no tasks of x\.csv"),
        ({"quotas": {"a": 0}}, r"greater than 0"),
        ({"quotas": {}}, r"at least 1 item"),
        ({"near_duplicates": 0.3}, r"greater than or equal to 0\.7"),
    ],
)
def test_wrong_settings_of_sources_are_named(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TaskSettings(n_train=10, n_eval=10, **keys)


def test_named_sources_say_what_may_be_done_with_them() -> None:
    assert set(named_sources()) == {"demo", "wildchat", "alpaca", "math", "bailbench", "stress_test"}
    assert {name for name, of in named_sources().items() if of.non_commercial} == {"alpaca"}
    assert [quotable(o) for o in ("bailbench", "stress_test", "wildchat", "mine", None)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert sum(of.published or 0 for of in named_sources().values()) == 30_000
    given = TaskSettings(
        n_train=10, n_eval=10, non_commercial=True, sources=["demo", "alpaca", {"name": "math", "text": "q"}]
    )
    again = TaskSettings(**json.loads(json.dumps(given.model_dump(mode="json"))))
    assert again.all_sources == given.all_sources
    assert [source.text for source in again.all_sources] == ["text", "{instruction}\n\n{input}", "q"]
