"""What an endpoint understands, found out by a few small calls before the first question."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from scipy.special import expit

from prefprobe.choices.api.client import Reply
from prefprobe.choices.api.dialect import FORM, PLAIN_TOKENS, PREFILLS, Dialect
from prefprobe.choices.api.replies import (
    ALONE,
    Body,
    finish,
    logprobs,
    only_calls,
    reported_cost,
    text,
    thinks,
    to_answer,
    unlisted,
)
from prefprobe.choices.engine import Reading
from prefprobe.choices.listed import Listed
from prefprobe.choices.reading import Labels, answer_text, read_probabilities
from prefprobe.errors import BadConfig
from prefprobe.settings.api import ApiSettings

ENOUGH_MASS = 0.9
"""Mean label mass from which on probabilities are read off: below it too many answers begin in other words."""
MOST_TOKENS = 16384
"""Tokens that a thought may take."""
_TOP = (20, 5, 2)
"""Log-probabilities asked for at each position: the most that OpenAI and vLLM list, what others do, and the least that
have both labels."""
_COUNTED = (20, 5)
"""The same where `logprobs` is their number: the most that Together lists, and the older completions."""
CONTINUED = 0.5
"""Mean label mass given that beginning from which on an endpoint has gone on from it: one that begins anew says other words."""
_APART = 0.1
"""How far P(A) may lie from what was read without the beginning, as differences in rounding do."""
_SYSTEM = "You are a helpful assistant."

_NAMES = {
    "form": re.compile(r"\bresponse_format\b|\bjson_schema\b|\bstructured\b"),
    "seed": re.compile(r"\bseed\b"),
    "limit": re.compile(r"\bmax_(completion_)?tokens\b"),
    "temperature": re.compile(r"\btemperature\b"),
    "system": re.compile(r"\bsystem\b"),
    "stream_options": re.compile(r"\bstream_options\b|\binclude_usage\b"),
}
"""What can be left out, and how an error's sentence names it; left out in this order if none is named."""
_LESS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": ""}
_TOO_SHORT = re.compile(r"could not finish|limit was reached|higher max|at least|minimum")


