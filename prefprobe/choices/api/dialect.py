"""What an endpoint understands, found out by a few small calls before the first question.

Endpoints speak the same language with accents: some turn down `seed`, `temperature` or a system role, some call the
length of an answer otherwise, some list log-probabilities and some only say nothing when asked for them.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Any

from prefprobe.choices.api.client import Reply
from prefprobe.choices.api.replies import Body, finish, logprobs, reported_cost, text, thinks, to_answer, unlisted
from prefprobe.choices.engine import Spend
from prefprobe.choices.listed import Listed
from prefprobe.choices.reading import Labels, answer_text, read_probabilities
from prefprobe.errors import BadConfig
from prefprobe.settings import ApiSettings

ENOUGH_MASS = 0.9
"""Mean label mass from which on probabilities are read off: below it too many answers begin in other words."""
PLAIN_TOKENS = 16
"""Tokens that a model without thoughts needs to name a label."""
MOST_TOKENS = 16384
"""Tokens that a thought may take."""
_TOP = (20, 5, 2)
"""Log-probabilities asked for at each position: the most that OpenAI and vLLM list, what others do, and the least that
have both labels."""
_SYSTEM = "You are a helpful assistant."

_NAMES = {
    "seed": re.compile(r"\bseed\b"),
    "limit": re.compile(r"\bmax_(completion_)?tokens\b"),
    "temperature": re.compile(r"\btemperature\b"),
    "system": re.compile(r"\bsystem\b"),
}
"""What can be left out, and how an error's sentence names it; left out in this order if none is named."""
_LESS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": ""}
_TOO_SHORT = re.compile(r"could not finish|limit was reached|higher max|at least|minimum")


@dataclass(frozen=True)
class Dialect:
    """How one endpoint is asked, in plain values. A step that goes on later uses the dialect that it began with."""

    model: str = ""
    """The model that answers, in the endpoint's words; every answer must come from it."""
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
        turns = [{"role": "user", "content": user}]
        if system is not None:
            turns = [{"role": "system", "content": system}, *turns]
            if not self.system:
                turns = [{"role": "user", "content": f"{system}\n\n{user}"}]
        body = {"model": settings.model, "messages": turns, **settings.extra}
        if self.limit:
            body[self.limit] = self.max_tokens
        if self.temperature:
            body["temperature"] = 0.0 if self.exact else temperature
        if self.seed and seed is not None and not self.exact:
            body["seed"] = seed
        if self.exact:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return body


