"""Choices that tell no task from another: a finding of their own, after which nothing else can be estimated."""

from typing import Any

import numpy as np

from prefprobe.findings.results import Results
from prefprobe.numbers import by_set, listed, number

FLAT = 1e-6
"""Utilities that differ by less, in units of a typical σ, are equal: logits in float32 resolve no more."""

NEEDS = {"heldout": ("train", "eval"), "cross": ("train",), "shift": ("train",)}
"""The sets whose utilities a claim rests on, by the beginning of its id: a probe is trained on those of train."""

_SILENT = {"refusals": "a refusal", "unparsed": "unparsed", "failed": "failed"}


def constant(results: Results) -> dict[str, str]:
    """What the model does, in words, for each set whose utilities are all equal; empty where there is something to read."""
    return {
        name: _found(results.measure[name])
        for name, utilities in results.utilities.items()
        if np.ptp(utilities.column("mu").to_numpy()) < FLAT
    }


def sentence(flat: dict[str, str]) -> str:
    """One sentence on what `constant` found; "" if it found nothing."""
    if not flat:
        return ""
    return f"The choices are constant: {by_set(flat)}; all utilities are equal, and nothing can be read in them."


def unestimable(claim: dict[str, Any], flat: dict[str, str], verdict: str) -> dict[str, Any]:
    """`claim` with `verdict` and no estimate if it rests on a constant set; else as it is."""
    on = [name for name in NEEDS[claim["id"].split("_")[0]] if name in flat]
    if not on:
        return claim
    why = f"The choices are constant ({listed(on)}): all utilities are equal, and there is nothing to estimate."
    return claim | dict.fromkeys(("value", "low", "high", "expected", "p")) | {"verdict": verdict, "why": why}


def _found(measured: dict[str, Any]) -> str:
    silent = {name: measured.get(name) or 0 for name in _SILENT}
    if sum(silent.values()) == measured["n_choices"]:
        return f"every answer is {' or '.join(words for name, words in _SILENT.items() if silent[name])}"
    bias = measured["position_bias"]
    p, mean, sd = (bias[name] for name in ("p_first", "mean_logit", "sd_logit"))
    if p in (0.0, 1.0):
        return f"the task shown {'first' if p else 'second'} is always chosen"
    if sd is not None and sd <= FLAT * max(1.0, abs(mean)):
        if abs(mean) <= FLAT:
            return "either task is chosen with a probability of 0.5, whatever the two are"
        return f"the task shown first is chosen with a probability of {number(p)}, whatever the two are"
    return "over both orders no task is preferred to another"
