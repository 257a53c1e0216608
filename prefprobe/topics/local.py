"""A judge without an endpoint: own weights, read by the exact scores of all labels, as choices are.

A small model says some labels more readily than others whatever the task is; that is taken away by the scores that it gives
the same labels for tasks without content (Zhao et al. 2021, arXiv 2102.09690).
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp, softmax

from prefprobe.choices.engine import ALONE, Answer, Save
from prefprobe.store.formats import json_bytes, read_json
from prefprobe.store.keys import canonical_json
from prefprobe.topics.judged import Asked
from prefprobe.topics.reading import Reading
from prefprobe.topics.taxonomy import Taxonomy
from prefprobe.topics.wording import WORDING, scored_message

if TYPE_CHECKING:
    from prefprobe.activations.model import LoadedModel

_PART = 96
"""Tasks between two saves. Parts are cut at fixed places: the last digits of a score depend on its neighbours."""
_LETTERS = 4
"""Letters of a token, about."""
FREE = ("N/A", "", "...", "Something.", "a task")
"""Tasks without content."""


class LocalJudge:
    """Scores every label of a taxonomy as the model's whole answer: the sum of its tokens' log probabilities, less what it is
    for tasks without content. `revision` is what identifies the model, as plain JSON.
    """

    asks_again = False

    def __init__(
        self,
        model: "LoadedModel",
        taxonomy: Taxonomy,
        *,
        name: str = "own weights",
        revision: Mapping[str, Any] | None = None,
    ) -> None:
        from prefprobe.activations.checks import check_model

        check_model(model)
        self.name = f"{name} by exact scores"
        self._model, self._taxonomy = model, taxonomy
        self.identity = {
            "engine": "scores",
            "model": dict(model.origin if revision is None else revision),
            "wording": WORDING,
            "taxonomy": taxonomy.model_dump(mode="json"),
        }
        free = self._scores(FREE)[0]
        self._free = logsumexp(free, axis=0) - np.log(len(free))

    @property
    def about(self) -> Mapping[str, Any]:
        """See `Judge.about`: how prompts are made, and log probabilities of the labels for tasks without content."""
        free = dict(zip(self._taxonomy.names, np.round(self._free, 4).tolist(), strict=True))
        return {"prompt": self._model.prompts.describe(), "without_content": free}

    def question(self, text: str, *, plainly: bool = False) -> Asked:
        """See `Judge.question`."""
        return Asked(hashlib.sha256(canonical_json([dict(self.identity), text])).hexdigest()[:32], text, plainly)

    def answer(self, questions: Sequence[Asked], save: Save) -> None:
        """See `Judge.answer`. What stands before a text is computed once for all: work is each text, with all labels after it."""
        from prefprobe.activations.compiled import compile_if_worth

        labels = sum(map(len, self._taxonomy.names))
        compile_if_worth(self._model, sum(len(q.text) + labels for q in questions) // _LETTERS)
        for start in range(0, len(questions), _PART):
            part = questions[start : start + _PART]
            scores, tokens, alone = self._scores([q.text for q in part])
            less = np.round(scores - self._free, 6).tolist()
            finish = ALONE if alone else "stop"
            save(
                [
                    Answer(q.id, json_bytes(row).decode(), finish, prompt_tokens=n)
                    for q, row, n in zip(part, less, tokens, strict=True)
                ]
            )

    def read(self, answer: Answer) -> Reading:
        """The label with the highest score, the next one, and the probability of the first among all labels."""
        scores = np.array(self.scores_of(answer))
        best, second, *_ = np.argsort(-scores, kind="stable")
        names = self._taxonomy.names
        return Reading(names[best], names[second], round(float(softmax(scores)[best]), 6), "scores")

    def scores_of(self, answer: Answer) -> list[float]:
        """The score of every label, in the taxonomy's order."""
        scores: list[float] = read_json(answer.raw.encode())
        return scores

    def _scores(self, texts: Sequence[str]) -> "tuple[np.ndarray, list[int], bool]":
        from prefprobe.activations.continuations import continuation_scores

        prompts = [(scored_message(self._taxonomy, text), None) for text in texts]
        return continuation_scores(self._model, prompts, self._taxonomy.names)
