"""Exact scores of whole answers: the log probability that a model goes on from a prompt with each of some texts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from prefprobe.activations.model import LoadedModel
from prefprobe.activations.passes import forward
from prefprobe.activations.prompts import Prompt
from prefprobe.errors import BadConfig

_ROWS = 256
"""Positions read at once: in float64 a vocabulary of 262,000 takes 2 MB each."""


class Scores(NamedTuple):
    """What forward passes of n prompts gave."""

    logprobs: npt.NDArray[np.float64]
    """(n, k) log probability of each of k answers, the sum over its tokens, at temperature 1."""
    tokens: list[int]
    """Tokens of each prompt, (n,)."""
    alone: bool
    """Whether prompts went through one at a time."""


def continuation_scores(model: LoadedModel, prompts: Sequence[Prompt], answers: Sequence[str]) -> Scores:
    """The scores of `answers` after every prompt. Prompts share their beginnings, and a prompt is computed once for all
    its answers.

    Raises BadConfig as `PromptFormat.continued_many` and `forward` do, and for values that are not finite.
    """
    asked = model.prompts.continued_many(prompts, answers)
    sequences = [[*prompt, *answer[:-1]] for prompt, added in asked for answer in added]
    tail = max(len(answer) for _, added in asked for answer in added)
    passed = forward(model, sequences, tail=tail)
    assert passed.hidden is not None
    k = len(answers)
    at: dict[tuple[int, tuple[int, ...]], int] = {}
    """The row of the states after each beginning of an answer, of those that several answers share once."""
    rows: list[tuple[int, int]] = []
    wanted: list[tuple[int, int, int]] = []
    """Which score, which row, which token."""
    for n, (_, added) in enumerate(asked):
        for j, answer in enumerate(added):
            for i, token in enumerate(answer):
                key = n, tuple(answer[:i])
                if key not in at:
                    at[key] = len(rows)
                    rows.append((n * k + j, tail - len(answer) + i))
                wanted.append((n * k + j, at[key], token))
    with torch.inference_mode():
        found = _read(model, passed.hidden, rows, wanted)
    scores = np.zeros(len(asked) * k)
    np.add.at(scores, [score for score, _, _ in wanted], found)
    if not np.isfinite(scores).all():
        raise BadConfig("the model's label probabilities are not finite; use float32 or bfloat16 instead of float16.")
    return Scores(scores.reshape(len(asked), k), [len(prompt) for prompt, _ in asked], passed.alone)


def _read(
    model: LoadedModel, hidden: torch.Tensor, rows: list[tuple[int, int]], wanted: list[tuple[int, int, int]]
) -> npt.NDArray[np.float64]:
    """The log probability of each wanted token, (len(wanted),)."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i][1])
    found = np.empty(len(wanted))
    done = 0
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        sequence, place = (torch.tensor(each, device=hidden.device) for each in zip(*some, strict=True))
        log_p = model.logits(hidden[sequence, place]).log_softmax(-1)
        mine = []
        while done < len(order) and wanted[order[done]][1] < start + len(some):
            mine.append(order[done])
            done += 1
        row = torch.tensor([wanted[i][1] - start for i in mine], device=hidden.device)
        token = torch.tensor([wanted[i][2] for i in mine], device=hidden.device)
        found[mine] = log_p[row, token].cpu().numpy()
    return found
