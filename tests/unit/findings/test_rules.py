"""The rules at their borders, and the arithmetic behind them against other ways to the same numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from prefprobe.findings import published, rules
from prefprobe.findings.published import Shown
from prefprobe.numbers import interval
from prefprobe.probes.intervals import around, around_r


def of_r(*given: float) -> Any:
    return around_r(*given)


def estimate(low, high):
    """An interval with these bounds on Fisher's scale, of a large sample."""
    if low is None:
        return around_r(0.5, None, None)
    z = np.arctanh([low, high])
    return {**around_r(float(np.tanh(z.mean())), float(np.ptp(z)) / 2 / norm.ppf(0.975), 1e9), "low": low, "high": high}


def test_an_accuracy_that_is_foretold_is_between_0_and_1() -> None:
    judged = rules.judge(straight(0.4, 0.9), "accuracy", Shown(0.95, 0.1, {}))
    assert judged.expected is not None
    assert judged.expected[0] > 0
    assert judged.expected[1] == 1


def test_an_interval_contains_its_estimate_up_to_perfect_correlation() -> None:
    for r in (1.0, -1.0, 1 - 1e-13, 0.0):
        for se in (0.0, 1e-3, 0.5):
            found = of_r(r, se, 7)
            assert found["low"] <= found["value"] <= found["high"]


def straight(low, high):
    return {**around((low + high) / 2, (high - low) / 2 / norm.ppf(0.975), 1e9), "low": low, "high": high}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.201, 0.8, rules.PRESENT),
        (0.2, 0.8, rules.INCONCLUSIVE),  # must exceed the smallest effect, not equal it
        (0.001, 0.8, rules.INCONCLUSIVE),
        (-0.3, 0.2, rules.INCONCLUSIVE),  # 0.2 itself is not ruled out
        (-0.3, 0.199, rules.ABSENT),
        (0.11, 0.199, rules.ABSENT),  # real, but too small to be the finding
        (None, None, rules.NOT_ESTIMABLE),
    ],
)
def test_a_correlation_at_the_borders(low, high, expected) -> None:
    judged = rules.judge(estimate(low, high), "r", None)
    assert judged.label == expected
    assert low is None or interval(low, high) in judged.why
    assert rules.judge(None, "r", None).label == rules.NOT_ESTIMABLE


@pytest.mark.parametrize(
    ("quantity", "low", "high", "expected"),
    [
        ("difference", 0.051, 0.3, rules.PRESENT),
        ("difference", 0.05, 0.3, rules.INCONCLUSIVE),
        ("difference", -0.2, 0.05, rules.INCONCLUSIVE),
        ("difference", -0.2, 0.049, rules.ABSENT),
        ("accuracy", 0.551, 0.7, rules.PRESENT),
        ("accuracy", 0.55, 0.7, rules.INCONCLUSIVE),
        ("accuracy", 0.4, 0.549, rules.ABSENT),
    ],
)
def test_the_other_quantities_at_their_borders(quantity, low, high, expected) -> None:
    judged = rules.judge(straight(low, high), quantity, None)
    assert judged.label == expected
    assert interval(low, high) in judged.why


@pytest.mark.parametrize(
    ("p", "n", "expected"),
    [
        (0.005, 199, rules.PRESENT),
        (0.02, 199, rules.PRESENT),  # .02 + 2 × .0099
        (0.03, 199, rules.INCONCLUSIVE),  # other permutations might give .05
        (0.04, 1999, rules.PRESENT),
        (0.045, 1999, rules.INCONCLUSIVE),
        (0.05, 10**9, rules.INCONCLUSIVE),
        (None, 0, rules.INCONCLUSIVE),
    ],
)
def test_chance_must_be_ruled_out_beyond_monte_carlo_error(p, n, expected) -> None:
    judged = rules.judge(estimate(0.3, 0.8), "r", None, permuted={"value": p, "permutations": n})
    assert judged.label == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.75, rules.WEAKER), (0.80, rules.CONSISTENT), (0.90, rules.CONSISTENT), (0.93, rules.STRONGER)],
)
def test_a_present_finding_is_compared_with_the_published_value(value, expected) -> None:
    judged: Any = rules.judge(of_r(value, 1 / np.sqrt(57), 1e9), "r", published.held_out("raw"))
    assert judged.label == expected
    assert judged.expected == pytest.approx((0.78, 0.92), abs=0.005)
    assert interval(*judged.expected) in judged.why


def test_a_wide_interval_that_holds_the_published_value_is_not_consistent() -> None:
    judged: Any = rules.judge(of_r(0.6, 0.5, 1e9), "r", published.held_out("raw"))
    assert judged.expected[0] < 0.6 < judged.expected[1]
    assert judged.label == rules.INCONCLUSIVE


