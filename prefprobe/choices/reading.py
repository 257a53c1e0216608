"""What an answer says: the label it begins with, a refusal, or both labels' probabilities from listed log-probabilities.

Only the raw answer is read, so a better reader reads old answers again and nobody pays again.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import exp, log

from prefprobe.choices.engine import Answer, Outcome, Reading
from prefprobe.choices.listed import UNLISTED, Listed
from prefprobe.choices.stimulus import Stimulus
from prefprobe.errors import BadConfig

READING = 2
"""Raised with every change of what is read of an endpoint's answers; part of the key of steps that ask one. Answers are kept
raw, and none is asked again.
"""

_HEAD = re.compile(r"[\s*#_`>\u200b\ufeff]*")
"""White space and marks that may stand before a label."""

_JOINED = re.compile(r"[\s*#_`>:,.;/&|+\-]*(?:(?:and|or)\b)?[\s*#_`>:,.;/&|+\-]*", re.IGNORECASE)
"""What stands between two labels that are named in one breath."""

_LEAST = 1e-6
"""What the digits of a log-probability leave open: a label that is not listed may have as much beside one of 1."""

_REFUSAL = re.compile(
    r"(?:(?:i'm|i am) (?:\w+ )?sorry\b|sorry, (?:but )?i\b|i apologi[sz]e\b|my apologies\b"
    r"|(?:unfortunately,? |(?:i'm|i am) afraid )?i (?:can't|cannot|can not)(?! (?:wait|help but|decide|choose)\b)"
    r"|i (?:won't|will not) (?:be able|do|help|assist|choose|complete)\b"
    r"|(?:unfortunately,? )?(?:i'm|i am) (?:unable|not able|not comfortable)\b"
    r"|i (?:must |have to )?(?:decline|refuse)\b)",
    re.IGNORECASE,
)
_DISCLAIMER = re.compile(r"as (?:an? )?(?:ai\b|artificial intelligence|(?:large )?language model)", re.IGNORECASE)


@dataclass(frozen=True)
class Labels:
    """The two labels as they are looked for: without a colon at the end, in capital or small letters.

    Raises BadConfig where one label begins with the other.
    """

    a: str
    b: str
    beginning: str = ""
    """Words with which both begin, and which an endpoint may be given as the beginning of its answer."""
    given: str = ""
    """The beginning of an answer that stood in the question: what an endpoint says and lists follows it."""

    @classmethod
    def of(cls, stimulus: Stimulus) -> "Labels":
        """The labels that a stimulus asks for."""
        a, b = (_bare(label).rstrip(": ") for label in (stimulus.label_a, stimulus.label_b))
        if a.casefold().startswith(b.casefold()) or b.casefold().startswith(a.casefold()):
            raise BadConfig(
                f"choices: of the labels {stimulus.label_a!r} and {stimulus.label_b!r} one begins with the other, but "
                "for marks, colons and capitals; choose labels that differ."
            )
        return cls(a, b, stimulus.beginning)

    def after(self, given: str) -> "Labels":
        """The labels as they are looked for in answers whose beginning was given; "" for none."""
        return replace(self, given=given)

    @property
    def shared(self) -> int:
        """Number of characters before the first in which the labels differ."""
        pairs = zip(self.a, self.b, strict=False)
        return next(i for i, (x, y) in enumerate(pairs) if x.casefold() != y.casefold())

    def undecided(self, text: str) -> bool:
        """Whether a label may still follow, or end after, a beginning of what an endpoint says."""
        return len(_bare(self.given + text)) <= max(len(self.a), len(self.b))

    def blank(self, tokens: Iterable[str]) -> str:
        """The white space between what was given and the first of the tokens that were possible there; "" if they have it."""
        led = not self.given or any(token[:1].isspace() for token in tokens)
        return "" if led else self.a[len(_bare(self.given)) : self.shared]

    def of_text(self, text: str) -> str | None:
        """`a` or `b` for a text that begins with that label; None for one that begins with neither or with both."""
        text = _bare(text)
        for name, label, other in (("a", self.a, self.b), ("b", self.b, self.a)):
            if _begins(text, label):
                rest = text[len(label) :]
                return None if _begins(_after(_JOINED, rest), other) else name
        return None

    def of_beginning(self, text: str) -> str | None:
        """`a` or `b` once the beginning of an answer has decided, "" while both are possible, None when neither is."""
        text = _bare(text)
        if len(text) <= self.shared:
            return "" if self.a[: len(text)].casefold() == text.casefold() else None
        for name, label in (("a", self.a), ("b", self.b)):
            if _begins(text, label[: len(text)]):
                return name
        return None


def answer_text(raw: str) -> str:
    """A raw answer without the thought at its head: a `<think>` block, or one whose beginning the provider ate."""
    before, closed, after = raw.partition("</think>")
    if raw.lstrip().startswith("<think>"):
        return after
    return after if closed and "<think>" not in before else raw


def read_text(answer: Answer, labels: Labels) -> Reading:
    """What a sampled answer says.

    A label decides wherever the answer ends, also in the middle of a sentence. A provider's refusal and a refusal in
    words count as such. "As an AI …" is one unless a label follows, and then it is left to the judge.
    """
    if answer.finish.startswith("failed"):
        return Reading("failed")
    if answer.finish in ("refusal", "content_filter"):
        return Reading("refusal")
    text = answer_text(answer.raw)
    label = labels.of_text(text)
    if label is not None:
        return Reading("a" if label == "a" else "b")
    return Reading("refusal" if declines(text, (labels.a, labels.b)) else "unparsed")


def declines(text: str, labels: Iterable[str]) -> bool:
    """Whether a text begins as a refusal does. "As an AI …" is one unless one of the labels follows."""
    plain = _bare(text).lstrip("\"'“").replace("’", "'")
    if _REFUSAL.match(plain):
        return True
    return bool(_DISCLAIMER.match(plain)) and not any(label.casefold() in plain.casefold() for label in labels)


def read_probabilities(answer: Answer, labels: Labels, temperature: float) -> Reading:
    """What the log-probabilities of an exact answer say, at temperature 1 as they are listed.

    `log P(A) − log P(B)` is divided by `temperature`. The probabilities are summed over what is listed up to the token in
    which the labels differ, however the tokenizer cuts them. A label that is not listed there has at most the smallest
    listed probability, and at most what those that are listed leave; the logit is then a bound, and flagged. If the likely
    path leads to no label, the answer is unparsed (or a refusal) and its label mass the probability that was still open to
    one where the path left. Log-probabilities that are not those of the answer are not read. Where the beginning of the
    answer was given, all of this is said of what follows it, and label mass is the probability given that beginning.
    """
    if answer.finish.startswith("failed") or answer.finish in ("refusal", "content_filter"):
        return read_text(answer, labels)
    of = Listed.of(answer.raw)
    said: Outcome = "unparsed"
    if read_text(Answer(answer.id, of.text, answer.finish), labels).outcome == "refusal":
        said = "refusal"
    if of.fault:
        return Reading(said, fault=of.fault)
    first = [other for position in of.positions[:1] for other, _ in position.listed]
    text, path = labels.given + labels.blank(first), 0.0
    a: list[float] = []
    b: list[float] = []
    still_open: list[float] = []
    for position in of.positions:
        here: dict[str | None, list[float]] = {"a": [], "b": [], "": [], None: []}
        for other, value in position.listed:
            if value > UNLISTED:
                here[labels.of_beginning(text + other)].append(path + value)
        text += position.said
        decided = labels.of_beginning(text)
        if decided:
            smallest = min((exp(value) for _, value in position.listed if value > UNLISTED), default=1.0)
            bound = [path + log(min(smallest, max(1.0 - position.total, _LEAST)))]
            mass = sum(map(exp, a + b + here["a"] + here["b"]))
            a, b = a + (here["a"] or bound), b + (here["b"] or bound)
            bounded = not (here["a"] and here["b"])
            return Reading("exact", (_log_sum(a) - _log_sum(b)) / temperature, mass, bounded)
        a, b, still_open, path = a + here["a"], b + here["b"], here[""], path + position.logprob
        if decided is None:
            break
    return Reading(said, label_mass=sum(map(exp, a + b + still_open)))


def _begins(text: str, label: str) -> bool:
    """Whether `text` begins with the whole word or words of `label`."""
    if text[: len(label)].casefold() != label.casefold():
        return False
    return not (label[-1:].isalnum() and text[len(label) : len(label) + 1].isalnum())


def _bare(text: str) -> str:
    return _after(_HEAD, text)


def _after(pattern: re.Pattern[str], text: str) -> str:
    """`text` without what `pattern`, which may be empty, matches at its head."""
    found = pattern.match(text)
    return text[found.end() :] if found else text


def _log_sum(logs: list[float]) -> float:
    """Logarithm of Σ exp(l) over a list that is not empty."""
    top = max(logs)
    return top + log(sum(exp(each - top) for each in logs))
