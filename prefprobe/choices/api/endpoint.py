"""One model behind an API: asked in its dialect, within a budget, its answers handed on as they come."""

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from urllib.parse import urlsplit

from prefprobe.choices.answers import Spend
from prefprobe.choices.api.client import Call, Client, Reply
from prefprobe.choices.api.dialect import Dialect, Interview
from prefprobe.choices.api.replies import Body, complaint, finish, logprobs, to_answer
from prefprobe.choices.engine import Answer, Save
from prefprobe.choices.reading import Labels
from prefprobe.errors import BadConfig, PrefprobeError, TemporaryFailure
from prefprobe.settings import ApiSettings

SAVE_EVERY = 5.0
"""Seconds between two saves; a process that is killed loses the answers of so many at most."""

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
    """A model that is asked over the network: speaks its dialect, keeps to the budget, hands answers on in parts."""

    def __init__(
        self,
        settings: ApiSettings,
        budget: Budget,
        part: int,
        temperature: float,
        samples: Sequence[str],
        labels: Labels | None = None,
        dialect: Dialect | None = None,
    ) -> None:
        self.settings, self._budget, self._part = settings, budget, part
        self._host = urlsplit(settings.base_url).hostname or ""
        self._temperature = temperature
        self._seen: set[str] = set()
        self._spoken: Dialect | None = None
        key = os.environ.get(settings.key, "") if settings.key else ""
        self._client = Client(settings.base_url, key, settings.transport, self._inspect)
        if dialect is None:  # an address or a server that is wrong from the start shows early
            short = min(FIRST_CONTACT, settings.transport.total_timeout)
            transport = settings.transport.model_copy(update={"total_timeout": short})
            trial = Client(settings.base_url, key, transport, self._inspect, trial=True)
            dialect = self._interview(trial, samples, labels)
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
        waiting: list[Answer] = []
        saved = time.monotonic()

        def hand_over() -> None:
            nonlocal waiting, saved
            some, waiting = waiting, []
            saved = time.monotonic()
            save(some)

        def deliver(reply: Reply) -> None:
            answer = to_answer(reply, self._host, self.settings.prices, self._labels)
            self._budget.pay([answer])
            waiting.append(answer)
            if len(waiting) >= self._part or time.monotonic() - saved >= SAVE_EVERY:
                hand_over()

        def beat() -> None:
            if time.monotonic() - saved >= SAVE_EVERY:
                hand_over()
            else:
                save([])

        try:
            self._client.run(takewhile(lambda _: self._budget.left, calls), deliver, beat)
        except BaseException:
            with suppress(PrefprobeError):  # the first error goes on
                hand_over()
            raise
        hand_over()

    def _interview(self, client: Client, samples: Sequence[str], labels: Labels | None) -> Dialect:
        before = self._budget.spent

        def ask(bodies: Sequence[Body]) -> list[Reply]:
            replies: dict[str, Reply] = {}
            calls = [_call(f"sample {i}", body) for i, body in enumerate(bodies)]
            client.run(calls, lambda reply: replies.update({reply.id: reply}), lambda: None)
            some = [replies[call.id] for call in calls]
            lost = next((r.error for r in some if r.body is None and not r.error[:3].isdigit()), None)
            if lost is not None:
                raise TemporaryFailure(f"{self.settings.base_url}: {lost}; run again later.")
            self._budget.pay(to_answer(reply, self._host, self.settings.prices, None) for reply in some)
            return some

        found = Interview(ask, self.settings, self._temperature, samples[0], samples[1:], labels).dialect()
        after = self._budget.spent
        return replace(
            found,
            prompt_tokens=after.prompt_tokens - before.prompt_tokens,
            completion_tokens=after.completion_tokens - before.completion_tokens,
            cost=after.dollars - before.dollars,
        )

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
    most = body.get("max_tokens") or body.get("max_completion_tokens") or 0
    return Call(id_, body, characters // 4 + most)
