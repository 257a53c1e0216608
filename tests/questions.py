"""Questions as an engine is asked them, without a log."""

from prefprobe.choices.engine import Question


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
