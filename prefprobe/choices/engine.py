"""What asks and what answers: the contract between the choice log and anything that can choose."""

from collections.abc import Callable, Mapping, Sequence
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


Save = Callable[[Sequence[Answer]], None]
"""Takes answers that have come."""


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
