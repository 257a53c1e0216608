"""A judge behind any OpenAI-compatible endpoint, asked by the client of choices: paced, paid and counted like them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prefprobe.choices.api.client import Call
from prefprobe.choices.api.dialect import FORM, Dialect
from prefprobe.choices.api.endpoint import Budget, Endpoint
from prefprobe.choices.engine import Answer, Save, Spend
from prefprobe.settings.api import ApiSettings
from prefprobe.settings.endpoint import EndpointSettings
from prefprobe.store.keys import canonical_json
from prefprobe.topics.judged import Asked
from prefprobe.topics.reading import Labels, Reading
from prefprobe.topics.taxonomy import Taxonomy
from prefprobe.topics.wording import WORDING, form, message, plain_message

ANSWER_TOKENS = 96
"""Tokens of an answer where `max_tokens` is null: a JSON object with two labels of the longest names, and room."""
_PART = 192
"""Answers between two saves at most; each second there is one."""
_SAMPLES = (
    "How many days are there in April?",
    "Write a function that turns a list of words around.",
    "Shorten this to one sentence: the shop opens at nine, and on Sundays it stays closed.",
)
"""Tasks that an endpoint is tried with."""


def as_api(settings: EndpointSettings, extra: Mapping[str, Any]) -> ApiSettings:
    """An endpoint that answers in words; `extra` are further fields of a request."""
    own = settings.model_dump() | {"extra": {**extra, **settings.extra}}
    return ApiSettings(**own, mode="sampled", compare=0, seed=None)


class ApiJudge:
    """Says the labels of texts over an API. `dialect` is the one that a judge with the same settings found before; without it
    the endpoint is asked, and `trial` is told of these questions. Raises what `Endpoint` raises.
    """

    asks_again = True

    def __init__(
        self,
        settings: EndpointSettings,
        taxonomy: Taxonomy,
        *,
        budget: Budget | None = None,
        dialect: Dialect | None = None,
        trial: Save | None = None,
    ) -> None:
        self._settings, self._taxonomy, self._labels = settings, taxonomy, Labels(taxonomy)
        self.name = f"{settings.model} at {settings.base_url}"
        asked = as_api(settings, {FORM: form(taxonomy)})
        self.budget = budget or Budget(asked, Spend())
        samples = [message(taxonomy, text) for text in _SAMPLES]
        self._endpoint = Endpoint(
            asked, self.budget, _PART, 0.0, samples, dialect=dialect, trial=trial, tokens=ANSWER_TOKENS
        )
        self.dialect = self._endpoint.dialect
        self._identity = hashlib.sha256(canonical_json(dict(self.identity)))

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `Judge.identity`."""
        return {
            "engine": "topics",
            "model": self._settings.model,
            "served": self._settings.served or self.dialect.model,
            "wording": WORDING,
            "taxonomy": self._taxonomy.model_dump(mode="json"),
            "form": self.dialect.form,
            "max_tokens": self.dialect.max_tokens,
            "extra": self._settings.extra,
            **self._settings.written_out,
        }

    @property
    def about(self) -> Mapping[str, Any]:
        """See `Judge.about`."""
        return asdict(self.dialect)

    def question(self, text: str, *, plainly: bool = False) -> Asked:
        """See `Judge.question`. The digest is of the text and of whatever else an answer depends on."""
        digest = self._identity.copy()
        digest.update(canonical_json([plainly, text]))
        return Asked(digest.hexdigest()[:32], text, plainly)

    def answer(self, questions: Sequence[Asked], save: Save) -> None:
        """See `Judge.answer`. A question is put into words when its turn comes."""
        self._endpoint.ask(map(self._call, questions), save)

    def read(self, answer: Answer) -> Reading:
        """See `Judge.read`."""
        return self._labels.read(answer)

    def _call(self, question: Asked) -> Call:
        worded = (
            plain_message(self._taxonomy, question.text) if question.plainly else message(self._taxonomy, question.text)
        )
        call = self._endpoint.call(question.id, worded)
        if question.plainly:  # a label alone is no object
            call = Call(call.id, {name: value for name, value in call.body.items() if name != FORM}, call.tokens)
        return call
