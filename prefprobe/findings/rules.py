"""The rules by which a claim is judged: fixed before any result, and stated in the report in these words."""

from dataclasses import dataclass
from typing import Any

from prefprobe.numbers import interval, number, p_value, signed
from prefprobe.shift.statistics import MIN_POINTS, SIGNAL, SMALL

REPLICATED, NOT_REPLICATED, INCONCLUSIVE, NOT_ESTIMABLE = (
    "replicated",
    "not replicated",
    "inconclusive",
    "not estimable",
)
VERDICTS = (REPLICATED, NOT_REPLICATED, INCONCLUSIVE, NOT_ESTIMABLE)

SMALLEST = {"r": 0.2, "difference": 0.05, "accuracy": 0.55}
"""The smallest effect that counts as the finding at all. An interval wholly below it is evidence of absence."""

CHANCE = {"r": 0.0, "difference": 0.0, "accuracy": 0.5}
RELIABLE, UNRELIABLE = 0.9, 0.7
SIGNIFICANT = 0.05


def _rule(floor: str, quantity: str) -> str:
    return (
        f"Not replicated if the upper bound of the 95 % interval is below {SMALLEST[quantity]}; else replicated if its "
        f"lower bound is above {floor}; else inconclusive. Not estimable without an interval."
    )


HELD_OUT = _rule("both 0 and the upper end of the shuffled-label control", "r")
CROSS_TOPIC = _rule("0", "r")
ACCURACY = _rule("0.5", "accuracy")
DIFFERENCE = _rule("0", "difference")
SHIFT = _rule(f"0 and the permutation p is below {SIGNIFICANT}", "r") + (
    f" Nor estimable with fewer than {MIN_POINTS} on-target points, or where the root mean square of their Δp is below "
    f"{SMALL} or {SIGNAL:g} times its standard error."
)
RELIABILITY = f"Replicated from {RELIABLE}, not replicated below {UNRELIABLE}, else inconclusive."


@dataclass(frozen=True)
class Judged:
    """A verdict, and one sentence with the numbers that decided it."""

    verdict: str
    why: str


def judge(estimate: dict[str, Any] | None, quantity: str, *, control: float | None = None) -> Judged:
    """Judge an `Interval` of r, a difference of r, or an accuracy. `control` is what the shuffled labels reach."""
    if estimate is None:
        return Judged(NOT_ESTIMABLE, f"{_names[quantity]} could not be estimated: too few tasks, or nothing varies.")
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    shown = f"{_names[quantity]} is {signed(value) if quantity == 'difference' else number(value)}"
    if low is None or high is None:
        return Judged(NOT_ESTIMABLE, f"{shown}, but there are too few tasks or topics for an interval.")
    bounds, smallest, chance = interval(low, high), SMALLEST[quantity], CHANCE[quantity]
    beyond = f"{chance:g}"
    if control is not None:
        reached = f"what shuffled labels reach ({number(control)})"
        beyond = reached if control > 0 else f"0 and {reached}"
    if high < smallest:
        return Judged(NOT_REPLICATED, f"{shown}, and its interval {bounds} rules out {smallest:g} or more.")
    if low > chance and (control is None or low > control):
        return Judged(REPLICATED, f"{shown}, and its interval {bounds} lies above {beyond}.")
    return Judged(
        INCONCLUSIVE, f"{shown}; its interval {bounds} neither lies above {beyond} nor rules out {smallest:g}."
    )


def judge_held_out(r: dict[str, Any] | None, shuffled: dict[str, Any] | None) -> Judged:
    """Judge r on held-out tasks against 0 and against probes of permuted labels, which must have been trained."""
    control = shuffled["high"] if shuffled else None
    judged = judge(r, "r", control=control)
    if judged.verdict == REPLICATED and control is None:
        return Judged(INCONCLUSIVE, f"{judged.why.removesuffix('.')}, but there is no shuffled-label control.")
    return judged


def judge_shift(experiment: dict[str, Any]) -> Judged:
    """Judge the on-target correlation of one system-prompt experiment."""
    if not experiment["estimable"]:
        return Judged(NOT_ESTIMABLE, experiment["why"])
    on_target = experiment["on_target"]
    judged, p = judge(on_target["pearson"], "r"), on_target["p"]
    if judged.verdict != REPLICATED:
        return judged
    stem = judged.why.removesuffix(".")
    if p is None or p >= SIGNIFICANT:
        chance = "but no permutation p could be computed" if p is None else f"but the permutation p is {p_value(p)}"
        return Judged(INCONCLUSIVE, f"{stem}, {chance}.")
    return Judged(REPLICATED, f"{stem} (permutation p = {p_value(p)}).".replace("p = <", "p < "))


def judge_reliability(value: float | None) -> Judged:
    """Judge the split-half reliability of the utilities that probes are trained on, after Spearman and Brown."""
    if value is None:
        return Judged(NOT_ESTIMABLE, "No split of the pairs gave two halves that could be compared.")
    verdict = REPLICATED if value >= RELIABLE else NOT_REPLICATED if value < UNRELIABLE else INCONCLUSIVE
    against = {REPLICATED: f"at least {RELIABLE}", NOT_REPLICATED: f"below {UNRELIABLE}"}
    where = against.get(verdict, f"between {UNRELIABLE} and {RELIABLE}")
    return Judged(verdict, f"Split-half reliability, stepped up to all pairs, is {number(value)}, which is {where}.")


_names = {"r": "r", "difference": "The difference in r", "accuracy": "Accuracy"}
