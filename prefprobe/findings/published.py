"""What was published for Gemma-3-27B-it, with the errors that its sample sizes give it; the verdict compares with this."""

from dataclasses import dataclass
from math import hypot, sqrt

MODEL = "Gemma-3-27B-it"
SHORT = "Gemma-3-27B"
BLOCKS = 62
LAYER = 31
"""All published values are of this layer."""
TASKS = {"train": 10_000, "eval": 3_000}
FINAL = TASKS["eval"] // 2
"""Held-out values are of one half of the eval tasks."""
FOLDS = 12

HELD_OUT: dict[str, dict[str, float]] = {
    "model": {"raw": 0.864, "demeaned": 0.761},
    "base": {"raw": 0.770, "demeaned": 0.633},
    "encoder": {"raw": 0.614},
}
"""Pearson r on held-out tasks, by role of the features and target. The encoder is all-MiniLM-L6-v2."""

ACCURACY = {"raw": 0.768, "demeaned": 0.689}
"""Share of held-out choices that the model's probe foretells, by target."""

CROSS_TOPIC: dict[str, dict[str, float]] = {
    "model": {"mean": 0.817, "sd": 0.096},
    "base": {"mean": 0.627, "sd": 0.128},
    "encoder": {"mean": 0.354, "sd": 0.095},
}
"""Unweighted mean and standard deviation of r over 12 held-out topics."""

SHIFT: dict[str, dict[str, float]] = {
    "category": {"on_target": 0.898, "pooled": 0.612},
    "targeted": {"on_target": 0.947, "pooled": 0.649},
    "crossed": {"on_target": 0.859, "pooled": 0.660},
    "competing": {"on_target": 0.881, "pooled": 0.775},
}
"""Pearson r between what a system prompt changes in choices and in probe scores. None was published for personas."""

PROMPTS = {"category": 38, "targeted": 16, "crossed": 16, "competing": 48}
"""System prompts of each experiment: taken as its number of independent observations, since no error was published."""

RELIABILITY = 0.947
"""r between the utilities of tasks that two whole runs share."""


@dataclass(frozen=True)
class Shown:
    """A published value and its standard error: of Fisher's z for a correlation, else of the value itself."""

    value: float
    se: float
    parts: dict[str, float]
    """What stands beside it: for a difference, both correlations."""


def held_out(target: str) -> Shown:
    """Correlation of the model’s probe on held-out tasks."""
    return Shown(HELD_OUT["model"][target], _of_z(FINAL), {})


def accuracy() -> Shown:
    """Accuracy on raw utilities, as if of one choice for each held-out task: how many there were was not published."""
    p = ACCURACY["raw"]
    return Shown(p, sqrt(p * (1 - p) / FINAL), {})


def held_out_above(role: str) -> Shown | None:
    """By how much the model's r on held-out tasks is above that of other features; None if none was published.

    The error is that of two independent samples: that both are of the same tasks can only make it smaller.
    """
    if role not in HELD_OUT:
        return None
    r = {"model": HELD_OUT["model"]["raw"], role: HELD_OUT[role]["raw"]}
    se = hypot(*((1 - value**2) * _of_z(FINAL) for value in r.values()))
    return Shown(r["model"] - r[role], se, r)


def cross_topic() -> Shown:
    """Mean r over held-out topics; its error is that of a mean of as many independent folds."""
    mean, sd = CROSS_TOPIC["model"]["mean"], CROSS_TOPIC["model"]["sd"]
    return Shown(mean, sd / sqrt(FOLDS) / (1 - mean**2), {"sd": sd})


def cross_topic_above(role: str) -> Shown | None:
    """By how much the model's mean over held-out topics is above that of other features; None if none was published."""
    if role not in CROSS_TOPIC:
        return None
    one, other = CROSS_TOPIC["model"], CROSS_TOPIC[role]
    se = hypot(one["sd"], other["sd"]) / sqrt(FOLDS)
    return Shown(one["mean"] - other["mean"], se, {"model": one["mean"], role: other["mean"]})


def shift(experiment: str) -> Shown | None:
    """On-target r of an experiment; None if none was published."""
    if experiment not in SHIFT:
        return None
    found = SHIFT[experiment]
    return Shown(found["on_target"], _of_z(PROMPTS[experiment]), {"pooled": found["pooled"]})


def _of_z(n: int) -> float:
    """Standard error of Fisher's z of n independent observations."""
    return 1 / sqrt(n - 3)
