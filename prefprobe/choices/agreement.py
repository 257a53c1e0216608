"""Do two tables of choices come from one model? Own weights, whose P(A) is exact, beside whatever else was asked."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefprobe.choices.log import nothing_said
from prefprobe.settings.api import ENOUGH_PAIRS

Floats = npt.NDArray[np.float64]
Verdict = Literal["same", "undecided", "different"]

SAMPLES = 12
"""Answers to each order of a pair where answers are sampled: what benchmarks/agreement.py says of fewer and of more."""
SPREAD = 0.1
"""Standard deviation of own P(A) below which it is nearly constant: r is then of differences that mean little, and how far
probabilities lie apart decides alone."""
SELDOM = 0.5
"""Share of own label mass below which answers begin with a label too seldom for chance: where that leaves too few pairs to
decide by, the endpoint is not asked as own weights are."""
RESAMPLES = 2000
_CONSTANT = 1e-6
"""Variance of P(A) up to which it is what rounding leaves, and correlates with nothing."""


@dataclass(frozen=True)
class Agreement:
    """What the comparison of two tables of choices has found; None where it cannot be estimated.

    Intervals are 95 % percentile bootstraps over pairs. Of sampled answers everything is freed of the noise of sampling.
    """

    pairs: int
    """Pairs that both tables have answers to: exact ones, or two that begin with a label, without which their noise is not
    known."""
    choices: int
    """Ordered pairs among them, nearly twice as many."""
    answers: int
    """Rows of the other table."""
    refusals: int
    unparsed: int
    failed: int
    labelled: float | None
    """Share of the other table's answers that begin with a label, as far as they are sampled; its mean label mass if exact."""
    label_mass: float | None
    """Mean label mass of own weights."""
    spread: float | None
    """Standard deviation of own P(A)."""
    noise: float | None
    """Share of the variance of the other P(A) that is noise of sampling; 0 if it is exact."""
    r: float | None
    """Correlation of P(A) between the tables."""
    r_low: float | None
    r_high: float | None
    difference: float | None
    """Root mean square of the difference of P(A). A square can be freed of the noise of sampling, a size cannot."""
    difference_low: float | None
    difference_high: float | None
    min_agreement: float
    """What r must reach."""
    max_difference: float
    """What the difference may reach."""
    verdict: Verdict
    """`same` or `different` where the whole interval of both says so, or of one of them, against its bound."""

    @property
    def found(self) -> str:
        """Both statistics with their intervals, in words."""
        r = f"r = {_shown(self.r)} [{_shown(self.r_low)}, {_shown(self.r_high)}]"
        apart = f"{_shown(self.difference)} [{_shown(self.difference_low)}, {_shown(self.difference_high)}]"
        return f"P(A) correlates at {r} and lies {apart} apart (root mean square)"


def agreement(own: pa.Table, other: pa.Table, *, min_agreement: float, max_difference: float) -> Agreement:
    """Hold choices, exact or sampled, against exact ones of own weights on the same pairs; both with the columns of
    `log.SCHEMA`. What a judge has read is left out: own weights say nothing of answers that begin otherwise.

    With x a label's share among s answers to a question and p own P(A), (x − p)² − x(1 − x)/(s − 1) is free of the noise of
    sampling, as is the variance of x less its mean x(1 − x)/(s − 1). Questions count by s − 1.
    """
    moments, spread = _moments(own, other)
    counted = int(moments[:, _N].sum())
    about: dict[str, Any] = {
        "pairs": len(moments),
        "choices": counted,
        "answers": other.num_rows,
        **nothing_said(other),
    }
    about |= {"labelled": _labelled(other), "label_mass": _mean(own.column("label_mass").to_pylist()), "spread": spread}
    about |= {"min_agreement": min_agreement, "max_difference": max_difference}
    if len(moments) < 2:
        unknown: dict[str, Any] = dict.fromkeys(_ESTIMATED)
        return Agreement(**about, **unknown, verdict="undecided")
    n = len(moments)
    times = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    (r,), (squared,), (noise,) = _estimates(moments.sum(0, keepdims=True))
    resampled_r, resampled, _ = _estimates(times @ moments)
    resampled_r = np.where(np.isnan(resampled_r), 1.0, resampled_r)  # what cannot be estimated speaks against nobody
    r_low, r_high = np.quantile(resampled_r, [0.025, 0.975])
    low, high = np.sqrt(np.maximum(np.quantile(resampled, [0.025, 0.975]), 0.0))
    by_r = spread is not None and spread >= SPREAD
    verdict: Verdict = "undecided"
    if n >= ENOUGH_PAIRS and (low > max_difference or (by_r and r_high < min_agreement)):
        verdict = "different"
    elif n >= ENOUGH_PAIRS and high <= max_difference and (not by_r or r_low >= min_agreement):
        verdict = "same"
    estimates = (noise, None if np.isnan(r) else r, r_low, r_high, np.sqrt(max(squared, 0.0)), low, high)
    values: dict[str, Any] = {
        name: None if value is None else float(value) for name, value in zip(_ESTIMATED, estimates, strict=True)
    }
    return Agreement(**about, **values, verdict=verdict)


