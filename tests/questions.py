"""Questions as an engine is asked them, without a log, and its answers."""

from collections.abc import Callable, Mapping, Sequence

from prefprobe.choices.engine import Answer, Question, Spend


class Saved(list[Answer]):
    """A `Save` that keeps answers in the order in which they came, and `also` tells somebody."""

    def __init__(self, also: Callable[[Sequence[Answer]], None] = lambda _: None) -> None:
        super().__init__()
        self.also = also
        self.owed: dict[str, Spend] = {}
        """What each question would have cost without its answer, as was said last."""

    def __call__(self, answers: Sequence[Answer]) -> None:
        self.extend(answers)
        self.also(answers)

    def owe(self, costs: Mapping[str, Spend]) -> None:
        self.owed |= costs


def question(id_: str, first: str, second: str, system: str | None = None, repeat: int = 0) -> Question:
    """Its tasks and its system prompt are named by their words."""
    return Question(
        id=id_,
        system=system,
        first=first,
        second=second,
        repeat=repeat,
        prompt_id=system or "",
        task_a=first,
        task_b=second,
    )
