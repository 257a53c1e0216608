"""How an endpoint is asked.

Endpoints speak the same language with accents: some turn down `seed`, `temperature` or a system role, some call the
length of an answer otherwise, some list log-probabilities and some only say nothing when asked for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefprobe.choices.engine import Spend
from prefprobe.settings.api import ApiSettings

FORM = "response_format"
"""The field of a request that says which form an answer has."""
PLAIN_TOKENS = 16
"""Tokens that a model without thoughts needs to name a label."""
PREFILLS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "continue_final_message": ({"continue_final_message": True, "add_generation_prompt": False}, {}),
    "last turn": ({}, {}),
    "prefix": ({}, {"prefix": True}),
}
"""Ways to have an answer go on from its beginning, which stands in an assistant's turn at the end: the fields of the request,
and those of the turn, that ask for it. They are tried in this order."""


@dataclass(frozen=True)
class Dialect:
    """How one endpoint is asked, in plain values. A step that goes on later uses the dialect that it began with."""

    model: str = ""
    """The model that answers, in the endpoint's words; every answer must come from it, if `served` names no others."""
    provider: str = ""
    system: bool = True
    """Whether there is a system role; a system prompt stands at the head of the user's turn otherwise."""
    seed: bool = True
    temperature: bool = True
    limit: str = "max_tokens"
    """The field that limits an answer's length: `max_tokens`, `max_completion_tokens` or none."""
    max_tokens: int = PLAIN_TOKENS
    top_logprobs: int = 0
    """Log-probabilities asked for at each position; 0 if answers are sampled."""
    counted: bool = False
    """Whether they are asked for by their number in `logprobs`, as in the older completions, and not in `top_logprobs`."""
    form: bool = True
    """Whether the form of an answer is asked for as `extra` says in FORM, where it says so."""
    stream_options: bool = False
    """Whether a stream is asked to say what it took."""
    prefill: str = ""
    """The beginning of the answer that is given with the question; "" for none."""
    prefill_by: str = ""
    """How the endpoint is told to go on from there; one of PREFILLS, or "" for none."""
    refused: dict[str, str] = field(default_factory=dict)
    """What is left out or asked for otherwise, and the sentence with which the endpoint turned it down."""
    distinct_ids: bool = False
    """Whether every reply has an id of its own, so that an id seen before tells a duplicate."""
    reports_cost: bool = False
    usage: bool = True
    """Whether every reply says how many tokens it took; they are estimated where one does not."""
    reasons: bool = False
    """Whether the model thinks before it answers."""
    label_mass: float | None = None
    """Mean probability that an answer begins with a label, over the sample pairs; None if none was listed."""
    why: str = ""
    """Why answers are sampled, or probabilities read off, in words."""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """What finding out has taken: answers, tokens and US dollars."""

    @property
    def exact(self) -> bool:
        """Whether probabilities are read off."""
        return self.top_logprobs > 0

    @property
    def spend(self) -> Spend:
        """What finding out has taken."""
        return Spend(self.requests, self.prompt_tokens, self.completion_tokens, self.cost)

    def body(
        self, settings: ApiSettings, user: str, system: str | None, temperature: float, seed: int | None
    ) -> dict[str, Any]:
        """A request. Where probabilities are read off, the answer follows the likely path: temperature 0, no seed."""
        turns: list[dict[str, Any]] = [{"role": "user", "content": user}]
        if system is not None:
            turns = [{"role": "system", "content": system}, *turns]
            if not self.system:
                turns = [{"role": "user", "content": f"{system}\n\n{user}"}]
        body = {"model": settings.model, "messages": turns, **settings.extra}
        if not self.form:
            body.pop(FORM, None)
        if self.prefill:
            fields, marks = PREFILLS[self.prefill_by]
            turns.append({"role": "assistant", "content": self.prefill, **marks})
            body |= fields
        if self.limit:
            body[self.limit] = self.max_tokens
        if self.temperature:
            body["temperature"] = 0.0 if self.exact else temperature
        if self.seed and seed is not None and not self.exact:
            body["seed"] = seed
        if self.exact and self.counted:
            body["logprobs"] = self.top_logprobs
        elif self.exact:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        if settings.stream:
            body["stream"] = True
        if self.stream_options:
            body["stream_options"] = {"include_usage": True}
        return body
