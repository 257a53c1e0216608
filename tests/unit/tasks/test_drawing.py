"""Draws by quotas: who is drawn, what is never drawn, and what stays when the pool grows."""

import hashlib
from collections import Counter
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.settings import TaskSettings
from prefprobe.tasks.candidates import Candidates
from prefprobe.tasks.drawing import Drawn, draw
from prefprobe.tasks.duplicates import jaccard, normal
from prefprobe.tasks.pool import Task

NEAR = 0.8


def words(seed: object, n: int = 12) -> str:
    return " ".join(hashlib.sha256(f"{seed} {k}".encode()).hexdigest()[:6] for k in range(n))


def pool(**sizes: int) -> list[Task]:
    return [Task(f"{o}-{i}", words((o, i)), o, f"k{i % 3}") for o, n in sizes.items() for i in range(n)]


def settings_of(n_train: int, n_eval: int, n_pool: int = 0, **more: Any) -> TaskSettings:
    return TaskSettings(n_train=n_train, n_eval=n_eval, n_pool=n_pool, **{"quotas": "equal", **more})


def sets(drawn: Drawn) -> dict[str, str]:
    return dict(zip(drawn.pool.column("id").to_pylist(), drawn.pool.column("set").to_pylist(), strict=True))


def by_origin(drawn: Drawn, *names: str) -> Counter[str]:
    return Counter(
        row["origin"] for row in drawn.pool.to_pylist() if row["set"] in (names or ("train", "eval", "pool"))
    )


sizes_ = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 60), min_size=1)


@settings(max_examples=30, deadline=None)
@given(sizes_, st.integers(10, 30), st.integers(10, 30), st.integers(0, 40), st.integers(0, 3), st.randoms())
def test_equal_shares_and_what_is_short_gives_all_it_has(
    sizes: dict[str, int], n_train: int, n_eval: int, n_pool: int, seed: int, random: Any
) -> None:
    asked, tasks = settings_of(n_train, n_eval, n_pool), pool(**sizes)
    n = n_train + n_eval + n_pool
    if n > sum(sizes.values()):
        with pytest.raises(BadConfig, match=r"were asked for, and there are \d+ \(\d+ of .*lower the numbers"):
            draw(Candidates.of(tasks), asked, seed)
        return
    drawn = draw(Candidates.of(tasks), asked, seed)
    assert Counter(sets(drawn).values()) == Counter(
        {"train": n_train, "eval": n_eval} | ({"pool": n_pool} if n_pool else {})
    )
    for some in (("train", "eval"), ("train", "eval", "pool")):
        has = by_origin(drawn, *some)
        full = [has[o] for o, there in sizes.items() if has[o] < there]
        # whoever is not exhausted has the same, but for one; whoever is has no more
        assert not full or max(full) - min(full) <= 1
        assert not full or all(has[o] <= max(full) + 1 for o in sizes)
    # eval is a like part of every origin as train
    for origin, there in by_origin(drawn, "train", "eval").items():
        assert abs(by_origin(drawn, "train")[origin] - there * n_train / (n_train + n_eval)) < 2
    random.shuffle(tasks)
    assert draw(Candidates.of(tasks), asked, seed).pool.equals(drawn.pool)


@settings(max_examples=20, deadline=None)
@given(sizes_, st.sampled_from(["equal", None]), st.sampled_from([None, NEAR]), st.integers(0, 30), st.integers(0, 30))
def test_growing_the_pool_keeps_what_was_drawn(
    sizes: dict[str, int], quotas: str | None, near: float | None, before: int, more: int
) -> None:
    tasks = pool(**sizes, z=60)
    shifted = [task.text for task in tasks[-2:]]
    most = len(tasks) - 20 - len(shifted)
    before = min(before, most)
    after = min(before + more, most)
    small, large = (
        draw(
            Candidates.of(tasks),
            settings_of(10, 10, n, quotas=quotas, near_duplicates=near),
            0,
            shifted if quotas else (),
        )
        for n in (before, after)
    )
    assert sets(small).items() <= sets(large).items()
    assert small.tasks.equals(large.tasks)


def test_weights_are_kept_to_one_and_published_ones_are_weights() -> None:
    tasks = pool(a=500, b=500, c=500)
    drawn = draw(Candidates.of(tasks), settings_of(40, 20, 40, quotas={"a": 1, "b": 2, "c": 5}), 0)
    for n, some in ((60, ("train", "eval")), (100, ("train", "eval", "pool"))):
        assert all(abs(by_origin(drawn, *some)[o] - n * w / 8) <= 1 for o, w in zip("abc", (1, 2, 5), strict=True))
    named = pool(wildchat=500, math=500)
    asked = settings_of(40, 20, quotas="published", sources=["wildchat", "math"])
    assert abs(by_origin(draw(Candidates.of(named), asked, 0))["wildchat"] - 60 * 8044 / (8044 + 6775)) <= 1


