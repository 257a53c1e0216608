"""The rules by which a claim is judged: fixed before any result, and stated in the report in these words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from prefprobe.findings.published import Shown
from prefprobe.numbers import interval, number, p_value, signed
from prefprobe.probes.intervals import fisher
from prefprobe.shift.power import SMALLEST as SMALLEST_R
from prefprobe.shift.statistics import MIN_POINTS, SIGNAL, SMALL, STILL

CONSISTENT = "consistent with the published result"
WEAKER = "present, weaker than published"
STRONGER = "present, stronger than published"
PRESENT = "present, nothing published"
TEXT = "follows the prompt’s text"
ABSENT = "absent"
INCONCLUSIVE = "inconclusive"
NOT_ESTIMABLE = "not estimable"
LABELS = (CONSISTENT, WEAKER, STRONGER, PRESENT, TEXT, ABSENT, INCONCLUSIVE, NOT_ESTIMABLE)
HOLDS = (CONSISTENT, WEAKER, STRONGER, PRESENT)
"""The labels of a claim that this run shows."""

SMALLEST = {"r": SMALLEST_R, "difference": 0.05, "accuracy": 0.55}
"""The smallest effect that counts as the finding at all. An interval wholly below it is evidence of absence."""

SIGNIFICANT = 0.05
RELIABLE, UNRELIABLE = 0.9, 0.7
GOOD, FAIR, POOR, UNKNOWN = "good", "fair", "poor", "unknown"
"""What a check of the measurement finds."""


def _rule(quantity: str, *more: str) -> str:
    present = ", and ".join(
        [
            f"the lower bound of the 95 % interval lies above {SMALLEST[quantity]}, the smallest effect that counts",
            *more,
        ]
    )
    return (
        f"Present if {present}; absent if the upper bound lies below {SMALLEST[quantity]}; else inconclusive. Where it is "
        "present, it is consistent with the published result if this run’s value lies where the published one foretells, with "
        "both samples’ errors (95 %), and else weaker or stronger. Not estimable without an interval."
    )


_CHANCE = f"fewer than {100 * SIGNIFICANT:g} % of label permutations reach as much (p, with its Monte Carlo error)"
HELD_OUT = _rule("r", _CHANCE)
CROSS_TOPIC = _rule("r", _CHANCE.replace("label permutations", "permutations of labels within topics"))
ACCURACY = _rule("accuracy")
DIFFERENCE = _rule("difference")
SHIFT = (
    _rule("r", _CHANCE.replace("label permutations", "permutations of whole prompts and whole tasks"))
    + " r is over on-target points, after each prompt’s mean over its off-target tasks is taken from Δp and from Δs; with the "
    "published value the r without that is compared. Where it would be present, but a text encoder’s score of the same prompts "
    "and tasks follows the choices as well (the lower bound of the difference in r over all points is not above 0), it "
    f"follows the prompt’s text. Not estimable with fewer than {MIN_POINTS} on-target points, or where the root mean square of "
    f"their Δp is below {SMALL} or {SIGNAL:g} times that of neutral paraphrases of the baseline prompt."
)
RELIABILITY = f"A check of the measurement: good from {RELIABLE}, poor below {UNRELIABLE}, else fair."
FAMILY = (
    f"Each claim’s p is that of an effect no larger than the smallest that counts (two-sided, from the same interval). Holm’s "
    f"adjustment over all claims that have one decides what the headline says: adjusted p below {SIGNIFICANT}."
)


@dataclass(frozen=True)
class Judged:
    """A label, and one sentence with the numbers that decided it."""

    label: str
    why: str
    p: float | None = None
    """Two-sided p of an effect no larger than the smallest that counts; None without an interval."""
    expected: tuple[float, float] | None = None
    """Where 95 % of runs of this size would lie if the published value were true."""


def judge(
    estimate: dict[str, Any] | None,
    quantity: str,
    published: Shown | None,
    *,
    permuted: dict[str, Any] | None = None,
    compared: dict[str, Any] | None = None,
) -> Judged:
    """Judge an `Interval` of r, a difference of r, or an accuracy.

    `permuted` is the {value, permutations} of a permutation p, which must be there and significant if it is not None.
    `compared` is the `Interval` to set beside what was published, if that is not `estimate` itself.
    """
    if estimate is None:
        return Judged(NOT_ESTIMABLE, f"{_NAMES[quantity]} could not be estimated: too few tasks, or nothing varies.")
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    shown = f"{_NAMES[quantity]} is {_number(quantity, value)}"
    if low is None or high is None:
        return Judged(NOT_ESTIMABLE, f"{shown}, but there are too few tasks or topics for an interval.")
    bounds, smallest, p = interval(low, high), SMALLEST[quantity], _p(estimate, quantity)
    beside = estimate if compared is None else compared
    errors = estimate if beside["se"] is None else beside
    expected = None if published is None else _expected(errors, quantity, published)
    if high < smallest:
        return Judged(ABSENT, f"{shown}, and its interval {bounds} rules out {smallest:g} or more.", p, expected)
    if low <= smallest:
        return Judged(
            INCONCLUSIVE, f"{shown}; its interval {bounds} neither lies above {smallest:g} nor below it.", p, expected
        )
    found = f"{shown}, and its interval {bounds} lies above {smallest:g}"
    if permuted is not None and not _significant(permuted):
        chance = (
            "no permutation p could be computed" if permuted["value"] is None else f"p is {p_value(permuted['value'])}"
        )
        return Judged(INCONCLUSIVE, f"{found}, but {chance} by {permuted['permutations']} permutations.", p, expected)
    if published is None or expected is None:
        return Judged(PRESENT, f"{found}.", p)
    of = beside["value"]
    where = f"{_number(quantity, published.value)} was published, which foretells {interval(*expected)} here"
    if compared is not None:
        where += f" for the r without correction, {number(of)}"
    label = WEAKER if of < expected[0] else STRONGER if of > expected[1] else CONSISTENT
    return Judged(label, f"{found}; {where}.", p, expected)


def judge_shift(experiment: dict[str, Any], published: Shown | None) -> Judged:
    """Judge the corrected on-target correlation of one system-prompt experiment, and whether an encoder does as well."""
    if not experiment["estimable"]:
        return Judged(NOT_ESTIMABLE, experiment["why"])
    corrected, on_target, advantage = (experiment[name] for name in ("corrected", "on_target", "advantage"))
    if corrected is None:
        return Judged(NOT_ESTIMABLE, experiment["why_not_corrected"])
    if corrected["pearson"] is None:
        return Judged(NOT_ESTIMABLE, STILL)
    permuted = {"value": corrected["p"], "permutations": experiment["permutations"]}
    judged = judge(corrected["pearson"], "r", published, permuted=permuted, compared=on_target["pearson"])
    if judged.label not in HOLDS:
        return judged
    stem = judged.why.removesuffix(".")
    if advantage is None or advantage["low"] is None:
        why = f"{stem}; but no text encoder could be compared, so that the prompt’s text alone may explain it."
        return Judged(INCONCLUSIVE, why, judged.p, judged.expected)
    ahead = (
        f"over all points the probe’s r is {signed(advantage['value'])} {interval(advantage['low'], advantage['high'])}"
    )
    if advantage["low"] <= 0:
        why = f"{stem}; but {ahead} against a text encoder’s, which is not above 0."
        return Judged(TEXT, why, judged.p, judged.expected)
    return Judged(judged.label, f"{stem}; {ahead} above a text encoder’s.", judged.p, judged.expected)


def check_reliability(value: float | None) -> Judged:
    """Check the split-half reliability of the utilities that probes are trained on, after Spearman and Brown."""
    if value is None:
        return Judged(UNKNOWN, "No split of the pairs gave two halves that could be compared.")
    label = GOOD if value >= RELIABLE else POOR if value < UNRELIABLE else FAIR
    against = {GOOD: f"at least {RELIABLE}", POOR: f"below {UNRELIABLE}"}
    where = against.get(label, f"between {UNRELIABLE} and {RELIABLE}")
    return Judged(label, f"Split-half reliability, stepped up to all pairs, is {number(value)}, which is {where}.")


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) adjusted p of each claim that has one: the k-th smallest of m times m - k + 1, never falling, at most 1."""
    known = sorted((value, i) for i, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    least = 0.0
    for rank, (value, i) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * value))
        adjusted[i] = least
    return adjusted


