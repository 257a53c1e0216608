"""The API engine: choices of a model behind any OpenAI-compatible endpoint, sampled or from listed log-probabilities."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prefprobe.choices.api.client import Call
from prefprobe.choices.api.dialect import Dialect
from prefprobe.choices.api.endpoint import Budget, Endpoint
from prefprobe.choices.engine import Answer, Question, Reading, Save, Spend
from prefprobe.choices.reading import Labels, read_probabilities, read_text
from prefprobe.choices.stimulus import STIMULUS, WORDING, Stimulus
from prefprobe.errors import BadConfig
from prefprobe.settings.api import ApiSettings
from prefprobe.store.keys import canonical_json

PLAIN = ("Name three rivers in Europe.", "Write a rhyme about a cat.")
"""The pair with which an endpoint's fields are found out: an endpoint may turn down a study's own for what they say."""
INTERVIEWED = 4
"""Pairs of a study that its endpoint is tried with."""
SAMPLES = (
    ("Write a short poem about the sea.", "Explain how a bicycle stays upright."),
    ("Add up all whole numbers from 1 to 40.", "Invent a name for a bakery."),
    ("List five animals that live in the desert.", "Describe the taste of honey."),
    ("Translate 'good evening' into French.", "Plan a walk through an old town."),
)
"""Pairs of tasks that an endpoint is tried with where there are none of a study's own."""


class ApiEngine:
    """Choices over an API; what they cost is kept to `budget`, which the judge shares.

    `dialect` is the one that an engine with the same settings found before: the identity depends on it, so whoever goes
    on later gives it. Without it the endpoint is asked about `samples`, at least two pairs of texts such as will be asked
    later, which raises BadConfig for settings that it cannot be asked with; `trial` is told of these questions, and what
    they cost, and about once a second of nothing, and may raise.
    """

    def __init__(
        self,
        settings: ApiSettings,
        stimulus: Stimulus = STIMULUS,
        temperature: float = 1.0,
        *,
        part: int = 192,
        budget: Budget | None = None,
        dialect: Dialect | None = None,
        samples: Sequence[tuple[str, str]] = SAMPLES,
        trial: Save | None = None,
    ) -> None:
        budget = budget or Budget(settings, Spend())
        self._settings, self._stimulus, self._temperature = settings, stimulus, temperature
        labels = Labels.of(stimulus)
        messages = [stimulus.message(*pair) for pair in (PLAIN, *samples)]
        self._endpoint = Endpoint(settings, budget, part, temperature, messages, labels, dialect, trial)
        self.dialect = self._endpoint.dialect
        self._labels = labels.after(self.dialect.prefill)
        self.exact = self.dialect.exact
        self.name = "exact-api" if self.exact else "sampled-api"
        if not self.exact and not self.dialect.temperature and temperature != 1:
            raise BadConfig(
                f"{settings.model} at {settings.base_url} takes no temperature and answers at its own; set "
                f"choices.temperature to 1 instead of {temperature}."
            )

    @property
    def about(self) -> Mapping[str, Any]:
        """See `Engine.about`."""
        return asdict(self.dialect)

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `Engine.identity`."""
        given = {"given": self.dialect.prefill} if self.dialect.prefill else {}
        return {
            **given,
            "engine": self.name,
            "model": self._settings.model,
            "served": self._settings.served or self.dialect.model,
            "mode": "exact" if self.exact else "sampled",
            "temperature": self._temperature,
            "wording": WORDING,
            "labels": [self._stimulus.label_a, self._stimulus.label_b],
            "max_tokens": self.dialect.max_tokens,
            "folded": not self.dialect.system,
            "top_logprobs": self.dialect.top_logprobs,
            "seed": self._settings.seed if self.dialect.seed and not self.exact else None,
            "extra": self._settings.extra,
            **self._settings.written_out,
        }

    def answer(self, questions: Sequence[Question], save: Save) -> None:
        """See `Engine.answer`. A question is put into words when its turn comes: the words of all would fill the memory."""
        self._endpoint.ask(map(self._call, questions), save)

    def read(self, answer: Answer) -> Reading:
        """See `Engine.read`."""
        if self.exact:
            return read_probabilities(answer, self._labels, self._temperature)
        return read_text(answer, self._labels)

    def _call(self, question: Question) -> Call:
        message = self._stimulus.message(question.first, question.second)
        return self._endpoint.call(question.id, message, question.system, self._seed(question))

    def _seed(self, question: Question) -> int | None:
        """Another for every repeat of a question, and unrelated between questions: one seed is one stream of chance."""
        if self._settings.seed is None:
            return None
        shown = canonical_json([self._settings.seed, question.system, question.first, question.second])
        return (int.from_bytes(hashlib.sha256(shown).digest()[:4]) + question.repeat) % 2**31