def test_the_published_values_error_widens_what_is_expected() -> None:
    exact, vague = Shown(0.5, 0.0, {}), Shown(0.5, 0.2, {})
    found: list[Any] = [rules.judge(of_r(0.5, 0.1, 1e9), "r", shown).expected for shown in (exact, vague)]
    narrow, wide = found
    assert wide[0] < narrow[0] < 0.5 < narrow[1] < wide[1]


@given(st.floats(-0.5, 0.95), st.floats(0.01, 0.4), st.integers(3, 200))
def test_p_is_below_a_twentieth_just_where_the_interval_clears_the_smallest_effect(r, se, df) -> None:
    found = of_r(r, se, df)
    p: Any = rules.judge(found, "r", None).p
    assert (p < 0.05) == (found["low"] > rules.SMALLEST["r"])


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12))
def test_holm_is_the_step_down_procedure(p) -> None:
    adjusted: list[Any] = rules.holm(p)
    known = [i for i, value in enumerate(p) if value is not None]
    assert [i for i, value in enumerate(adjusted) if value is not None] == known
    for level in (0.01, 0.05, 0.2, 0.5):
        rejected: set[int] = set()
        for rank, i in enumerate(sorted(known, key=lambda i: p[i])):
            if p[i] * (len(known) - rank) > level:
                break
            rejected.add(i)
        assert {i for i in known if adjusted[i] <= level} == rejected


def shift(low=0.3, p=0.0005, advantage=(0.1, 0.3), *, estimable=True, on_target=0.85):
    return {
        "estimable": estimable,
        "why": "Too little moved.",
        "why_not_corrected": "No prompt has a task off its target.",
        "permutations": 2000,
        "corrected": {"pearson": estimate(low, 0.9), "p": p},
        "on_target": {"pearson": around_r(on_target, 0.1, 1e9), "p": p},
        "advantage": advantage and straight(*advantage),
    }


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (shift(), rules.CONSISTENT),
        (shift(on_target=0.5), rules.WEAKER),  # what was published is the r without correction
        (shift(low=0.2), rules.INCONCLUSIVE),
        (shift(p=0.05), rules.INCONCLUSIVE),
        (shift(p=None), rules.INCONCLUSIVE),
        (shift(advantage=(0.0, 0.3)), rules.TEXT),
        (shift(advantage=(-0.2, -0.1)), rules.TEXT),
        (shift(advantage=None), rules.INCONCLUSIVE),  # without an encoder the text may be all there is
        (shift(low=0.2, advantage=(-0.2, -0.1)), rules.INCONCLUSIVE),  # nothing to explain
        (shift(estimable=False), rules.NOT_ESTIMABLE),
        ({**shift(), "corrected": None}, rules.NOT_ESTIMABLE),
        # every prompt has tasks off target, and moves all of its tasks alike
        ({**shift(), "corrected": {"pearson": None, "p": None}, "why_not_corrected": None}, rules.NOT_ESTIMABLE),
    ],
)
def test_the_rule_of_shifts_at_its_borders(found, expected) -> None:
    judged = rules.judge_shift(found, published.shift("category"))
    assert judged.label == expected
    assert judged.why.endswith(".")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.9, rules.GOOD), (0.899, rules.FAIR), (0.7, rules.FAIR), (0.699, rules.POOR), (None, rules.UNKNOWN)],
)
def test_the_check_of_reliability_at_its_borders(value, expected) -> None:
    assert rules.check_reliability(value).label == expected


def test_the_bounds_in_the_rules_are_those_in_force() -> None:
    assert "lies above 0.2," in rules.HELD_OUT
    assert "lies below 0.2;" in rules.CROSS_TOPIC
    assert "lies above 0.05," in rules.DIFFERENCE
    assert "lies above 0.55," in rules.ACCURACY
    assert "fewer than 5 % of permutations of whole prompts" in rules.SHIFT
    assert "adjusted p below 0.05" in rules.FAMILY


def value(shown: Shown | None) -> float:
    assert shown is not None
    return shown.value


def test_published_values() -> None:
    assert value(published.held_out_above("encoder")) == pytest.approx(0.25)
    assert value(published.cross_topic_above("encoder")) == pytest.approx(0.463)
    assert published.held_out_above("untrained") is published.cross_topic_above("untrained") is None
    assert {name: value(published.shift(name)) for name in published.SHIFT} == {
        "category": 0.898, "targeted": 0.947, "crossed": 0.859, "competing": 0.881,
    }  # fmt: skip
    assert published.shift("persona") is None
    assert [published.CROSS_TOPIC[role]["mean"] for role in ("model", "base", "encoder")] == [0.817, 0.627, 0.354]
    # the error of a mean of 12 folds, on Fisher's scale
    assert published.cross_topic().se == pytest.approx(0.096 / np.sqrt(12) / (1 - 0.817**2))