@dataclass(frozen=True)
class Interview:
    """Finds out an endpoint's dialect; raises BadConfig if it cannot be asked as the settings want."""

    ask: Callable[[Sequence[Body]], list[Reply]]
    """Replies to some bodies, in order."""
    settings: ApiSettings
    temperature: float
    plain: str
    """A user turn that nobody turns down for what it says."""
    samples: Sequence[str]
    """User turns such as will be asked later, at least two; some may be turned down."""
    labels: Labels | None
    """What answers begin with; None where probabilities are not wanted."""
    tokens: int = PLAIN_TOKENS
    """That an answer takes of a model without thoughts."""

    def dialect(self) -> Dialect:
        """Agree on the fields, look for log-probabilities, then ask all samples as questions will be asked."""
        agreed = self._agreed()
        spoken, reason = self._with_probabilities(agreed)
        spoken, answered, reason = self._answered(spoken, reason)
        calls = self._calls_of_tools(answered.values())
        if spoken.exact:
            spoken, answered, reason = self._read_off(spoken, answered)
        mode = "exact" if spoken.exact else "sampled"
        if not spoken.exact:
            spoken = replace(spoken, counted=False, temperature=agreed.temperature, refused=agreed.refused)
        if self.settings.mode == "exact" and not spoken.exact:
            raise BadConfig(
                f"{self._whom}: mode is exact, but {reason}; set it to auto or sampled, or ask another provider."
            )
        bodies = list(answered.values())
        ids = [str(body.get("id") or "") for body in bodies]
        return replace(
            spoken,
            model=str(bodies[0].get("model") or ""),
            provider=str(bodies[0].get("provider") or ""),
            distinct_ids=all(ids) and len(set(ids)) == len(ids) > 1,
            reports_cost=any(map(reported_cost, bodies)),
            why=f"{mode}: {reason}{calls}",
        )

    def _calls_of_tools(self, bodies: Collection[Body]) -> str:
        """That some samples are nothing but calls of tools, in words; raises BadConfig where most are."""
        calls = sum(map(only_calls, bodies))
        said = f"{calls} of {len(bodies)} sample answers only call a tool; `extra: {{tool_choice: none}}` forbids that"
        if 2 * calls > len(bodies):
            raise BadConfig(f"{self._whom}: {said}, else have the endpoint offer no tools.")
        return f"; {said}" if calls else ""

    @property
    def _whom(self) -> str:
        return f"{self.settings.model} at {self.settings.base_url}"

    def _agreed(self) -> Dialect:
        """What the endpoint takes of a request that is sampled; whatever is turned down is left out, one at a time."""
        spoken = plain = Dialect(
            max_tokens=self.settings.max_tokens or self.tokens, stream_options=self.settings.stream
        )
        guessed: list[dict[str, Any]] = []
        while (reply := self._replies(spoken, [self.plain], _SYSTEM)[0]).body is None:
            sentence = reply.error.replace(self.settings.model, "").lower()
            if _NAMES["limit"].search(sentence) and _TOO_SHORT.search(sentence):
                spoken = self._longer(spoken, reply.error)
                continue
            unsent = {"seed": self.settings.seed is None, "form": FORM not in self.settings.extra}
            taken = [name for name in _NAMES if getattr(spoken, name) and not unsent.get(name)]
            if not taken:
                raise reply.means or BadConfig(
                    f"{self._whom} turned down the plainest question ({reply.error}); see `extra`, `model` and `stream`."
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
            if not back & set(left_out) and self._replies(more, [self.plain], _SYSTEM)[0].body is not None:
                spoken, back = more, back | set(left_out)
        changed = {name: said for name, said in spoken.refused.items() if getattr(spoken, name) != getattr(plain, name)}
        return replace(spoken, refused=changed)

    def _with_probabilities(self, spoken: Dialect) -> tuple[Dialect, str]:
        """`spoken` with log-probabilities if they come when asked for, else the reason why not."""
        if self.labels is None or self.settings.mode == "sampled":
            return spoken, "as the settings say"
        tops = list(_TOP)
        more = replace(spoken, top_logprobs=tops.pop(0))
        while (reply := self._replies(more, [self.plain])[0]).body is None:
            said = reply.error.lower()
            if more.temperature and _NAMES["temperature"].search(said):  # it takes some, but not 0: the path is sampled
                more = replace(more, temperature=False, refused={"temperature": reply.error} | more.refused)
            elif tops:
                more = replace(more, top_logprobs=tops.pop(0), refused={"top_logprobs": reply.error} | more.refused)
            elif more.temperature and "logprobs" not in said:
                tops, refused = list(_TOP), {"temperature": reply.error} | spoken.refused
                more = replace(spoken, top_logprobs=tops.pop(0), temperature=False, refused=refused)
            else:
                break
        if reply.body is None:
            plainly = spoken, f"the endpoint turned log-probabilities down ({reply.error})"
            refused = {"logprobs": reply.error} | spoken.refused
        else:
            reason = unlisted(reply.body)
            plainly = (spoken, reason) if not logprobs(reply.body) else (more, "")
            if reason != ALONE:
                return plainly
            refused = more.refused
        for top in _COUNTED:  # Together's form, and that of the older completions
            counted = replace(more, top_logprobs=top, counted=True, refused=refused)
            reply = self._replies(counted, [self.plain])[0]
            if reply.body is not None and not unlisted(reply.body):
                return counted, ""
        return plainly

    def _answered(self, spoken: Dialect, reason: str) -> tuple[Dialect, dict[str, Body], str]:
        """What comes back for the samples, without those that are turned down, with room for a thought if the model has some
        before it answers.
        """
        while True:
            replies = dict(zip(self.samples, self._replies(spoken, self.samples), strict=True))
            answered = {user: reply.body for user, reply in replies.items() if reply.body is not None}
            if not answered:
                reply = replies[self.samples[0]]
                raise reply.means or BadConfig(
                    f"{self._whom} turned down all {len(replies)} sample questions ({reply.error}); see `extra` and `model`."
                )
            if any(map(thinks, answered.values())):
                spoken = replace(spoken, reasons=True)
            silent = any(finish(body) == "length" and not answer_text(text(body)).strip() for body in answered.values())
            if spoken.exact and (spoken.reasons or silent):
                spoken, reason = replace(spoken, top_logprobs=0), "the model thinks before it answers"
            elif not silent:
                return spoken, answered, reason
            else:
                spoken = self._longer(spoken, "its answer ended before it began")

    def _read_off(self, spoken: Dialect, answered: dict[str, Body]) -> tuple[Dialect, dict[str, Body], str]:
        """`spoken` with the mean label mass of the samples. Where too many answers begin in other words, the labels' first
        words are given if the endpoint goes on from them; where that is not so, or log-probabilities cannot be read or say
        too little of one label, answers are sampled.
        """
        assert self.labels is not None
        fault, plain = _readings(answered, self.labels)
        if fault:
            return replace(spoken, top_logprobs=0), answered, fault
        mass, exact = _mean_mass(plain), sum(r.outcome == "exact" for r in plain)
        spoken = replace(spoken, label_mass=mass)
        if _mostly_bounded(plain):
            bounded = sum(r.bounded for r in plain)
            return (
                replace(spoken, top_logprobs=0),
                answered,
                f"{bounded} of {exact} sample answers list one label alone",
            )
        said = f"answers begin with a label with a probability of {mass:.2f}"
        if exact and mass >= ENOUGH_MASS:
            return spoken, answered, said
        found = self._prefilled(spoken, list(answered), plain)
        if found is not None:
            spoken, answered, after = found
            return spoken, answered, f"{said}, so {spoken.prefill!r} is given as their beginning; after it {after:.2f}"
        if exact and self.settings.mode == "exact":
            return spoken, answered, said
        why = f"{said}, less than {ENOUGH_MASS}" if mass < ENOUGH_MASS else "no sample answer comes as far as a label"
        return replace(spoken, top_logprobs=0), answered, why

    def _prefilled(
        self, spoken: Dialect, users: Sequence[str], plain: Sequence[Reading]
    ) -> tuple[Dialect, dict[str, Body], float] | None:
        """`spoken` with the beginning of answers given, what comes back for `users` then, and its mean label mass; None if the
        endpoint does not go on from a beginning, or then prefers otherwise than the `plain` readings say.
        """
        assert self.labels is not None
        if not self.labels.beginning:
            return None
        labels = self.labels.after(self.labels.beginning)
        for how in PREFILLS:
            more = replace(spoken, prefill=labels.given, prefill_by=how)
            answered: dict[str, Body] = {}
            for n in (1, len(users)):  # one that does not understand is asked once
                some = users[len(answered) : n]
                replies = zip(some, self._replies(more, some), strict=True)
                answered |= {user: reply.body for user, reply in replies if reply.body is not None}
                fault, readings = _readings(answered, labels)
                if fault or len(answered) < n or not _same_choices(readings, plain):
                    break
            else:
                return more, answered, _mean_mass(readings)
        return None

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


def _readings(answered: Mapping[str, Body], labels: Labels) -> tuple[str, list[Reading]]:
    """Why log-probabilities of one of the replies cannot be read, "" if all can, and what they say."""
    answers = [to_answer(Reply("", body, "", ()), "", None, labels) for body in answered.values()]
    listed = map(Listed.of, (answer.raw for answer in answers))
    fault = next((f"{of.fault} ({of.found})" for of in listed if of.fault), "")
    return fault, [read_probabilities(answer, labels, 1.0) for answer in answers]


def _mean_mass(readings: Sequence[Reading]) -> float:
    return mean([reading.label_mass or 0.0 for reading in readings] or [0.0])


def _mostly_bounded(readings: Sequence[Reading]) -> bool:
    """Whether most of those that come as far as a label list one of them alone."""
    return 2 * sum(r.bounded for r in readings) > sum(r.outcome == "exact" for r in readings)


def _same_choices(readings: Sequence[Reading], plain: Sequence[Reading]) -> bool:
    """Whether answers with a given beginning go on to a label, and choose as those without it that do so of themselves."""
    if any(r.outcome != "exact" for r in readings) or _mostly_bounded(readings) or _mean_mass(readings) < CONTINUED:
        return False
    both = [(r.logit, p.logit) for r, p in zip(readings, plain, strict=False) if p.logit is not None and not p.bounded]
    return all(abs(expit(logit) - expit(before)) <= _APART for logit, before in both)
