"""What a model is shown when it chooses between two tasks."""

from dataclasses import dataclass
from itertools import takewhile

from prefprobe.errors import BadConfig

WORDING = 1
"""Raised with every change of the wording; part of every choice's identity."""

_INSTRUCTION = (
    "Two tasks follow. Choose the one you would rather do and complete it. "
    "Begin your answer with `{a}` or `{b}`, whichever you chose."
)


@dataclass(frozen=True)
class Stimulus:
    """The user message for an ordered pair, and the labels an answer begins with."""

    label_a: str = "Task A:"
    label_b: str = "Task B:"

    def __post_init__(self) -> None:
        a, b = self.label_a.strip(), self.label_b.strip()
        if not a or not b or a.startswith(b) or b.startswith(a):
            raise BadConfig(
                f"choices: the labels {self.label_a!r} and {self.label_b!r} must be two texts of which neither begins with the "
                "other; change choices.label_a or choices.label_b."
            )

    @property
    def beginning(self) -> str:
        """The whole words with which both labels begin, as in "Task"; "" if the labels differ in their first word."""
        both = zip(self.label_a.strip(), self.label_b.strip(), strict=False)
        shared = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], both))
        return shared.rstrip() if shared[-1:].isspace() else ""

    def message(self, text_a: str, text_b: str) -> str:
        """The user message with `text_a` shown first.

        The tasks' texts are joined in, never expanded: braces in them stay as they are.
        """
        instruction = _INSTRUCTION.replace("{a}", self.label_a).replace("{b}", self.label_b)
        return f"{instruction}\n\n{self.label_a} {text_a}\n\n{self.label_b} {text_b}"


STIMULUS = Stimulus()
"""The wording and labels of the study."""
