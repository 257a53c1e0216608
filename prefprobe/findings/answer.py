"""The answer in one sentence, put together from the claims as a careful reader would."""

from typing import Any

import numpy as np

from prefprobe.findings import published
from prefprobe.findings.rules import ABSENT, CONSISTENT, INCONCLUSIVE, NOT_ESTIMABLE, STRONGER, TEXT, WEAKER
from prefprobe.numbers import interval, listed, number, signed

OPEN = {
    INCONCLUSIVE: "left open",
    ABSENT: "spoke against it",
    TEXT: "followed the prompt’s text, as an encoder does",
    NOT_ESTIMABLE: "could not be estimated",
}
_IN_LINE = ", in line with the published result"
_AS = {
    "r": {CONSISTENT: _IN_LINE, WEAKER: ", more weakly than published", STRONGER: ", more strongly than published"},
    "difference": {CONSISTENT: _IN_LINE, WEAKER: ", by less than published", STRONGER: ", by more than published"},
}
_HELD_OUT = ("predicts how much the model prefers unseen tasks", "predict how much the model prefers unseen tasks")
_TOPICS = ("carries over to unseen topics", "carry over to unseen topics")
_ENCODER = ("reads more than a sentence encoder does", "read more than a sentence encoder does")


def answer(model: str, claims: list[dict[str, Any]]) -> str:
    """One sentence: what the probe reads, and whether it follows what system prompts change.

    A claim that is present by itself and not after Holm's adjustment is said not to be shown.
    """
    by_id = {claim["id"]: claim for claim in claims}
    encoders = [c for id_, c in by_id.items() if id_.startswith("heldout_above_") and "encoder" in c["detail"]]
    # of several the one that the probe stands least above: what is said of an encoder is to hold for all
    encoder = min(encoders, key=lambda c: (c["holds"], -np.inf if c["value"] is None else c["value"]), default=None)
    clauses = [
        f"in {model}, a linear probe of activations {_said(by_id['heldout_raw'], _HELD_OUT, 'r = ')}",
        f"it {_said(by_id['cross_topic'], _TOPICS, 'mean r = ')}",
    ]
    if encoder:
        clauses.append(f"it {_said(encoder, _ENCODER, '')}")
    sentence = "; ".join([*clauses, _shifts([c for c in claims if c["id"].startswith("shift_")])])
    return f"{sentence[0].upper()}{sentence[1:]}."


def _said(claim: dict[str, Any], verb: tuple[str, str], name: str) -> str:
    label, (does, do) = claim["verdict"], verb
    if claim["holds"]:
        compared = _AS["difference" if "_above_" in claim["id"] else "r"].get(label, "")
        return f"{does}{compared}{_numbers(claim, name)}"
    if label == NOT_ESTIMABLE:
        return f"could not be tested for whether it {does}"
    if label == ABSENT:
        return f"does not {do}{_numbers(claim, name)}"
    beyond = "" if label == INCONCLUSIVE else " once all claims are allowed for"
    return f"is not shown to {do}{beyond}{_numbers(claim, name)}"


def _numbers(claim: dict[str, Any], name: str) -> str:
    difference = "_above_" in claim["id"]
    value = signed(claim["value"]) if difference else number(claim["value"])
    known = claim["published"] and next(iter(claim["published"].values()))
    beside = "" if known is None or difference else f"; {published.SHORT}: {number(known)}"
    return f" ({name}{' '.join(filter(None, [value, interval(claim['low'], claim['high'])]))}{beside})"


def _shifts(claims: list[dict[str, Any]]) -> str:
    if not claims:
        return "whether it follows preferences that system prompts change was not tested"
    of = f"{len(claims)} experiment{'s' if len(claims) > 1 else ''}"
    followed = [_name(c) for c in claims if c["holds"]]
    weaker = [_name(c) for c in claims if c["holds"] and c["verdict"] == WEAKER]
    which = f"{len(followed)} of {of} ({listed(followed)})" if followed else f"none of {of}"
    if weaker:
        which += f", more weakly than published in {listed(weaker)}"
    rest = []
    for label, text in OPEN.items():
        named = [_name(c) for c in claims if not c["holds"] and _open(c) == label]
        if named:
            rest.append(f"{len(named)} {text} ({listed(named)})")
    found = f"where system prompts change preferences, its score is shown to follow in {which}"
    return f"{found}{': ' if rest else ''}{listed(rest)}"


def _open(claim: dict[str, Any]) -> str:
    """Why a claim does not hold: present by itself, but not after Holm's adjustment, is open."""
    return claim["verdict"] if claim["verdict"] in OPEN else INCONCLUSIVE


def _name(claim: dict[str, Any]) -> str:
    return str(claim["id"].removeprefix("shift_"))
