"""What asks and what answers: the contract between the choice log and anything that can choose."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Outcome = Literal["exact", "a", "b", "refusal", "unparsed", "failed"]
"""`exact` is a probability; `a` and `b` are sampled answers; `failed` is a question that the provider turned down."""


ALONE = "alone"
"""Why an exact answer ended that came of a pass of its one prompt, where packed passes do not give the model's own values."""


TOOL_CALLS = "tool_calls"
"""Why an answer ended that calls a tool and says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One ordered pair: in words, as a model is shown it, and by name, as the choice log keeps it."""

    id: str
    """Its identity: a digest of all that the answer depends on, so of the words and of no name. Whatever is retried or
    resumed, it counts once."""
    system: str | None
    first: str
    """Text of the task shown first."""
    second: str
    repeat: int
    """Number of the sample, from 0; a provider gets another seed for each."""
    prompt_id: str
    """Name of the system prompt; "" for none. Names are nothing to an engine."""
    task_a: str
    """Name of the task shown first."""
    task_b: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one question, unread: a new parser reads it again and nobody pays again."""

    id: str
    raw: str
    """The answer's text, or JSON of what an exact engine read off; "" for one that failed."""
    finish: str = "stop"
    """Why the answer ended, in the provider's word; `failed: …` with the provider's sentence if there is none; ALONE."""
    model: str = ""
    """The model that the provider says has answered."""
    provider: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """US dollars; 0 where nothing is known of prices."""
    losses: tuple[str, ...] = ()
    """The cause of each attempt that was lost before this one: `429`, `timeout`, `cut body`."""
    estimated: bool = False
    """Whether the provider has not said how many tokens it took."""

    @property
    def requests(self) -> int:
        """How often the provider has worked on it, or may have: 0 for a question that it turned down at once."""
        return (not self.finish.startswith("failed")) + sum(map(may_cost, self.losses))


def may_cost(cause: str) -> bool:
    """Whether an attempt lost by this cause may have been worked on: a timeout, a body cut off, an answer turned away. A
    status of the provider's, or no connection, is free.
    """
    return not (cause[:3].isdigit() or cause.startswith("connect"))


@dataclass(frozen=True)
class Spend:
    """What answers cost, attempts that were lost included where they may have been worked on."""

    requests: int = 0
    """Answers, and such attempts."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0

    @classmethod
    def of(cls, answers: Iterable[Answer]) -> "Spend":
        """The sum over some answers."""
        some = list(answers)
        return cls(
            sum(a.requests for a in some),
            sum(a.prompt_tokens for a in some),
            sum(a.completion_tokens for a in some),
            sum(a.cost for a in some),
        )

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.dollars + other.dollars,
        )

    def per(self, requests: int) -> "Spend":
        """What so many requests cost that are like these on average, tokens rounded up; nothing if these are none."""
        if not self.requests:
            return Spend()
        prompt, completion = (
            -(-tokens * requests // self.requests) for tokens in (self.prompt_tokens, self.completion_tokens)
        )
        return Spend(requests, prompt, completion, self.dollars * requests / self.requests)


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer says."""

    outcome: Outcome
    logit: float | None = None
    """log P(A) / P(B) given a label, of an exact outcome."""
    label_mass: float | None = None
    """The probability that an answer begins with one of the labels, of an exact outcome."""
    bounded: bool = False
    """Whether one label was too improbable to be listed: the logit is then at least as far from zero as it says."""
    fault: str = ""
    """Why the log-probabilities that came with an answer are not read."""


class Save(Protocol):
    """Who is told of questions that go out, and takes answers that have come."""

    def __call__(self, answers: Sequence[Answer], /) -> None:
        """Keep these answers."""
        ...

    def owe(self, costs: Mapping[str, Spend], /) -> None:
        """What each question will have cost if its answer never comes, by its id; all before is replaced. More than before
        is written down when this returns, so an engine that is paid calls it before anything goes out.
        """
        ...


class Engine(Protocol):
    """Anything that answers questions."""

    name: str
    exact: bool
    """Whether it reads off probabilities, so that one answer an ordered pair is all there is to know."""

    @property
    def about(self) -> Mapping[str, Any]:
        """How it asks, as plain JSON for the report; empty if its name says all."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that an answer depends on besides the texts and the repeat, as plain JSON: model, temperature, wording.

        How an answer is read is no part of it.
        """
        ...

    def answer(self, questions: Sequence[Question], save: Save) -> None:
        """Answer the questions, in any order, and hand each answer to `save` once, soon after it came.

        `save` is called every few seconds at least, with nothing if need be; it may raise, to stop: then answers that are
        on their way are still waited for and saved, and the error goes on. Questions that stay without an answer are
        those that the budget no longer covered.
        """
        ...

    def read(self, answer: Answer) -> Reading:
        """What the answer says."""
        ...
