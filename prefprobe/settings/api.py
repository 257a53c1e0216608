"""Settings of endpoints: how one is reached, how it is asked, and what that may cost."""

import datetime
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from prefprobe.settings.base import Settings, form

_ENGINES_OWN = frozenset(
    [
        "model",
        "messages",
        "n",
        "stream",
        "stream_options",
        "seed",
        "temperature",
        "max_tokens",
        "max_completion_tokens",
        "logprobs",
        "top_logprobs",
    ]
)


def _address(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme not in ("http", "https") or not rest:
        raise ValueError("an address begins with http:// or https://")
    if "@" in rest.split("/", 1)[0]:
        raise ValueError("user and password do not belong in an address; name an environment variable in `key`")
    if "?" in rest or "#" in rest:
        raise ValueError(
            f"an address ends before {'?' if '?' in rest else '#'}; /chat/completions follows it, so leave out the rest, and "
            "give what stands behind a ? in `query`, as in query: {api-version: 2024-10-21}"
        )
    return url


def _variable(name: str) -> str:
    if name and not (name.isascii() and name.isidentifier()):
        raise ValueError("expected the name of an environment variable that holds the key, never the key itself")
    return name


def _providers_own(extra: dict[str, Any]) -> dict[str, Any]:
    taken = sorted(set(extra) & _ENGINES_OWN)
    if taken:
        raise ValueError(f"the engine sets {', '.join(taken)} itself")
    return extra


def _not_left_empty(name: object) -> object:
    if name is None:
        raise ValueError('nothing stands there; give the NAME of the variable that holds the key, or "" to send none')
    return name


ENOUGH_PAIRS = 8
"""Pairs without which it is not decided whether two tables of choices are of one model."""


def _none_or_enough(pairs: int) -> int:
    if 0 < pairs < ENOUGH_PAIRS:
        raise ValueError(f"fewer than {ENOUGH_PAIRS} pairs tell nothing; give more, or 0 to compare none")
    return pairs


Address = Annotated[str, AfterValidator(_address)]
Variable = Annotated[str, AfterValidator(_variable)]
Extra = Annotated[dict[str, Any], AfterValidator(_providers_own)]


class FromVariable(Settings):
    """A value that stands in a variable of the environment, and in no preset, key or record."""

    env: Variable = Field(min_length=1, description="NAME of the variable that holds the value")


def _as_written(value: object) -> object:
    """A date as its text: YAML takes an unquoted `api-version` for one."""
    is_date = isinstance(value, datetime.date) and not isinstance(value, datetime.datetime)
    return value.isoformat() if is_date else value  # type: ignore[attr-defined]


Value = Annotated[
    Annotated[str, Tag("(text)")] | Annotated[FromVariable, Tag("(mapping)")],
    Discriminator(
        form,
        custom_error_type="form",
        custom_error_message="a value is a text (numbers stand in quotes), or {env: NAME} for what stands in a variable",
    ),
    BeforeValidator(_as_written),
]
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CLIENTS_OWN = frozenset(
    [
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
_CREDENTIAL = re.compile(
    r"(^|[_-])(api|access|subscription|secret)?(authorization|auth|bearer|cookie|credentials?|keys?|password|secrets?|"
    r"sig|signature|token)($|[_-])",
    re.IGNORECASE,
)
"""Names whose values are no business of a preset's."""


def _header_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a header")
    if name.lower() in _CLIENTS_OWN:
        raise ValueError(f"the client sets {name} itself")
    return name


def _headers(headers: dict[str, Any]) -> dict[str, Any]:
    lower = [_header_name(name).lower() for name in headers]
    twice = next((name for name in headers if lower.count(name.lower()) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} stands here twice; capitals make no difference")
    for name, value in headers.items():
        if isinstance(value, str) and not (
            value and value.isascii() and value.isprintable() and value == value.strip()
        ):
            raise ValueError(f"the value of {name} is one that no header can hold")
    return _no_credentials(headers)


def _no_credentials(values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        if isinstance(value, str) and _CREDENTIAL.search(name):
            raise ValueError(
                f"the value of {name} is kept out of presets; name the variable that holds it, as in {name}: {{env: MY_KEY}}"
            )
    return values


HeaderName = Annotated[str, AfterValidator(_header_name)]
Headers = Annotated[dict[str, Value], AfterValidator(_headers)]
Query = Annotated[dict[str, Value], AfterValidator(_no_credentials)]
Names = Annotated[list[str], AfterValidator(lambda names: sorted(set(names)))]


def _nothing(value: object) -> bool:
    """Whether a setting says nothing: it then stands in no record, as before there was such a setting."""
    return not value


def _not_given(value: object) -> bool:
    return value is None


class TransportSettings(Settings):
    """How hard an endpoint is pressed, and how long it is waited for."""

    concurrency: int = Field(
        default=32, ge=1, description="the most requests on their way at once; fewer while the endpoint is busy"
    )
    requests_per_minute: int | None = Field(default=None, ge=1, description="sent evenly, no bursts; null: no limit")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="prompt and longest answer; null: no limit")
    attempt_timeout: float = Field(default=120.0, gt=0, description="seconds for one attempt")
    total_timeout: float = Field(
        default=900.0, gt=0, description="seconds without any answer after which a step gives up for now"
    )


class Prices(Settings):
    """US dollars for a million tokens."""

    prompt: float = Field(ge=0, description="prompt tokens")
    cached: float | None = Field(
        default=None, ge=0, description="prompt tokens out of the provider's cache; null: as prompt"
    )
    completion: float = Field(ge=0, description="tokens of answers, thoughts included")


class JudgeSettings(Settings):
    """A model that is asked what an answer without a label says."""

    model: str = Field(description="its name at the endpoint")
    base_url: Address | None = Field(default=None, description="null: the same endpoint")
    key: Variable | None = Field(
        default=None, description="null: the same variable; must be given with another base_url"
    )
    key_header: HeaderName | None = Field(
        default=None,
        exclude_if=_not_given,
        description="null: as for the model, or Authorization with another base_url",
    )
    headers: Headers | None = Field(
        default=None, exclude_if=_not_given, description="null: as for the model, or none with another base_url"
    )
    query: Query | None = Field(default=None, exclude_if=_not_given, description="as headers")
    stream: bool | None = Field(
        default=None,
        exclude_if=_not_given,
        description="null: as for the model, or false with another base_url",
    )
    served: Names = Field(default_factory=list, exclude_if=_nothing, description="as for the model, but its own")
    max_tokens: int | None = Field(default=None, ge=1, description="as for the model")
    prices: Prices | None = Field(default=None, description="as for the model, but its own")
    extra: Extra = Field(default_factory=dict, description="further fields of every request to it")

    @model_validator(mode="after")
    def _no_key_for_a_stranger(self) -> Self:
        if self.base_url is not None and self.key is None:
            raise ValueError('`key` must be given with another base_url, "" for none: a key is sent to one address')
        return self


_BEARER = "Authorization"


class ApiSettings(Settings):
    """A model behind an OpenAI-compatible API: vLLM, OpenRouter, OpenAI, `transformers serve`."""

    base_url: Address = Field(description="up to /v1, as in http://127.0.0.1:8000/v1 or https://openrouter.ai/api/v1")
    model: str = Field(description="its name there")
    key: Annotated[Variable, BeforeValidator(_not_left_empty)] = Field(
        default="OPENAI_API_KEY", description="NAME of the variable that holds the key; unset: none is sent"
    )
    key_header: HeaderName = Field(
        default=_BEARER,
        exclude_if=lambda name: name == _BEARER,
        description="header with the key: Authorization has it as `Bearer KEY`, any other, such as Azure's api-key, as it is; "
        "part of no key of a step",
    )
    headers: Headers = Field(
        default_factory=dict,
        exclude_if=_nothing,
        description="further headers of every request, name → text, or {env: NAME} for what stands in a variable. A text may "
        "route to another model, so that answers depend on it; what stands in a variable is part of no key and shown nowhere",
    )
    query: Query = Field(
        default_factory=dict,
        exclude_if=_nothing,
        description="what follows the ? of every request, in the form of `headers`: {api-version: 2024-10-21}",
    )
    stream: bool = Field(
        default=False,
        exclude_if=_nothing,
        description="ask for a stream of events, for endpoints that answer in no other way; part of no key",
    )
    served: Names = Field(
        default_factory=list,
        exclude_if=_nothing,
        description="models that answers may come from, in the endpoint's words or as shell patterns (gpt-4o*), where one "
        "goes by several names; empty: the one that answers first",
    )
    mode: Literal["auto", "exact", "sampled"] = Field(
        default="auto",
        description="exact reads log-probabilities; auto does where they come and answers begin with a label",
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="length of an answer; null: 16, and what it takes for a model that reasons"
    )
    seed: int | None = Field(
        default=0, description="from which every question and repeat gets a seed of its own; null: none"
    )
    prices: Prices | None = Field(default=None, description="needed for budget_usd where the provider reports no cost")
    budget_usd: float | None = Field(default=None, gt=0, description="what one step may cost; null: no limit")
    budget_tokens: int | None = Field(
        default=None,
        gt=0,
        description="prompt and completion tokens of one step, estimated where none are reported; null: no limit",
    )
    extra: Extra = Field(
        default_factory=dict, description="further fields of every request: provider, reasoning, top_p"
    )
    transport: TransportSettings = Field(default=TransportSettings(), description="pace and patience; part of no key")
    judge: JudgeSettings | None = Field(default=None, description="reads answers that begin with neither label")
    compare: Annotated[int, Field(ge=0), AfterValidator(_none_or_enough)] = Field(
        default=24, description="pairs that own weights are asked too, since both must be one model; 0: none"
    )
    min_agreement: float = Field(
        default=0.9,
        ge=-1,
        le=1,
        description="the run stops where r of P(A) between both is surely below; part of no key",
    )
    max_difference: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="and where P(A) surely lies further apart (root mean square); part of no key",
    )

    @model_validator(mode="after")
    def _one_value_for_a_header(self) -> Self:
        both: list[ApiSettings] = [self] if self.judge is None else [self, self.for_judge()]
        for asked in both:
            if asked.key and asked.key_header.lower() in map(str.lower, asked.headers):
                raise ValueError(
                    f"{asked.key_header} has the key, so `headers` cannot set it; take it out, or name another `key_header`, "
                    'or set `key` to ""'
                )
        return self

    @property
    def written_out(self) -> dict[str, dict[str, str]]:
        """The texts in `headers` and `query`, where there are any: answers may depend on them. Variables are credentials."""
        texts = {
            name: {of: value for of, value in values.items() if isinstance(value, str)}
            for name, values in (("headers", self.headers), ("query", self.query))
        }
        return {name: values for name, values in texts.items() if values}

    def for_judge(self) -> "ApiSettings":
        """How the judge is asked: the same, but for what `judge` says otherwise. There must be a judge."""
        assert self.judge is not None
        judge = self.judge
        own: dict[str, Any] = {
            "model": judge.model,
            "max_tokens": judge.max_tokens,
            "prices": judge.prices,
            "extra": judge.extra,
        }
        own |= {"mode": "sampled", "judge": None, "served": judge.served}
        if judge.base_url is not None:  # what is sent to one address goes to no other
            own |= {"base_url": judge.base_url, "key_header": _BEARER, "headers": {}, "query": {}, "stream": False}
        for name in ("key", "key_header", "headers", "query", "stream"):
            if getattr(judge, name) is not None:
                own |= {name: getattr(judge, name)}
        return self.model_copy(update=own)
