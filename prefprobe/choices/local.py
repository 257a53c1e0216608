"""The exact engine: both label probabilities of an ordered pair from one forward pass of own weights."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from prefprobe.activations.checks import check_model
from prefprobe.activations.coming import Copy, one_behind
from prefprobe.activations.compiled import compile_if_worth, to_device
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


class _Begun(NamedTuple):
    """A forward pass that is queued."""

    questions: list[Question]
    asked: list[Asked]
    rows: Copy
    """(n, 2): logit and label mass."""
    alone: bool


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
        parts = [questions[start : start + self._part] for start in range(0, len(questions), self._part)]
        one_behind(
            self._model.device,
            ([self._begun(*some) for some in part] for part in self._tokenised(parts)),
            lambda begun: save([answer for some in begun for answer in self._answers(some)]),
        )

    def read(self, answer: Answer) -> Reading:
        """See `Engine.read`."""
        logit, label_mass = read_json(answer.raw.encode())
        return Reading("exact", logit, label_mass)

    @property
    def about(self) -> dict[str, Any]:
        """How prompts are made."""
        return {"prompt": self._model.prompts.describe()}

    def _tokenised(self, parts: Sequence[Sequence[Question]]) -> Iterator[list[tuple[list[Question], list[Asked]]]]:
        """Each part, by system prompt, since questions under one share its computation; one is tokenised ahead."""

        def tokenised(part: Sequence[Question]) -> list[tuple[list[Question], list[Asked]]]:
            by_system: dict[str | None, list[Question]] = {}
            for question in part:
                by_system.setdefault(question.system, []).append(question)
            return [(some, self._asked(some)) for some in by_system.values()]

        ahead: deque[Future[list[tuple[list[Question], list[Asked]]]]] = deque()
        with ThreadPoolExecutor(1) as pool:
            for part in parts:
                ahead.append(pool.submit(tokenised, part))
                if len(ahead) > 1:
                    yield ahead.popleft().result()
            if ahead:
                yield ahead.popleft().result()

    def _begun(self, questions: list[Question], asked: list[Asked]) -> _Begun:
        """Kernels are queued, and nothing waits for them."""
        tail = max(len(each.shared) for each in asked) + 1
        passed = forward(self._model, [each.prompt + each.shared for each in asked], tail=tail)
        assert passed.hidden is not None
        parts = zip(passed.hidden.split(_ROWS), _split(asked), strict=True)
        with torch.inference_mode():
            rows = Copy(torch.cat([self._read(*some) for some in parts]))
        return _Begun(questions, asked, rows, passed.alone)

    def _answers(self, begun: _Begun) -> list[Answer]:
        rows = begun.rows.array()
        if not np.isfinite(rows).all():
            raise BadConfig(
                "the model's label probabilities are not finite; use float32 or bfloat16 instead of float16."
            )
        finish = ALONE if begun.alone else "stop"
        return [
            Answer(q.id, canonical_json(row).decode(), finish, prompt_tokens=len(each.prompt) + len(each.shared))
            for q, each, row in zip(begun.questions, begun.asked, rows.tolist(), strict=True)
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
        a, b = (to_device(np.array(ids), logits.device) for ids in zip(*((e.a, e.b) for e in asked), strict=True))
        log_p = logits.log_softmax(-1)
        mass = torch.logaddexp(log_p[row, -1, a], log_p[row, -1, b])
        for place in range(tail - 1):
            # -1 where an answer has no token that both labels share at this place
            tokens = [each.shared[place - tail + 1] if len(each.shared) >= tail - 1 - place else -1 for each in asked]
            token = to_device(np.array(tokens), logits.device)
            mass = torch.where(token < 0, mass, mass + log_p[row, place, token.clamp(min=0)])
        logit = (logits[row, -1, a] - logits[row, -1, b]) / self._temperature
        return torch.stack([logit, mass.exp()], dim=1)


def _split(asked: Sequence[Asked]) -> list[Sequence[Asked]]:
    return [asked[i : i + _ROWS] for i in range(0, len(asked), _ROWS)]
