"""Cohen's kappa and Cramér's V against independent computations and closed forms."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from prefprobe.probes.intervals import Interval
from prefprobe.topics.agreement import agreement_of, confusion, cramers_v, kappa, origins


def planted(n: int, right: float, seed: int, k: int = 5) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    one = rng.integers(0, k, n)
    other = np.where(rng.random(n) < right, one, rng.integers(0, k, n))
    return [f"k{i}" for i in one], [f"k{i}" for i in other]


def v(one: list[str], other: list[str]) -> Interval:
    found = cramers_v(one, other)["v"]
    assert found is not None
    return found


def bounds(one: list[str], other: list[str]) -> tuple[float, float, float]:
    found = kappa(one, other)
    assert found["low"] is not None and found["value"] is not None and found["high"] is not None  # noqa: PT018
    return found["low"], found["value"], found["high"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("right", [0.0, 0.5, 0.95])
def test_kappa_is_that_of_scikit_learn_and_lies_within_its_bounds(right: float, seed: int) -> None:
    one, other = planted(200, right, seed)
    low, value, high = bounds(one, other)
    assert value == pytest.approx(cohen_kappa_score(one, other))
    assert -1 <= low < value < high <= 1
    assert list(bounds(other, one)) == pytest.approx([low, value, high])


def test_the_width_is_that_of_a_bootstrap() -> None:
    one, other = (np.array(x) for x in planted(400, 0.7, 1))
    rng = np.random.default_rng(0)
    draws = [cohen_kappa_score(one[i], other[i]) for i in (rng.integers(0, 400, 400) for _ in range(400))]
    low, _, high = bounds(one.tolist(), other.tolist())
    assert (high - low) / (2 * 1.96) == pytest.approx(np.std(draws), rel=0.12)


def test_a_published_table() -> None:
    """Cohen's own example (1960, table 1), three categories: kappa is .492."""
    counts = {("a", "a"): 88, ("a", "b"): 14, ("a", "c"): 18, ("b", "a"): 10, ("b", "b"): 40, ("b", "c"): 10}
    counts |= {("c", "a"): 2, ("c", "b"): 6, ("c", "c"): 12}
    pairs = [pair for pair, n in counts.items() for _ in range(n)]
    found = kappa([a for a, _ in pairs], [b for _, b in pairs])
    assert found["value"] == pytest.approx(0.492, abs=5e-4)
    assert [found["agreed"], found["by_chance"]] == pytest.approx([0.70, 0.41])
    assert confusion([a for a, _ in pairs], [b for _, b in pairs]) == counts


def test_perfect_agreement_is_still_uncertain_and_one_label_alone_says_nothing() -> None:
    low, value, high = bounds(["a", "b"] * 20, ["a", "b"] * 20)
    assert [value, high] == pytest.approx([1.0, 1.0])
    assert 0.7 < low < 0.95
    assert kappa(["a"] * 20, ["a"] * 20)["value"] is None


def test_v_is_one_where_all_is_told_and_zero_where_nothing_is() -> None:
    one = ["x", "y", "z"] * 200
    assert v(one, [value.upper() for value in one])["value"] == pytest.approx(1.0)
    rng = np.random.default_rng(3)
    found = v(one, rng.permutation(one).tolist())
    assert found["value"] < 0.08
    assert found["low"] == 0.0
    assert cramers_v(one, ["x"] * 600)["v"] is None


def test_v_is_unbiased_where_there_is_nothing_and_near_the_plain_one_in_a_large_table() -> None:
    rng = np.random.default_rng(5)
    plain, corrected = [], []
    for _ in range(100):
        one, other = (rng.integers(0, k, 60).astype(str).tolist() for k in (4, 6))
        table = np.zeros((4, 6))
        np.add.at(table, (np.array(one, int), np.array(other, int)), 1)
        expected = np.outer(table.sum(1), table.sum(0)) / 60
        plain.append(np.sqrt(((table - expected) ** 2 / expected).sum() / 60 / 3))
        corrected.append(v(one, other)["value"])
    assert np.mean(plain) > 0.25
    assert np.mean(corrected) < 0.10


def test_the_jackknife_by_cells_is_the_one_by_rows() -> None:
    rng = np.random.default_rng(7)
    one = rng.integers(0, 3, 40)
    other = np.where(rng.random(40) < 0.6, one, rng.integers(0, 3, 40))
    a, b = one.astype(str).tolist(), other.astype(str).tolist()
    whole = v(a, b)
    left = [v(a[:i] + a[i + 1 :], b[:i] + b[i + 1 :])["value"] ** 2 for i in range(40)]
    se = np.sqrt(39 / 40 * ((np.array(left) - whole["value"] ** 2) ** 2).sum())
    assert whole["se"] == pytest.approx(se)


def test_a_v_that_is_0_by_its_correction_is_not_known_to_be_0() -> None:
    rng = np.random.default_rng(3)
    p = np.full((5, 12), 0.95 / 60) + np.eye(5, 12) * 0.05 / 5  # V is 0.07
    expected = np.outer(p.sum(1), p.sum(0))
    truth, held, zero = float(np.sqrt(((p - expected) ** 2 / expected).sum() / 4)), 0, 0
    for _ in range(100):
        cells = rng.choice(60, 200, p=p.ravel())
        found: Any = v([str(c // 12) for c in cells], [str(c % 12) for c in cells])
        held += found["low"] <= truth <= found["high"]
        zero += found["value"] == 0
    assert zero > 10
    assert held >= 90


@pytest.mark.parametrize(("one", "other"), [("a" * 50, "b" * 50), ("a" * 50, "a" * 49 + "b"), ("ab" * 9, "ba" * 9)])
def test_the_bounds_of_kappa_hold_it_and_are_no_less_than_it_can_be(one: str, other: str) -> None:
    found: Any = kappa(list(one), list(other))
    assert -1 <= found["low"] <= found["value"] <= found["high"] <= 1


def test_rows_of_origins_have_every_pair() -> None:
    found = origins(["a", "a", "b"], ["x", "y", "y"])
    assert [(r["origin"], r["topic"], r["tasks"], r["share"]) for r in found] == [
        ("a", "x", 1, 0.5), ("a", "y", 1, 0.5), ("b", "x", 0, 0.0), ("b", "y", 1, 1.0),
    ]  # fmt: skip


def test_only_tasks_that_both_have_labelled_are_compared() -> None:
    found = agreement_of({"1": "a", "2": "b", "3": None, "4": "a"}, {"1": "a", "2": "a", "3": "b", "9": "a"})
    assert (found["asked"], found["unread"], found["kappa"]["n"]) == (3, 1, 2)
    assert agreement_of({"1": None}, {"1": "a"})["kappa"] is None