def objection(found: Agreement, whom: str) -> str | None:
    """Why a study must not go on with choices of `whom`, in a sentence that says what to check; None if it may."""
    checks = (
        "check that it serves the model of model.source, in this revision, with its model.adapter, and not much quantised; "
        "that it puts no system prompt in front and renders the same chat template (model.template, model.date); and that it "
        "heeds the temperature"
    )
    if found.verdict == "different":
        return (
            f"{whom} is not the model of own weights: over {found.pairs} pairs {found.found}, expected r of "
            f"choices.api.min_agreement = {found.min_agreement:g} or more and a distance of choices.api.max_difference = "
            f"{found.max_difference:g} or less; {checks}; where they are meant to differ, set choices.api.compare to 0, or "
            "these bounds to what you allow."
        )
    seldom = (found.labelled or 0.0) < SELDOM * (1.0 if found.label_mass is None else found.label_mass)
    if found.answers and (not found.choices or (found.pairs < ENOUGH_PAIRS and seldom)):
        return (
            f"{whom} cannot be compared with own weights: of {found.answers} answers {found.refusals} refuse, "
            f"{found.unparsed} begin with no label and {found.failed} failed, which leaves {found.pairs} pairs, where own "
            f"weights begin with a label with a probability of {_shown(found.label_mass, 2)}; {checks}; where they are meant to "
            "differ, set choices.api.compare to 0."
        )
    return None


_ESTIMATED = ("noise", "r", "r_low", "r_high", "difference", "difference_low", "difference_high")
_N, _W, _P, _X, _PP, _XX, _PX, _WW, _NOISE, _APART = range(10)
"""Columns of the moments: questions, weights, and sums of weight times p, x, p², x², px, itself, noise, (x − p)² − noise."""


def _moments(own: pa.Table, other: pa.Table) -> tuple[Floats, float | None]:
    """(pairs, 10) sums over the questions of each pair, and the standard deviation of p over all questions."""
    exact = {_question(row): row["p_a"] for row in own.to_pylist() if row["outcome"] == "exact"}
    read: dict[tuple[str, str, str], list[float]] = {}
    sampled = set()
    for row in other.to_pylist():
        if row["p_a"] is not None and not row["judged"] and (question := _question(row)) in exact:
            read.setdefault(question, []).append(row["p_a"])
            if row["outcome"] != "exact":
                sampled.add(question)
    sums: dict[tuple[str, frozenset[str]], Floats] = {}
    for question in sorted(read):
        s, p, x = len(read[question]), exact[question], float(np.mean(read[question]))
        if question in sampled and s < 2:
            continue
        weight, noise = (s - 1.0, x * (1 - x) / (s - 1)) if question in sampled else (1.0, 0.0)
        of = weight * np.array([0.0, 1.0, p, x, p * p, x * x, p * x, weight, noise, (x - p) ** 2 - noise])
        of[_N] = 1.0
        pair = question[0], frozenset(question[1:])
        sums[pair] = sums.get(pair, np.zeros(10)) + of
    moments = np.array([sums[pair] for pair in sorted(sums, key=lambda pair: (pair[0], *sorted(pair[1])))]).reshape(
        -1, 10
    )
    spread = float(np.std(list(exact.values()))) if exact else None
    return moments, spread


def _estimates(sums: Floats) -> tuple[Floats, Floats, Floats]:
    """r, the squared difference and the share of noise, each (k,), from (k, 10) sums; r is NaN where own P(A) is constant."""
    w = sums[:, _W]
    p, x, pp, xx, px = (sums[:, column] / w for column in (_P, _X, _PP, _XX, _PX))
    free = np.maximum(1.0 - sums[:, _WW] / w**2, 1e-12)  # degrees of freedom
    of_p, of_x, both = (pp - p * p) / free, (xx - x * x) / free, (px - p * x) / free
    noise = sums[:, _NOISE] / w
    left = of_x - noise
    with np.errstate(divide="ignore", invalid="ignore"):
        varies, hidden = left > _CONSTANT, np.where(noise > _CONSTANT, np.sign(both), 0.0)
        r = np.clip(np.where(varies, both / np.sqrt(of_p * np.where(varies, left, 1.0)), hidden), -1.0, 1.0)
        share = np.where(of_x > 0, np.minimum(noise / of_x, 1.0), 0.0)
    return np.where(of_p > 0, r, np.nan), sums[:, _APART] / w, share


def _question(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["prompt_id"], row["task_a"], row["task_b"]


def _labelled(other: pa.Table) -> float | None:
    """See `Agreement.labelled`; None of no answers."""
    rows = other.to_pylist()
    says = {"exact": None, "a": 1.0, "b": 1.0}
    of = [row["label_mass"] if row["outcome"] == "exact" else says.get(row["outcome"], 0.0) for row in rows]
    return _mean([0.0 if row["judged"] else value for row, value in zip(rows, of, strict=True)])


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _shown(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
