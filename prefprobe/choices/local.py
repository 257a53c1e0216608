"""The exact engine: both label probabilities of an ordered pair from one forward pass of own weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from prefprobe.activations.loading import LoadedModel
from prefprobe.activations.passes import check_model, forward
from prefprobe.choices.engine import Answer, Question, Reading, Save
from prefprobe.choices.stimulus import STIMULUS, WORDING, Stimulus
from prefprobe.errors import BadConfig
from prefprobe.store.formats import read_json
from prefprobe.store.keys import canonical_json

_ROWS = 256
"""Answers read at once: in float64 a vocabulary of 262,000 takes 2 MB a position."""


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
        self.about: dict[str, Any] = {}
        self.identity = {
            "engine": self.name,
            "model": dict(model.origin if revision is None else revision),
            "temperature": temperature,
            "wording": WORDING,
            "labels": [stimulus.label_a, stimulus.label_b],
        }
        tokens_a, tokens_b = (
            list(model.tokenizer(label, add_special_tokens=False)["input_ids"])
            for label in (stimulus.label_a, stimulus.label_b)
        )
        shared = next((i for i, (a, b) in enumerate(zip(tokens_a, tokens_b, strict=False)) if a != b), None)
        if shared is None:
            raise BadConfig(
                f"choices: one of the labels {stimulus.label_a!r} and {stimulus.label_b!r} begins with the other as this "
                "tokenizer reads them; choose labels that differ."
            )
        self._shared, self._a, self._b = tokens_a[:shared], tokens_a[shared], tokens_b[shared]

    def answer(self, questions: Sequence[Question], save: Save) -> None:
        """See `Engine.answer`. Parts are cut at fixed places: the last digits of an answer depend on its neighbours."""
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

    def _measure(self, questions: Sequence[Question]) -> list[Answer]:
        prompts = [self._model.prompt_tokens(self._stimulus.message(q.first, q.second), q.system) for q in questions]
        _, hidden = forward(self._model, [p + self._shared for p in prompts], tail=len(self._shared) + 1)
        assert hidden is not None
        with torch.inference_mode():
            rows = torch.cat([self._read(some) for some in hidden.split(_ROWS)]).cpu()
        if not bool(rows.isfinite().all()):
            raise BadConfig(
                "the model's label probabilities are not finite; use float32 or bfloat16 instead of float16."
            )
        return [
            Answer(q.id, canonical_json(row).decode(), prompt_tokens=len(p) + len(self._shared))
            for q, p, row in zip(questions, prompts, rows.tolist(), strict=True)
        ]

    def _read(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, shared + 1, d) final hidden states → (n, 2): logit, label mass."""
        logits = self._model.logits(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
        log_p = logits.log_softmax(-1)
        mass = torch.logaddexp(log_p[:, -1, self._a], log_p[:, -1, self._b])
        for position, token in enumerate(self._shared):
            mass += log_p[:, position, token]
        logit = (logits[:, -1, self._a] - logits[:, -1, self._b]) / self._temperature
        return torch.stack([logit, mass.exp()], dim=1)