def test_planted_duplicates_and_leaks_are_never_drawn_together() -> None:
    tasks = pool(a=60, b=60)
    base = {task.id: task.text for task in tasks}
    tasks += [Task(f"b-same{i}", f" {base[f'a-{i}'].upper()}\n", "b", None) for i in range(20)]
    tasks += [Task(f"a-near{i}", base[f"b-{i}"].rsplit(" ", 1)[0] + " otherwise", "a", None) for i in range(20)]
    shifted = [base["a-40"], base["b-41"].rsplit(" ", 1)[0] + " changed"]
    asked = settings_of(50, 30, 30, near_duplicates=NEAR)
    drawn = draw(Candidates.of(tasks), asked, 0, shifted)
    texts = drawn.pool.column("text").to_pylist()
    assert len({normal(text) for text in texts}) == len(texts) == 110
    near = [(a, b) for i, a in enumerate(texts) for b in (*texts[:i], *shifted) if jaccard(a, b) >= NEAR]
    assert near == []
    found = Counter({reason: n for of in drawn.dropped.values() for reason, n in of.items()})
    assert sum(of.get("equal text", 0) for of in drawn.dropped.values()) == 20
    assert found["near duplicate"] > 0
    everything = draw(Candidates.of(tasks), asked.model_copy(update={"n_pool": 38}), 0, shifted)  # 120 less two
    turned: Counter[str] = Counter()
    for of in everything.dropped.values():
        turned.update(of)
    assert turned["near duplicate"] == 20
    assert (turned["task of an experiment"], turned["near duplicate of a task of an experiment"]) == (1, 1)
    with pytest.raises(BadConfig, match=r"there are 118 "):
        draw(Candidates.of(tasks), asked.model_copy(update={"n_pool": 39}), 0, shifted)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("ab c.", max_size=12), min_size=2, max_size=2))
def test_jaccard_is_of_neighbouring_words(texts: list[str]) -> None:
    def pairs(text: str) -> set[str]:
        split = text.replace(".", " . ").split()
        return {" ".join(p) for p in pairwise(split)} or set(split)

    one, other = map(pairs, texts)
    assert jaccard(*texts) == (len(one & other) / len(one | other) if one | other else 1.0)


def test_near_duplicates_are_hardly_ever_missed() -> None:
    """Texts of 40 words of which one of the inner was changed: two pairs of 39 differ, Jaccard 37/41."""
    tasks = []
    for i in range(400):
        one = words(i, 40).split()
        tasks.append(Task(f"a-{i}", " ".join(one), "a", None))
        one[i % 30 + 5] = "zzzzz"
        tasks.append(Task(f"b-{i}", " ".join(one), "b", None))
    assert draw(Candidates.of(tasks), settings_of(200, 200, near_duplicates=0.9), 0).pool.num_rows == 400
    with pytest.raises(BadConfig, match="there are 400 "):
        draw(Candidates.of(tasks), settings_of(200, 201, near_duplicates=0.9), 0)


def test_tokens_are_counted_of_those_that_are_looked_at_alone() -> None:
    asked: list[str] = []

    def fits(texts: Any) -> list[bool]:
        asked.extend(texts)
        return [len(text.split()) <= 12 for text in texts]

    tasks = pool(a=3000, b=10) + [Task(f"a-l{i}", words(("l", i), 13), "a", None) for i in range(3000)]
    drawn = draw(Candidates.of(tasks), settings_of(30, 20, max_tokens=12), 0, (), fits)
    assert max(len(text.split()) for text in drawn.pool.column("text").to_pylist()) == 12
    assert drawn.dropped["a"]["max_tokens"] > 10
    assert len(asked) <= 1024 + 10
    assert drawn.looked["a"] == by_origin(drawn)["a"] + drawn.dropped["a"]["max_tokens"]


def test_an_origin_of_which_nothing_is_left_is_missing() -> None:
    tasks = pool(a=60) + [Task(f"b-{i}", words(("a", i)), "b", None) for i in range(5)]
    with pytest.raises(InputMissing, match=r"none of the origin 'b' is left \(5 by equal text\)"):
        draw(Candidates.of(tasks), settings_of(10, 10), 0)
    shifted = [words(("b", i)) for i in range(5)]
    with pytest.raises(InputMissing, match=r"none of the origin 'b' is left \(5 by task of an experiment\)"):
        draw(Candidates.of(pool(a=60, b=5)), settings_of(10, 10), 0, shifted)


@pytest.mark.parametrize(
    ("quotas", "said"),
    [({"a": 1}, r"the origin 'b' has no quota"), ({"a": 1, "b": 1, "c": 1}, r"the origin 'c' has no tasks")],
)
def test_quotas_name_the_origins_that_there_are(quotas: dict[str, float], said: str) -> None:
    with pytest.raises(InputMissing, match=said):
        draw(Candidates.of(pool(a=60, b=60)), settings_of(10, 10, quotas=quotas), 0)


def test_without_quotas_a_pool_changes_no_task_that_is_measured() -> None:
    tasks = pool(a=100)
    alone, beside = (draw(Candidates.of(tasks), settings_of(30, 20, n, quotas=None), 0) for n in (0, 40))
    assert beside.tasks.equals(alone.tasks)
    assert isinstance(alone.pool, pa.Table)
    with pytest.raises(BadConfig, match=r"51 tasks of a pool were asked for .* there are 50"):
        draw(Candidates.of(tasks), settings_of(30, 20, 51, quotas=None), 0)
