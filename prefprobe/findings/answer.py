"""The answer in two sentences, put together from the verdict."""

from typing import Any

from prefprobe.findings import published
from prefprobe.findings.rules import INCONCLUSIVE, NOT_ESTIMABLE, NOT_REPLICATED, REPLICATED
from prefprobe.numbers import interval, listed, number, signed

_PREDICTS = {
    REPLICATED: "predicts how much the model prefers unseen tasks",
    NOT_REPLICATED: "does not predict how much the model prefers unseen tasks",
    INCONCLUSIVE: "is not shown to predict how much the model prefers unseen tasks",
    NOT_ESTIMABLE: "could not be tested on unseen tasks",
}
_TOPICS = {
    REPLICATED: "it carries over to unseen topics",
    NOT_REPLICATED: "it does not carry over to unseen topics",
    INCONCLUSIVE: "it is not shown to carry over to unseen topics",
    NOT_ESTIMABLE: "whether it carries over to unseen topics could not be estimated",
}
_ENCODER = {
    REPLICATED: "it reads more than a sentence encoder does",
    NOT_REPLICATED: "it reads no more than a sentence encoder does",
    INCONCLUSIVE: "it is not shown to read more than a sentence encoder does",
    NOT_ESTIMABLE: "whether it reads more than a sentence encoder could not be estimated",
}


def answer(model: str, claims: list[dict[str, Any]]) -> str:
    """Two sentences: what the probe reads, and whether it follows what system prompts change."""
    by_id = {claim["id"]: claim for claim in claims}
    held_out, topics = by_id["heldout_raw"], by_id["cross_topic"]
    encoder = next(
        (c for id_, c in by_id.items() if id_.startswith("heldout_above_") and "encoder" in c["detail"]), None
    )
    known = f"; {published.SHORT}: {number(held_out['published']['r'])}" if held_out["value"] is not None else ""
    first = (
        f"In {model}, a linear probe of activations {_PREDICTS[held_out['verdict']]}{_numbers(held_out, 'r = ', known)}"
    )
    clauses = [f"{_TOPICS[topics['verdict']]}{_numbers(topics, 'mean r = ')}"]
    if encoder:
        clauses.append(f"{_ENCODER[encoder['verdict']]}{_numbers(encoder, '')}")
    return f"{first}; {listed(clauses)}. {_shifts([c for c in claims if c['id'].startswith('shift_')])}"


def _numbers(claim: dict[str, Any], name: str, beside: str = "") -> str:
    if claim["value"] is None:
        return ""
    value = signed(claim["value"]) if "_above_" in claim["id"] else number(claim["value"])
    return f" ({name}{' '.join(filter(None, [value, interval(claim['low'], claim['high'])]))}{beside})"


def _shifts(claims: list[dict[str, Any]]) -> str:
    if not claims:
        return "Whether the probe follows preferences that system prompts change was not tested."
    named = {
        verdict: [c["id"].removeprefix("shift_") for c in claims if c["verdict"] == verdict] for verdict in _PREDICTS
    }
    if len(named[NOT_ESTIMABLE]) == len(claims):
        return (
            "Whether the probe’s score follows preferences that system prompts change could not be estimated in any of "
            f"the {len(claims)} experiments."
        )
    followed = named[REPLICATED]
    which = (
        f"{len(followed)} of {len(claims)} experiments ({listed(followed)})"
        if followed
        else f"none of {len(claims)} experiments"
    )
    others = {NOT_REPLICATED: "spoke against it", INCONCLUSIVE: "left it open", NOT_ESTIMABLE: "could not be estimated"}
    rest = [f"{len(named[v])} {text} ({listed(named[v])})" for v, text in others.items() if named[v]]
    return f"Where system prompts change preferences, the probe’s score follows in {'; '.join([which, *rest])}."