def _scaled(quantity: str, value: float) -> float:
    """`value` on the scale on which intervals are symmetric."""
    return float(fisher(value)) if quantity == "r" else value


def _p(estimate: dict[str, Any], quantity: str) -> float:
    above = _scaled(quantity, estimate["value"]) - _scaled(quantity, SMALLEST[quantity])
    if estimate["se"] == 0.0:
        return float(above <= 0)
    return float(min(1.0, 2.0 * stdtr(estimate["df"], -above / estimate["se"])))


def _expected(estimate: dict[str, Any], quantity: str, published: Shown) -> tuple[float, float]:
    reach = float(stdtrit(estimate["df"], 0.975)) * float(np.hypot(estimate["se"], published.se))
    low, high = (_scaled(quantity, published.value) + sign * reach for sign in (-1, 1))
    if quantity == "r":
        return float(np.tanh(low)), float(np.tanh(high))
    return (max(0.0, low), min(1.0, high)) if quantity == "accuracy" else (low, high)


def _significant(permuted: dict[str, Any]) -> bool:
    """Whether p is below SIGNIFICANT, and stays so within two standard errors of its Monte Carlo estimate."""
    p, n = permuted["value"], permuted["permutations"]
    return p is not None and bool(p + 2.0 * np.sqrt(p * (1.0 - p) / n) < SIGNIFICANT)


def _number(quantity: str, value: float) -> str:
    return signed(value) if quantity == "difference" else number(value)


_NAMES = {"r": "r", "difference": "The difference in r", "accuracy": "Accuracy"}
