"""The exact engine: both label probabilities of an ordered pair from one forward pass of own weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from prefprobe.activations.checks import check_model
from prefprobe.activations.compiled import compile_if_worth
from prefprobe.activations.model import LoadedModel
from prefprobe.activations.passes import forward
from prefprobe.activations.prompts import Asked
from prefprobe.choices.engine import ALONE, Answer, Question, Reading, Save
from prefprobe.choices.stimulus import STIMULUS, WORDING, Stimulus
from prefprobe.errors import BadConfig
from prefprobe.store.formats import read_json
from prefprobe.store.keys import canonical_json

_ROWS = 256
"""Answers read at once: in float64 a vocabulary of 262,000 takes 2 MB a position."""
_LETTERS = 4
"""Letters of a token, about."""


class LocalEngine:
    """Reads log P(A)/P(B) at the first token in which the two labels differ, after the beginning they share.

    `revision` is what identifies the model in the identity of a question, as plain JSON, its origin if not given; `part` is
    the number of answers between two saves. `label_mass` is the probability, at temperature 1, that an answer begins with
    one of the labels up to that token.
    """

    name = "exact-local"
    exact = True

    def __init__(
        self,
        model: LoadedModel,
        stimulus: Stimulus = STIMULUS,
        temperature: float = 1.0,
        *,
        revision: Mapping[str, Any] | None = None,
        part: int = 192,
    ) -> None:
        check_model(model)
        self._model, self._stimulus, self._temperature, self._part = model, stimulus, temperature, part
        self._labels = stimulus.label_a, stimulus.label_b
        self.identity = {
            "engine": self.name,
            "model": dict(model.origin if revision is None else revision),
            "temperature": temperature,
            "wording": WORDING,
            "labels": list(self._labels),
        }
        model.prompts.check_labels(*self._labels)

    def answer(self, questions: Sequence[Question], save: Save) -> None:
        """See `Engine.answer`. Parts are cut at fixed places: the last digits of an answer depend on its neighbours."""
        letters = sum(len(q.first) + len(q.second) + len(q.system or "") for q in questions)
        compile_if_worth(self._model, letters // _LETTERS)
        for start in range(0, len(questions), self._part):
            part = questions[start : start + self._part]
            by_system: dict[str | None, list[Question]] = {}
            for question in part:
                by_system.setdefault(question.system, []).append(question)
            # questions under one system prompt share its computation
            save([answer for some in by_system.values() for answer in self._measure(some)])

    def read(self, answer: Answer) -> Reading:
        """See `Engine.read`."""
        logit, label_mass = read_json(answer.raw.encode())
        return Reading("exact", logit, label_mass)

    @property
    def about(self) -> dict[str, Any]:
        """How prompts are made."""
        return {"prompt": self._model.prompts.describe()}

    def _measure(self, questions: Sequence[Question]) -> list[Answer]:
        asked = self._asked(questions)
        tail = max(len(each.shared) for each in asked) + 1
        passed = forward(self._model, [each.prompt + each.shared for each in asked], tail=tail)
        assert passed.hidden is not None
        parts = zip(passed.hidden.split(_ROWS), _split(asked), strict=True)
        with torch.inference_mode():
            rows = torch.cat([self._read(*some) for some in parts]).cpu()
        if not bool(rows.isfinite().all()):
            raise BadConfig(
                "the model's label probabilities are not finite; use float32 or bfloat16 instead of float16."
            )
        finish = ALONE if passed.alone else "stop"
        return [
            Answer(q.id, canonical_json(row).decode(), finish, prompt_tokens=len(each.prompt) + len(each.shared))
            for q, each, row in zip(questions, asked, rows.tolist(), strict=True)
        ]

    def _asked(self, questions: Sequence[Question]) -> list[Asked]:
        """A text that cannot be put into a prompt as it is, is refused under its task's name."""
        prompts = [(self._stimulus.message(q.first, q.second), q.system) for q in questions]
        try:
            return self._model.prompts.asked_many(prompts, *self._labels)
        except BadConfig:
            for id_, text in (
                (id_, text) for q in questions for id_, text in ((q.task_a, q.first), (q.task_b, q.second))
            ):
                try:
                    self._model.prompt_tokens(text)
                except BadConfig as error:
                    raise BadConfig(f"task {id_}: {error}") from error
            raise

    def _read(self, hidden: torch.Tensor, asked: Sequence[Asked]) -> torch.Tensor:
        """(n, tail, d) final hidden states, of which the last before a label's own token is the last → (n, 2): logit, mass."""
        n, tail, _ = hidden.shape
        logits = self._model.logits(hidden.flatten(0, 1)).unflatten(0, (n, tail))
        row = torch.arange(n, device=logits.device)
        a, b = (torch.tensor(ids, device=logits.device) for ids in zip(*((e.a, e.b) for e in asked), strict=True))
        log_p = logits.log_softmax(-1)
        mass = torch.logaddexp(log_p[row, -1, a], log_p[row, -1, b])
        for i, each in enumerate(asked):
            for place, token in enumerate(each.shared, tail - 1 - len(each.shared)):
                mass[i] += log_p[i, place, token]
        logit = (logits[row, -1, a] - logits[row, -1, b]) / self._temperature
        return torch.stack([logit, mass.exp()], dim=1)


def _split(asked: Sequence[Asked]) -> list[Sequence[Asked]]:
    return [asked[i : i + _ROWS] for i in range(0, len(asked), _ROWS)]
