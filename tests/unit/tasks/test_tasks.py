"""Task files and task sets."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefprobe.errors import BadConfig
from prefprobe.store.objects import ObjectStore
from prefprobe.tasks.pool import DEMO, Task, read_tasks, source_path
from prefprobe.tasks.sampling import sample_sets, task_set

ROWS = [
    {"id": "a", "text": "first\u2028line {name}", "topic": "x", "origin": "o"},
    {"id": "b", "text": 'second, "quoted"\nline', "topic": "y", "origin": "o"},
]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
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
    """What an empty origin and one of 0 are read as is part of every key that was made of such a file."""
    values = [("x", "x"), (3, "3"), (2.5, "2.5"), (True, "True"), (0, "0"), ("", None), (None, None), (" ", " ")]
    rows = [{"id": i, "text": "t", "topic": v, "origin": v} for i, (v, _) in enumerate(values)]
    tasks = read_tasks([write_jsonl(tmp_path / "mine.jsonl", rows)])
    assert [t.topic for t in tasks] == [as_read for _, as_read in values]
    assert [t.origin for t in tasks] == [as_read if v else "mine" for v, as_read in values]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([ROWS[0], {**ROWS[1], "id": "a"}], r"bad\.jsonl row 2: the id 'a' stands already in bad\.jsonl row 1"),
        ([ROWS[0], {**ROWS[1], "text": " "}], r"bad\.jsonl row 2: `text` is ' '"),
        ([ROWS[0], {**ROWS[1], "text": None}], r"bad\.jsonl row 2: `text` is nothing"),
        (
            [{"id": "a", "prompt": "x"}],
            r"bad\.jsonl row 1: no `text`, found id, prompt; give every task `id` and `text`",
        ),
        ([{"text": "x"}], r"bad\.jsonl row 1: no `id`"),
        ([{"id": "a", "text": 5}], r"`text` is 5"),
        ([{"id": "a", "text": "x", "topic": float("nan")}], r"`topic` is nan, expected a text"),
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
    with pytest.raises(BadConfig, match=r"^no\.jsonl: no such task file|^store:\S*: the store \S+ has no such object"):
        source_path(source, ObjectStore.open(str(tmp_path / "store")))


def test_the_same_id_in_two_files(tmp_path: Path) -> None:
    sources = [write_jsonl(tmp_path / n, ROWS[:1]) for n in ("one.jsonl", "two.jsonl")]
    with pytest.raises(BadConfig, match=r"two\.jsonl row 1: the id 'a' stands already in one\.jsonl row 1"):
        read_tasks(sources)


pools = st.lists(st.sampled_from(["math", "art", "code", None]), min_size=30, max_size=90).map(
    lambda topics: [Task(f"t{i:03d}", f"text {i}", "pool", t) for i, t in enumerate(topics)]
)


@settings(max_examples=60, deadline=None)
@given(pools, st.integers(10, 20), st.integers(10, 20), st.integers(0, 5), st.randoms(use_true_random=False))
def test_sets_are_disjoint_stratified_and_do_not_depend_on_order(pool, n_train, n_eval, seed, random) -> None:
    if n_train + n_eval > len(pool):
        with pytest.raises(BadConfig, match="lower `tasks"):
            sample_sets(pool, n_train, n_eval, seed)
        return
    table = sample_sets(pool, n_train, n_eval, seed)
    train, held = task_set(table, "train"), task_set(table, "eval")
    assert (len(train), len(held)) == (n_train, n_eval)
    assert not train.keys() & held.keys()
    shuffled = list(pool)
    random.shuffle(shuffled)
    assert sample_sets(shuffled, n_train, n_eval, seed).equals(table)
    whole = Counter(t.topic for t in pool)
    drawn = Counter(r["topic"] for r in table.to_pylist() if r["set"] == "train")
    for topic, count in whole.items():
        assert abs(drawn[topic] - n_train * count / len(pool)) <= 2


def test_equal_texts_never_stand_on_both_sides() -> None:
    pool = [Task(f"t{i}", f"Text  {i // 2}" if i % 2 else f"text {i // 2}", "o", "x") for i in range(60)]
    table = sample_sets(pool, 15, 15, 0)
    texts = [" ".join(t.lower().split()) for t in table.column("text").to_pylist()]
    assert len(set(texts)) == 30
    with pytest.raises(BadConfig, match="hold 30 distinct texts"):
        sample_sets(pool, 16, 15, 0)


@pytest.mark.parametrize("column", ["id", "text"])
def test_a_leak_stops_the_run(column: str) -> None:
    rows = [
        {"id": f"t{i}", "text": f"x{i}", "origin": "o", "topic": "a", "set": s} for i, s in enumerate(("train", "eval"))
    ]
    rows[1][column] = rows[0][column]
    with pytest.raises(BadConfig, match="train and eval share t0"):
        task_set(pa.Table.from_pylist(rows), "train")
