"""Which tasks are beyond a model's context: no prompt of a study may be longer, alone or in a choice."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from prefprobe.choices.stimulus import Stimulus
from prefprobe.errors import BadConfig
from prefprobe.plan.model import ModelFacts
from prefprobe.shift.prompted import PromptedTask


def too_long(
    tasks: Mapping[str, str], model: ModelFacts, stimulus: Stimulus | None, prompted: Sequence[PromptedTask]
) -> tuple[list[str], str]:
    """Ids out of `tasks` (id → text) that must be left out so that every prompt fits, and what is said of the longest.

    Counted are each task alone, and with a `stimulus` the choice between the two longest tasks, as any pair may be asked,
    and between the longest task and the longest of `prompted` under its system prompt; labels count too. Nothing is too
    long for a model without a limit, or of which tokenizer or chat template is not here. Raises BadConfig for a task of
    an experiment that does not fit under its system prompt.
    """
    ids = sorted(tasks)
    alone = _alone(tasks, ids, model)
    if model.context is None or alone is None:
        return [], ""
    limit, longest = model.context, _longest(model, model.context, prompted)
    order = sorted(zip(alone, ids, strict=True))  # the shortest first

    def beyond(k: int) -> tuple[int, str] | None:
        """Tokens of a prompt that the k-th task would have with shorter ones, and what it is; None if all fit."""
        tokens, id_ = order[k]
        found = [(tokens, "its prompt")]
        if stimulus is not None and k > 0:
            other = order[k - 1][1]
            tokens = _choice(model, stimulus, tasks[id_], tasks[other], None)
            found.append((tokens, f"a choice between it and {other}"))
        if stimulus is not None and longest is not None:
            tokens = _choice(model, stimulus, tasks[id_], longest.text, longest.prompt)
            under = f"a choice between it and {longest.task_id} under the system prompt {longest.prompt_id}"
            found.append((tokens, under))
        return next((prompt for prompt in found if prompt[0] > limit), None)

    left_out = [id_ for _, id_ in order[bisect_left(range(len(order)), True, key=lambda k: beyond(k) is not None) :]]
    if not left_out or (worst := beyond(len(order) - 1)) is None:
        return [], ""
    said = f"task {left_out[-1]}: {worst[1]} takes {worst[0]:,} tokens, and the context of {model.name} is {limit:,}"
    return left_out, said


def _alone(tasks: Mapping[str, str], ids: Sequence[str], model: ModelFacts) -> list[int] | None:
    """Tokens of each task's own prompt; a text that the chat template alters is refused under its id."""
    try:
        return model.lengths.counts([(tasks[id_], None) for id_ in ids])
    except BadConfig:
        for id_ in ids:
            try:
                model.lengths.counts([(tasks[id_], None)])
            except BadConfig as error:
                raise BadConfig(f"task {id_}: {error}") from error
        raise


def _longest(model: ModelFacts, limit: int, prompted: Sequence[PromptedTask]) -> PromptedTask | None:
    """The longest of the prompted tasks, None if there is none."""
    counts = model.lengths.counts([(row.text, row.prompt) for row in prompted])
    if not counts:
        return None
    tokens, row = max(zip(counts, prompted, strict=True))
    if tokens > limit:
        raise BadConfig(
            f"shift task {row.task_id}: its prompt under the system prompt {row.prompt_id} takes {tokens:,} tokens, and "
            f"the context of {model.name} is {limit:,}; shorten one of them in the experiment's file."
        )
    return row


def _choice(model: ModelFacts, stimulus: Stimulus, text: str, other: str, system: str | None) -> int:
    """Tokens of a choice with the label that an answer begins with, in the longer order."""
    prompts = [(stimulus.message(*pair), system) for pair in ((text, other), (other, text))]
    return max(
        count for label in (stimulus.label_a, stimulus.label_b) for count in model.lengths.counts(prompts, label) or [0]
    )
