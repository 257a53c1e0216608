"""Task files and task sets."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefprobe.errors import BadConfig
from prefprobe.settings import TaskSource
from prefprobe.store.objects import ObjectStore
from prefprobe.tasks.pool import DEMO, Task, read_tasks, source_path, text_id
from prefprobe.tasks.sampling import sample_sets, shard_of, task_set

ROWS = [
    {"id": "a", "text": "first\u2028line {name}", "topic": "x", "origin": "o"},
    {"id": "b", "text": 'second, "quoted"\nline', "topic": "y", "origin": "o"},
]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    halves = "\\ud83d" in json.dumps(rows)
    path.write_text("".join(json.dumps(r, ensure_ascii=halves) + "\n" for r in rows), "utf-8")
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_three_formats_give_the_same_tasks(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    sources = [
        write_jsonl(tmp_path / "t.jsonl", ROWS),
        write_csv(tmp_path / "t.csv", ROWS),
        tmp_path / "t.parquet",
    ]
    first, second, third = (read_tasks([s]) for s in sources)
    assert first == second == third
    assert first[0].text == "first\u2028line {name}"  # U+2028 is text, not the end of a line


def test_topic_and_origin_are_optional(tmp_path: Path) -> None:
    tasks = read_tasks([write_jsonl(tmp_path / "mine.jsonl", [{"id": 7, "text": "hello"}])])
    assert tasks == [Task("7", "hello", "mine", None)]


def test_any_plain_value_is_a_topic_or_an_origin(tmp_path: Path) -> None:
    values = [("x", "x"), (3, "3"), (2.5, "2.5"), (True, "True"), (0, "0"), ("", None), (None, None), (" \t", None)]
    values += [(" x y ", "x y"), ("nanotubes", "nanotubes")]
    rows = [{"id": i, "text": "t", "topic": v, "origin": v} for i, (v, _) in enumerate(values)]
    tasks = read_tasks([write_jsonl(tmp_path / "mine.jsonl", rows)])
    assert [t.topic for t in tasks] == [as_read for _, as_read in values]
    assert [t.origin for t in tasks] == [as_read or "mine" for _, as_read in values]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([ROWS[0], {**ROWS[1], "id": "a"}], r"bad\.jsonl row 2: the id 'a' stands already in bad\.jsonl row 1"),
        ([ROWS[0], {**ROWS[1], "text": " "}], r"bad\.jsonl row 2: `text` is ' '"),
        ([ROWS[0], {**ROWS[1], "text": None}], r"bad\.jsonl row 2: `text` is nothing"),
        (
            [{"id": "a", "prompt": "x"}],
            r"bad\.jsonl row 1: no `text`, found id, prompt; give every task `id` and `text`, or name the file's columns in "
            r"`tasks\.sources`\.$",
        ),
        ([{"text": "x"}], r"bad\.jsonl row 1: no `id`"),
        ([{"id": "a", "text": 5}], r"`text` is 5"),
        ([{"id": "a", "text": "x", "topic": float("nan")}], r"row 1: `topic` is nan, expected a text, or nothing; "),
        ([{"id": "a", "text": "x", "topic": float("inf")}], r"row 1: `topic` is inf, expected a text"),
        ([{"id": "a", "text": "x", "topic": " NaN"}], r"row 1: `topic` is ' NaN', expected a text"),
        ([{"id": "a", "text": "x", "topic": ["o"]}], r"row 1: `topic` is \['o'\], expected a text"),
        ([{"id": "a", "text": "x", "topic": "\ud83d"}], r"row 1: `topic` is '\\ud83d', expected whole characters"),
        ([{"id": "\ud83d", "text": "x"}], r"row 1: `id` is '\\ud83d', expected whole characters"),
        ([{"id": "a", "text": []}], r"row 1: `text` is \[\], expected text"),
        ([{"id": "a", "text": ["x", 1]}], r"row 1: `text` is \['x', 1\], expected text"),
        ([{"id": "a", "text": [" ", "x"]}], r"row 1: `text` is \[' ', 'x'\], expected text"),
        ([{"id": "a", "text": ["x", "\ud83d"]}], r"row 1: `text` is .*, expected whole characters"),
        ([{"id": "a", "text": "x", "origin": ["o"]}], r"`origin` is \['o'\], expected a text"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[dict[str, object]], expected: str) -> None:
    with pytest.raises(BadConfig, match=expected):
        read_tasks([write_jsonl(tmp_path / "bad.jsonl", rows)])


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": \n')
    (tmp_path / "t.txt").write_text("hello")
    (tmp_path / "t.parquet").write_text("not parquet")
    for name, expected in (
        ("t.jsonl", "row 2: not valid JSON"),
        ("t.txt", "end in"),
        ("t.parquet", "cannot be read"),
    ):
        with pytest.raises(BadConfig, match=expected):
            read_tasks([tmp_path / name])


def test_a_source_is_the_packaged_set_a_file_or_an_object_of_the_store(tmp_path: Path) -> None:
    store = ObjectStore.open(str(tmp_path / "store"))
    mine = write_jsonl(tmp_path / "mine.jsonl", ROWS)
    store.put("inputs/mine.jsonl", mine.read_bytes())
    assert source_path("demo", store) == DEMO
    stored = source_path("store:inputs/mine.jsonl", store)
    assert stored.name == "mine.jsonl"  # the name is the origin of tasks that have none
    assert read_tasks([stored]) == read_tasks([source_path(str(mine), store)])


@pytest.mark.parametrize("source", ["no.jsonl", "store:inputs/no.jsonl", "store:../no.jsonl", "store:"])
def test_a_source_that_is_not_there_is_named(tmp_path: Path, source: str) -> None:
    named = r"name a JSONL, CSV or Parquet file in `tasks\.sources`, or one of demo, wildchat"
    with pytest.raises(
        BadConfig, match=rf"^no\.jsonl: no such task file; {named}|^store:\S*: the store \S+ has no such object"
    ):
        source_path(source, ObjectStore.open(str(tmp_path / "store")))


def test_the_same_id_in_two_files(tmp_path: Path) -> None:
    sources = [write_jsonl(tmp_path / n, ROWS[:1]) for n in ("one.jsonl", "two.jsonl")]
    with pytest.raises(BadConfig, match=r"two\.jsonl row 1: the id 'a' stands already in one\.jsonl row 1"):
        read_tasks(sources)


def test_numpys_nan_in_parquet_is_no_topic(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b"], "text": ["x", "y"], "topic": pa.array([1.5, float("nan")])})
    pa.parquet.write_table(table, tmp_path / "f.parquet")
    with pytest.raises(BadConfig, match=r"f\.parquet row 2: `topic` is nan, expected a text, or nothing"):
        read_tasks([tmp_path / "f.parquet"])


def test_columns_have_the_names_that_the_source_says(tmp_path: Path) -> None:
    """Files in the manner of benchmarks as they come: a question and its answer, turns, a category."""
    turns = write_jsonl(
        tmp_path / "turns.jsonl", [{"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]}]
    )
    asked = write_csv(tmp_path / "asked.csv", [{"content": "Swear at me.", "category": "abuse", "from": "web"}])
    sources = [
        TaskSource(path=str(turns), id="question_id", text="turns", topic="category"),
        TaskSource(path=str(asked), id=None, text="content", topic="category", origin="from"),
    ]
    tasks = {task.text: task for task in read_tasks(sources)}
    assert tasks["Write."] == Task("81", "Write.", "turns", "writing")
    assert tasks["Swear at me."] == Task(text_id("Swear at me."), "Swear at me.", "web", "abuse")


@pytest.mark.parametrize("column", ["id", "text", "topic", "origin"])
def test_a_named_column_that_is_not_there_is_named_with_those_that_are(column: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", ROWS)
    with pytest.raises(
        BadConfig, match=r"^mine\.jsonl row 1: no `nowhere`, found id, text, topic, origin; .*sources`\.$"
    ):
        read_tasks([TaskSource.model_validate({"path": str(path), column: "nowhere"})])


def test_ids_made_of_texts_are_the_same_in_any_file_and_order(tmp_path: Path) -> None:
    rows = [{"q": f"Question {i % 5}?"} for i in range(8)]
    one = write_jsonl(tmp_path / "one.jsonl", rows)
    other = write_csv(tmp_path / "other.csv", rows[::-1])
    read = [read_tasks([TaskSource(path=str(path), id=None, text="q")]) for path in (one, other)]
    assert [(t.id, t.text) for t in read[0]] == [(t.id, t.text) for t in read[1]]
    assert len({t.id for t in read[0]}) == 5  # the same text is the same task
    assert {len(t.id) for t in read[0]} == {16}
    named = write_jsonl(tmp_path / "named.jsonl", [{"id": text_id("Question 0?"), "text": "another"}])
    with pytest.raises(BadConfig, match=r"named\.jsonl row 1: the id '\w+' stands already in one\.jsonl row 1"):
        read_tasks([TaskSource(path=str(one), id=None, text="q"), named])
    with pytest.raises(BadConfig, match=r"one\.jsonl row 1: the id '\w+' stands already in named\.jsonl row 1"):
        read_tasks([named, TaskSource(path=str(one), id=None, text="q")])


pools = st.integers(30, 200).map(lambda n: {f"t{i:03d}": f"text {i}" for i in range(n)})


@settings(max_examples=60, deadline=None)
@given(pools, st.integers(10, 20), st.integers(10, 20), st.integers(0, 5), st.randoms(use_true_random=False))
def test_sets_are_disjoint_drawn_evenly_along_the_ids_and_do_not_depend_on_order(
    pool: dict[str, str], n_train: int, n_eval: int, seed: int, random: Random
) -> None:
    if n_train + n_eval > len(pool):
        with pytest.raises(BadConfig, match="lower `tasks"):
            sample_sets(pool, n_train, n_eval, seed)
        return
    table = sample_sets(pool, n_train, n_eval, seed)
    train, held = task_set(table, "train"), task_set(table, "eval")
    assert (len(train), len(held)) == (n_train, n_eval)
    assert not train.keys() & held.keys()
    shuffled = list(pool.items())
    random.shuffle(shuffled)
    assert sample_sets(dict(shuffled), n_train, n_eval, seed).equals(table)
    # any stretch of ids has its share, but for the two blocks that it cuts and one task of each in between
    ids = sorted(pool)
    start, end = sorted(random.sample(range(len(ids) + 1), 2))
    blocks = (end - start) // 15 + 2
    for drawn, n in ((train, n_train), (held, n_eval)):
        inside = sum(id_ in drawn for id_ in ids[start:end])
        cut = 2 * 30 * n / len(ids)
        assert abs(inside - n * (end - start) / len(ids)) <= blocks + cut


def by_topic(tasks: list[Task], n_train: int, n_eval: int, seed: int) -> dict[str, str]:
    """{id: set} drawn in proportion from every topic."""
    rng = np.random.default_rng([seed, 1])
    ranked = []
    for topic in sorted({t.topic or "" for t in tasks}):
        members = sorted(t.id for t in tasks if t.topic == topic)
        offset = rng.random()
        ranked += [
            ((k + offset) / len(members), topic, members[i]) for k, i in enumerate(rng.permutation(len(members)))
        ]
    ids = [id_ for _, _, id_ in sorted(ranked)]
    return dict.fromkeys(ids[:n_train], "train") | dict.fromkeys(ids[n_train : n_train + n_eval], "eval")


@pytest.mark.parametrize(("n_train", "n_eval", "seed"), [(240, 120, 0), (60, 40, 1), (100, 33, 7)])
def test_the_packaged_tasks_are_drawn_in_proportion_to_topics_though_nothing_knows_them(
    n_train: int, n_eval: int, seed: int
) -> None:
    """Their ids begin with the topic, 30 of each."""
    tasks = read_tasks(["demo"])
    table = sample_sets({t.id: t.text for t in tasks}, n_train, n_eval, seed)
    drawn = dict(zip(table.column("id").to_pylist(), table.column("set").to_pylist(), strict=True))
    assert drawn == by_topic(tasks, n_train, n_eval, seed)


def test_equal_texts_never_stand_on_both_sides() -> None:
    pool = {f"t{i}": f"Text  {i // 2}" if i % 2 else f"text {i // 2}" for i in range(60)}
    table = sample_sets(pool, 15, 15, 0)
    texts = [" ".join(t.lower().split()) for t in table.column("text").to_pylist()]
    assert len(set(texts)) == 30
    with pytest.raises(BadConfig, match="there are 30 distinct texts"):
        sample_sets(pool, 16, 15, 0)


def test_a_task_stays_in_its_shard_on_any_machine_and_shards_are_about_even() -> None:
    assert [shard_of(id_, 64) for id_ in ("poem-1", "é", "a b")] == [41, 19, 18]
    counts = np.bincount([shard_of(f"t{i}", 8) for i in range(8000)], minlength=8)
    assert counts.sum() == 8000
    assert 900 < counts.min() <= counts.max() < 1100


@pytest.mark.parametrize("column", ["id", "text"])
def test_a_leak_stops_the_run(column: str) -> None:
    rows = [{"id": f"t{i}", "text": f"x{i}", "set": s} for i, s in enumerate(("train", "eval"))]
    rows[1][column] = rows[0][column]
    with pytest.raises(BadConfig, match="train and eval share t0"):
        task_set(pa.Table.from_pylist(rows), "train")
