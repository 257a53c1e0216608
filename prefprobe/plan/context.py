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
    alone = model.lengths.counts([(tasks[id_], None) for id_ in ids])
    if model.context is None or alone is None:
        return [], ""
    longest = _longest(model, model.context, prompted)
    order = [id_ for _, id_ in sorted(zip(alone, ids, strict=True))]  # the shortest first
    alone = sorted(alone)

    def prompt(k: int) -> tuple[int, str]:
        """Tokens of the longest prompt that the k-th task has with the shorter ones, and what it is."""
        found = [(alone[k], "its prompt")]
        if stimulus is not None:
            text = tasks[order[k]]
            if k > 0:
                other = order[k - 1]
                found.append((_choice(model, stimulus, text, tasks[other], None), f"a choice between it and {other}"))
            if longest is not None:
                under = f"a choice between it and {longest.task_id} under the system prompt {longest.prompt_id}"
                found.append((_choice(model, stimulus, text, longest.text, longest.prompt), under))
        return max(found)

    limit = model.context
    fit = bisect_left(range(len(order)), True, key=lambda k: prompt(k)[0] > limit)
    if fit == len(order):
        return [], ""
    tokens, what = prompt(len(order) - 1)
    return order[
        fit:
    ], f"task {order[-1]}: {what} takes {tokens:,} tokens, and the context of {model.name} is {limit:,}"


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
