"""One model behind an API: asked in its dialect, within a budget, its answers handed on as they come."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import takewhile
from urllib.parse import urlsplit

from prefprobe.choices.answers import Spend
from prefprobe.choices.api.access import Access
from prefprobe.choices.api.client import Call, Client, Reply
from prefprobe.choices.api.dialect import Dialect, Interview
from prefprobe.choices.api.replies import Body, complaint, finish, logprobs, to_answer
from prefprobe.choices.engine import TOOL_CALLS, Answer, Save
from prefprobe.choices.reading import Labels
from prefprobe.errors import BadConfig, PrefprobeError, TemporaryFailure
from prefprobe.numbers import listed
from prefprobe.settings import ApiSettings

SAVE_EVERY = 5.0
"""Seconds between two saves; a process that is killed loses the answers of so many at most."""

_SHOWN = 60  # characters of a model's name
_STRANGERS, _SHARE = 10, 0.2
"""Answers of other models, and their share, beyond which it is no accident that they come."""


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
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings, self._budget, self._part = settings, budget, part
        self._host = urlsplit(settings.base_url).hostname or ""
        self._temperature = temperature
        self._seen: set[str] = set()
        self._spoken: Dialect | None = None
        self._answered_by: Counter[str] = Counter()
        access = Access.of(settings)
        if settings.judge is not None:
            Access.of(settings.for_judge())  # a variable that is not set shows before anything is asked
        self._client = Client(access, settings.transport, self._inspect)
        if dialect is None:  # an address or a server that is wrong from the start shows early
            trial = Client(access, settings.transport, self._inspect, trial=True)
            dialect = self._interview(trial, samples, labels, beat)
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

    def _interview(
        self, client: Client, samples: Sequence[str], labels: Labels | None, beat: Callable[[], None]
    ) -> Dialect:
        before = self._budget.spent

        def ask(bodies: Sequence[Body]) -> list[Reply]:
            replies: dict[str, Reply] = {}
            calls = [_call(f"sample {i}", body) for i, body in enumerate(bodies)]
            client.run(calls, lambda reply: replies.update({reply.id: reply}), beat)
            some = [replies[call.id] for call in calls]
            lost = next((r.error for r in some if r.body is None and not r.error[:3].isdigit()), None)
            if lost is not None:
                raise TemporaryFailure(f"{self.settings.base_url}: {lost}; run again later.")
            self._budget.pay(to_answer(reply, self._host, self.settings.prices, None) for reply in some)
            return some

        found = Interview(ask, self.settings, self._temperature, samples[0], samples[1:], labels).dialect()
        names, self._answered_by = sorted(self._answered_by), Counter()
        if not all(self._expects(name, names[0]) for name in names):
            raise BadConfig(
                f"{self._whom}: answers come from {_named(names)}{self._expected()}; if all of them are the model that you "
                f"mean, set `served` to [{', '.join(names)}], else ask for one by its whole name in `model`."
            )
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
        spoken, id_, model = self._spoken, str(body.get("id")), str(body.get("model") or "")
        self._answered_by[model] += 1
        if spoken is not None:
            if not self._expects(model, spoken.model):
                self._bear(model)
                return f"wrong model ({model[:_SHOWN]})"
            if spoken.exact and not logprobs(body) and finish(body) not in ("refusal", "content_filter", TOOL_CALLS):
                return "no log-probabilities"
            if spoken.distinct_ids and id_ in self._seen:
                return "duplicate"
        self._seen.add(id_)
        return None

    def _expects(self, model: str, first: str) -> bool:
        """Whether answers may come from `model`, where the first came from `first`."""
        names = self.settings.served
        return any(model == name or fnmatchcase(model, name) for name in names) if names else first in ("", model)

    def _expected(self) -> str:
        return f", and `served` is [{', '.join(self.settings.served)}]" if self.settings.served else ""

    def _bear(self, model: str) -> None:
        """Raise BadConfig where so many answers come from other models than expected that asking again is no way."""
        assert self._spoken is not None
        others = {name: n for name, n in self._answered_by.items() if not self._expects(name, self._spoken.model)}
        strange, all_ = sum(others.values()), self._answered_by.total()
        if strange < _STRANGERS or strange <= _SHARE * all_:
            return
        names = sorted({*self.settings.served, *others} | ({self._spoken.model} if not self.settings.served else set()))
        raise BadConfig(
            f"{self._whom}: {strange} of {all_} answers came from {_named(others)} and not from "
            f"{_named(self.settings.served or [self._spoken.model])}; they were not taken, and may be billed. If all of them are "
            f"the model that you mean, set `served` to [{', '.join(names)}], which asks anew; else ask for one by its whole name "
            "in `model`. What was answered is saved."
        )

    @property
    def _whom(self) -> str:
        return f"{self.settings.model} at {self.settings.base_url}"


def _named(models: Iterable[str]) -> str:
    return listed([model[:_SHOWN] or "a model that is not named" for model in sorted(models)])


def _call(id_: str, body: Body) -> Call:
    characters = sum(len(turn["content"]) for turn in body["messages"])
    most = body.get("max_tokens") or body.get("max_completion_tokens") or 0
    return Call(id_, body, characters // 4 + most)
