"""One model behind an API: asked in its dialect, within a budget, its answers handed on as they come."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from prefprobe.choices.api.access import Access
from prefprobe.choices.api.asking import Asking
from prefprobe.choices.api.client import Call, Client, Reply
from prefprobe.choices.api.dialect import PLAIN_TOKENS, Dialect
from prefprobe.choices.api.failures import NO_ANSWER
from prefprobe.choices.api.interview import Interview
from prefprobe.choices.api.replies import EMPTY, Body, complaint, expected, finish, limit, logprobs, to_answer
from prefprobe.choices.engine import TOOL_CALLS, Answer, Save, Spend
from prefprobe.choices.ledger import Ledger
from prefprobe.choices.reading import Labels
from prefprobe.errors import BadConfig, TemporaryFailure
from prefprobe.numbers import listed
from prefprobe.settings.api import ApiSettings
from prefprobe.settings.endpoint import Prices

_SHOWN = 60  # characters of a model's name
_STRANGERS, _SHARE = 10, 0.2
"""Answers that cannot be taken for the same reason, and their share, beyond which it is no accident that they come."""
NO_LOGPROBS, DUPLICATE = "no log-probabilities", "duplicate"
"""Why a completion is of no use, beside what `complaint` says."""
_CHECKS = {
    NO_LOGPROBS: "it listed them when it was tried: set `mode` to sampled, or ask a provider that always lists them",
    DUPLICATE: "each has the id of an earlier one, as if it came twice: take out what keeps answers between here and the "
    "model, or ask a server that gives every answer an id of its own, or none",
    EMPTY: "check `extra` and max_tokens, and ask for one by hand",
}
"""What to do where many are."""


class Budget:
    """What a step may still spend. An engine and its judge share one."""

    def __init__(self, settings: ApiSettings, spent: Spend) -> None:
        self._settings = settings
        self.spent = spent
        """What this step has paid, in this process and before it."""

    def pay(self, answers: Iterable[Answer]) -> None:
        """Add what some answers have cost."""
        self.spent += Spend.of(answers)

    def covers_more(self, beside: Spend) -> bool:
        """Whether one more attempt may be made, where lost ones have cost something `beside` what is paid. What is on its way
        then comes on top of the limit.
        """
        dollars, tokens, spent = self._settings.budget_usd, self._settings.budget_tokens, self.spent + beside
        used = spent.prompt_tokens + spent.completion_tokens
        return (dollars is None or spent.dollars < dollars) and (tokens is None or used < tokens)


class Endpoint:
    """A model that is asked over the network: speaks its dialect, keeps to the budget, hands answers on in parts.

    Without a dialect it is asked for one, and `trial` is told of these questions; `tokens` is what an answer takes of a model
    without thoughts.
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
        tokens: int = PLAIN_TOKENS,
    ) -> None:
        self.settings, self._budget, self._part = settings, budget, part
        self._paid = Spend() if dialect is None else dialect.spend
        self._host = urlsplit(settings.base_url).hostname or ""
        self._temperature = temperature
        self._seen: set[str] = set()
        self._spoken: Dialect | None = None
        self._answered_by: Counter[str] = Counter()
        self._came: Counter[str] = Counter()
        access = Access.of(settings)
        if settings.judge is not None:
            Access.of(settings.for_judge())  # a variable that is not set shows before anything is asked
        self._client = Client(access, settings.transport, self._inspect)
        if dialect is None:  # an address or a server that is wrong from the start shows early
            client = Client(access, settings.transport, self._inspect, trial=True)
            dialect = self._interview(client, Ledger() if trial is None else trial, samples, labels, tokens)
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

        Asking(self._client, save, self._part, read=read, cost=self._expected, more=self._budget.covers_more).run(calls)

    def _interview(
        self, client: Client, save: Save, samples: Sequence[str], labels: Labels | None, tokens: int
    ) -> Dialect:
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
            Asking(client, save, self._part, read=read, cost=self._expected, more=lambda _: True).run(calls)
            some = [replies[call.id] for call in calls]
            lost = next((r.error for r in some if r.body is None and not r.error[:3].isdigit()), None)
            if lost is not None:
                raise TemporaryFailure(f"{self.settings.base_url}: {lost}; run again later.")
            return some

        found = Interview(ask, self.settings, self._temperature, samples[0], samples[1:], labels, tokens).dialect()
        names, self._answered_by = sorted(self._answered_by), Counter()
        if not all(self._expects(name, names[0]) for name in names):
            raise BadConfig(
                f"{self._whom}: answers come from {_named(names)}{self._allowed}; if all of them are the model that you "
                f"mean, set `served` to [{', '.join(names)}], else ask for one by its whole name in `model`."
            )
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
        wrong = complaint(body) or self._unexpected(body)
        if self._spoken is not None and wrong != NO_ANSWER:
            self._came[wrong or ""] += 1
            self._bear_with(wrong or "")
        return wrong

    def _unexpected(self, body: Body) -> str | None:
        """Why a completion is not one that is asked for."""
        spoken, id_, model = self._spoken, str(body.get("id")), str(body.get("model") or "")
        self._answered_by[model] += 1
        if spoken is not None:
            if not self._expects(model, spoken.model):
                self._bear(model)
                return f"wrong model ({model[:_SHOWN]})"
            if spoken.exact and not logprobs(body) and finish(body) not in ("refusal", "content_filter", TOOL_CALLS):
                return NO_LOGPROBS
            if spoken.distinct_ids and id_ in self._seen:
                return DUPLICATE
        self._seen.add(id_)
        return None

    def _expects(self, model: str, first: str) -> bool:
        """Whether answers may come from `model`, where the first came from `first`."""
        names = self.settings.served
        return any(model == name or fnmatchcase(model, name) for name in names) if names else first in ("", model)

    @property
    def _allowed(self) -> str:
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

    def _bear_with(self, wrong: str) -> None:
        """Raise BadConfig where so many answers cannot be taken for one reason that asking again is no way."""
        n, all_ = self._came[wrong], self._came.total()
        if wrong in _CHECKS and n >= _STRANGERS and n > _SHARE * all_:
            raise BadConfig(
                f"{self._whom}: {n} of {all_} answers cannot be taken ({wrong}), and may be billed; {_CHECKS[wrong]}. What "
                "was answered before is saved."
            )

    @property
    def _whom(self) -> str:
        return f"{self.settings.model} at {self.settings.base_url}"


def _named(models: Iterable[str]) -> str:
    return listed([model[:_SHOWN] or "a model that is not named" for model in sorted(models)])


def _call(id_: str, body: Body) -> Call:
    characters = sum(len(turn["content"]) for turn in body["messages"])
    return Call(id_, body, characters // 4 + limit(body))
