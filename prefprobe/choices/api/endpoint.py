"""One model behind an API: asked in its dialect, within a budget, its answers handed on as they come."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from prefprobe.choices.api.asking import Asking
from prefprobe.choices.api.client import Call, Client, Reply
from prefprobe.choices.api.dialect import Dialect, Interview
from prefprobe.choices.api.replies import Body, complaint, expected, finish, limit, logprobs, to_answer
from prefprobe.choices.engine import Answer, Save, Spend
from prefprobe.choices.ledger import Ledger
from prefprobe.choices.reading import Labels
from prefprobe.errors import BadConfig, TemporaryFailure
from prefprobe.settings import ApiSettings, Prices

FIRST_CONTACT = 60.0
"""Seconds for which an endpoint may be silent that has never answered this step."""


class Budget:
    """What a step may still spend. An engine and its judge share one."""

    def __init__(self, settings: ApiSettings, spent: Spend) -> None:
        self._settings = settings
        self.spent = spent
        """What this step has paid, in this process and before it."""

    def pay(self, answers: Iterable[Answer]) -> None:
        """Add what some answers have cost."""
        self.spent += Spend.of(answers)

    @property
    def left(self) -> bool:
        """Whether one more question may be asked. What is on its way then comes on top of the limit."""
        dollars, tokens = self._settings.budget_usd, self._settings.budget_tokens
        used = self.spent.prompt_tokens + self.spent.completion_tokens
        return (dollars is None or self.spent.dollars < dollars) and (tokens is None or used < tokens)


class Endpoint:
    """A model that is asked over the network: speaks its dialect, keeps to the budget, hands answers on in parts.

    Without a dialect it is asked for one, and `trial` is told of these questions.
    """

    def __init__(
        self,
        settings: ApiSettings,
        budget: Budget,
        part: int,
        temperature: float,
        samples: Sequence[str],
        labels: Labels | None = None,
        dialect: Dialect | None = None,
        trial: Save | None = None,
    ) -> None:
        self.settings, self._budget, self._part = settings, budget, part
        self._paid = Spend() if dialect is None else dialect.spend
        self._host = urlsplit(settings.base_url).hostname or ""
        self._temperature = temperature
        self._seen: set[str] = set()
        self._spoken: Dialect | None = None
        key = os.environ.get(settings.key, "") if settings.key else ""
        self._client = Client(settings.base_url, key, settings.transport, self._inspect)
        if dialect is None:  # an address or a server that is wrong from the start shows early
            short = min(FIRST_CONTACT, settings.transport.total_timeout)
            transport = settings.transport.model_copy(update={"total_timeout": short})
            client = Client(settings.base_url, key, transport, self._inspect, trial=True)
            dialect = self._interview(client, Ledger() if trial is None else trial, samples, labels)
        self.dialect = dialect
        if settings.budget_usd is not None and settings.prices is None and not self.dialect.reports_cost:
            raise BadConfig(
                f"{settings.base_url} reports no cost: give `prices` for {settings.model}, or no budget_usd."
            )
        self._labels = labels.after(self.dialect.prefill) if labels and self.dialect.exact else None
        self._spoken = self.dialect

    def call(self, id_: str, user: str, system: str | None = None, seed: int | None = None) -> Call:
        """What is asked, in the words of the endpoint's dialect. Its answer has the same id."""
        return _call(id_, self.dialect.body(self.settings, user, system, self._temperature, seed))

    def ask(self, calls: Iterable[Call], save: Save) -> None:
        """Make the calls in the given order while the budget lasts; see `Engine.answer` for `save`."""

        def read(reply: Reply) -> Answer:
            return self._paid_for(reply, self._labels)

        Asking(self._client, save, self._part, read=read, cost=self._expected, more=lambda: self._budget.left).run(
            calls
        )

    def _interview(self, client: Client, save: Save, samples: Sequence[str], labels: Labels | None) -> Dialect:
        estimated = False

        def ask(bodies: Sequence[Body]) -> list[Reply]:
            replies: dict[str, Reply] = {}

            def read(reply: Reply) -> Answer:
                nonlocal estimated
                answer = self._paid_for(reply, None)
                estimated = estimated or answer.estimated
                replies[reply.id] = reply
                return answer

            calls = [_call(f"sample {i}", body) for i, body in enumerate(bodies)]
            Asking(client, save, self._part, read=read, cost=self._expected, more=lambda: True).run(calls)
            some = [replies[call.id] for call in calls]
            lost = next((r.error for r in some if r.body is None and not r.error[:3].isdigit()), None)
            if lost is not None:
                raise TemporaryFailure(f"{self.settings.base_url}: {lost}; run again later.")
            return some

        found = Interview(ask, self.settings, self._temperature, samples[0], samples[1:], labels).dialect()
        return replace(
            found,
            usage=not estimated,
            requests=self._paid.requests,
            prompt_tokens=self._paid.prompt_tokens,
            completion_tokens=self._paid.completion_tokens,
            cost=self._paid.dollars,
        )

    def _paid_for(self, reply: Reply, labels: Labels | None) -> Answer:
        answer = to_answer(reply, self._host, self._prices, labels)
        self._budget.pay([answer])
        self._paid += Spend.of([answer])
        return answer

    @property
    def _prices(self) -> Prices | None:
        """Those of the settings; else, for answers without a cost, the mean of those that came with one."""
        tokens = self._paid.prompt_tokens + self._paid.completion_tokens
        if self.settings.prices is not None or not self._paid.dollars or not tokens:
            return self.settings.prices
        each = 1e6 * self._paid.dollars / tokens
        return Prices(prompt=each, completion=each)

    def _expected(self, call: Call) -> Spend:
        """What a call may cost: the mean of all so far, and before the first what it can cost at most."""
        return self._paid.per(1) if self._paid.requests else expected(call.body, self._prices)

    def _inspect(self, body: Body) -> str | None:
        """Why a reply is no answer, so that the question is asked again; None for one that is."""
        wrong = complaint(body)
        if wrong is not None:
            return wrong
        spoken, id_ = self._spoken, str(body.get("id"))
        if spoken is not None:
            if spoken.model and str(body.get("model") or "") != spoken.model:
                return "wrong model"
            if spoken.exact and not logprobs(body) and finish(body) not in ("refusal", "content_filter"):
                return "no log-probabilities"
            if spoken.distinct_ids and id_ in self._seen:
                return "duplicate"
        self._seen.add(id_)
        return None


def _call(id_: str, body: Body) -> Call:
    characters = sum(len(turn["content"]) for turn in body["messages"])
    return Call(id_, body, characters // 4 + limit(body))