@dataclass(frozen=True)
class Interview:
    """Finds out an endpoint's dialect; raises BadConfig if it cannot be asked as the settings want."""

    ask: Callable[[Sequence[Body]], list[Reply]]
    """Replies to some bodies, in order."""
    settings: ApiSettings
    temperature: float
    samples: Sequence[str]
    """User turns such as will be asked later, at least two."""
    labels: Labels | None
    """What answers begin with; None where probabilities are not wanted."""

    def dialect(self) -> Dialect:
        """Agree on the fields, look for log-probabilities, then ask all samples as questions will be asked."""
        agreed = self._agreed()
        spoken, reason = self._with_probabilities(agreed)
        spoken, replies, reason = self._answered(spoken, reason)
        if spoken.exact:
            spoken, reason = self._worth_reading(spoken, replies, reason)
        mode = "exact" if spoken.exact else "sampled"
        if not spoken.exact:
            spoken = replace(spoken, temperature=agreed.temperature, refused=agreed.refused)
        if self.settings.mode == "exact" and not spoken.exact:
            raise BadConfig(
                f"{self._whom}: mode is exact, but {reason}; set it to auto or sampled, or ask another provider."
            )
        bodies = [reply.body for reply in replies if reply.body is not None]
        ids = [str(body.get("id") or "") for body in bodies]
        return replace(
            spoken,
            model=str(bodies[0].get("model") or ""),
            provider=str(bodies[0].get("provider") or ""),
            distinct_ids=all(ids) and len(set(ids)) == len(ids) > 1,
            reports_cost=any(map(reported_cost, bodies)),
            why=f"{mode}: {reason}",
        )

    @property
    def _whom(self) -> str:
        return f"{self.settings.model} at {self.settings.base_url}"

    def _agreed(self) -> Dialect:
        """What the endpoint takes of a request that is sampled; whatever is turned down is left out, one at a time."""
        spoken = Dialect(max_tokens=self.settings.max_tokens or PLAIN_TOKENS)
        guessed: list[dict[str, Any]] = []
        while (reply := self._replies(spoken, self.samples[:1], _SYSTEM)[0]).body is None:
            sentence = reply.error.replace(self.settings.model, "").lower()
            if _NAMES["limit"].search(sentence) and _TOO_SHORT.search(sentence):
                spoken = self._longer(spoken, reply.error)
                continue
            taken = [name for name in _NAMES if getattr(spoken, name)]
            if not taken:
                raise reply.means or BadConfig(
                    f"{self._whom} turned down the plainest question ({reply.error}); see `extra` and `model`."
                )
            places = {name: found.start() for name in taken if (found := _NAMES[name].search(sentence))}
            name = min(places, key=places.__getitem__) if places else taken[0]
            if not places:
                guessed.append({name: getattr(spoken, name)})
            less: dict[str, Any] = {name: _LESS.get(getattr(spoken, name), False)}
            spoken = replace(spoken, **less, refused={name: reply.error} | spoken.refused)
        back: set[str] = set()
        for left_out in guessed:  # what was left out without need comes back
            more = replace(spoken, **left_out)
            if not back & set(left_out) and self._replies(more, self.samples[:1], _SYSTEM)[0].body is not None:
                spoken, back = more, back | set(left_out)
        plain = Dialect()
        changed = {name: said for name, said in spoken.refused.items() if getattr(spoken, name) != getattr(plain, name)}
        return replace(spoken, refused=changed)

    def _with_probabilities(self, spoken: Dialect) -> tuple[Dialect, str]:
        """`spoken` with log-probabilities if they come when asked for, else the reason why not."""
        if self.labels is None or self.settings.mode == "sampled":
            return spoken, "as the settings say"
        tops = list(_TOP)
        more = replace(spoken, top_logprobs=tops.pop(0))
        while (reply := self._replies(more, self.samples[:1])[0]).body is None:
            said = reply.error.lower()
            if more.temperature and _NAMES["temperature"].search(said):  # it takes some, but not 0: the path is sampled
                more = replace(more, temperature=False, refused={"temperature": reply.error} | more.refused)
            elif tops:
                more = replace(more, top_logprobs=tops.pop(0), refused={"top_logprobs": reply.error} | more.refused)
            elif more.temperature and "logprobs" not in said:
                tops, refused = list(_TOP), {"temperature": reply.error} | spoken.refused
                more = replace(spoken, top_logprobs=tops.pop(0), temperature=False, refused=refused)
            else:
                return spoken, f"the endpoint turned log-probabilities down ({reply.error})"
        return (more, "") if logprobs(reply.body) else (spoken, unlisted(reply.body))

    def _answered(self, spoken: Dialect, reason: str) -> tuple[Dialect, list[Reply], str]:
        """Replies to all samples, with room for a thought if the model has some before it answers."""
        while True:
            replies = self._replies(spoken, self.samples)
            for reply in replies:
                if reply.body is None:
                    raise reply.means or BadConfig(f"{self._whom} turned down a sample question ({reply.error}).")
            bodies = [reply.body for reply in replies if reply.body is not None]
            if any(map(thinks, bodies)):
                spoken = replace(spoken, reasons=True)
            silent = any(finish(body) == "length" and not answer_text(text(body)).strip() for body in bodies)
            if spoken.exact and (spoken.reasons or silent):
                spoken, reason = replace(spoken, top_logprobs=0), "the model thinks before it answers"
            elif not silent:
                return spoken, replies, reason
            else:
                spoken = self._longer(spoken, "its answer ended before it began")

    def _worth_reading(self, spoken: Dialect, replies: Sequence[Reply], reason: str) -> tuple[Dialect, str]:
        """`spoken` with the mean label mass of the samples, and sampled if their log-probabilities cannot be read, say too
        little of one label, or leave too much to other answers.
        """
        assert self.labels is not None
        answers = [to_answer(reply, "", None, self.labels) for reply in replies]
        faults = [fault for answer in answers if (fault := Listed.of(answer.raw).fault)]
        if faults:
            return replace(spoken, top_logprobs=0), faults[0]
        readings = [read_probabilities(answer, self.labels, 1.0) for answer in answers]
        exact, bounded = sum(r.outcome == "exact" for r in readings), sum(r.bounded for r in readings)
        mass = mean(r.label_mass or 0.0 for r in readings)
        spoken = replace(spoken, label_mass=mass)
        if 2 * bounded > exact:
            return replace(spoken, top_logprobs=0), f"{bounded} of {exact} sample answers list one label alone"
        said = f"answers begin with a label with a probability of {mass:.2f}"
        if exact and (mass >= ENOUGH_MASS or self.settings.mode == "exact"):
            return spoken, said
        why = f"{said}, less than {ENOUGH_MASS}" if mass < ENOUGH_MASS else "no sample answer comes as far as a label"
        return replace(spoken, top_logprobs=0), why

    def _longer(self, spoken: Dialect, cause: str) -> Dialect:
        longer = spoken.max_tokens * 4
        if self.settings.max_tokens is not None or longer > MOST_TOKENS or not spoken.limit:
            raise BadConfig(
                f"{self._whom} gave no answer within {spoken.max_tokens} tokens ({cause}); raise max_tokens, or have the "
                "model think less by a field in `extra`."
            )
        return replace(spoken, max_tokens=longer)

    def _replies(self, spoken: Dialect, users: Sequence[str], system: str | None = None) -> list[Reply]:
        return self.ask(
            [spoken.body(self.settings, user, system, self.temperature, self.settings.seed) for user in users]
        )
