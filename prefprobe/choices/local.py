"""The exact engine: both label probabilities of an ordered pair from one forward pass of own weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from prefprobe.activations.loading import LoadedModel
from prefprobe.activations.packing import check_packing, forward
from prefprobe.choices import stimulus as wording
from prefprobe.choices.log import Answer
from prefprobe.choices.stimulus import Stimulus
from prefprobe.errors import BadConfig

_ROWS = 256
"""Answers read at once: in float64 a vocabulary of 262,000 takes 2 MB a position."""


class LocalEngine:
    """Reads log P(A)/P(B) at the first token in which the two labels differ, after the beginning they share.

    `label_mass` is the probability, at temperature 1, that an answer begins with one of the labels up to that token.
    """

    name = "exact-local"

    def __init__(self, model: LoadedModel, stimulus: Stimulus, temperature: float, revision: Mapping[str, Any]) -> None:
        check_packing(model)
        self._model, self._stimulus, self._temperature = model, stimulus, temperature
        self.identity = {
            "engine": self.name,
            "model": dict(revision),
            "temperature": temperature,
            "wording": wording.VERSION,
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

    def measure(self, requests: Sequence[tuple[str | None, str, str]]) -> list[Answer]:
        """See `Engine.measure`."""
        answers: dict[int, Answer] = {}
        by_system: dict[str | None, list[int]] = {}
        for index, (system, _, _) in enumerate(requests):
            by_system.setdefault(system, []).append(index)
        for indices in by_system.values():  # requests under one system prompt share its computation
            answers |= zip(indices, self._measure([requests[i] for i in indices]), strict=True)
        return [answers[i] for i in range(len(requests))]

    def _measure(self, requests: Sequence[tuple[str | None, str, str]]) -> list[Answer]:
        prompts = [self._model.prompt_tokens(self._stimulus.message(a, b), system) for system, a, b in requests]
        _, hidden = forward(self._model, [p + self._shared for p in prompts], tail=len(self._shared) + 1)
        assert hidden is not None
        with torch.inference_mode():
            rows = torch.cat([self._read(some) for some in hidden.split(_ROWS)]).cpu()
        if not bool(rows.isfinite().all()):
            raise BadConfig(
                "the model's label probabilities are not finite; use float32 or bfloat16 instead of float16."
            )
        return [Answer(*row) for row in rows.tolist()]

    def _read(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, shared + 1, d) final hidden states → (n, 3): logit, P(A), label mass."""
        logits = self._model.head(hidden.to(next(self._model.head.parameters()).dtype)).double()
        log_p = logits.log_softmax(-1)
        mass = torch.logaddexp(log_p[:, -1, self._a], log_p[:, -1, self._b])
        for position, token in enumerate(self._shared):
            mass += log_p[:, position, token]
        logit = (logits[:, -1, self._a] - logits[:, -1, self._b]) / self._temperature
        return torch.stack([logit, logit.sigmoid(), mass.exp()], dim=1)
