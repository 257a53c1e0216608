"""Settings of any endpoint: how one is reached, how hard it is pressed, and what that may cost."""

import datetime
import re
from typing import Annotated, Any, Self

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


def nothing(value: object) -> bool:
    """Whether a setting says nothing: it then stands in no record, as before there was such a setting."""
    return not value


def not_given(value: object) -> bool:
    """The same of one that is null."""
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


BEARER = "Authorization"


class EndpointSettings(Settings):
    """A model behind an OpenAI-compatible API: vLLM, OpenRouter, OpenAI, `transformers serve`."""

    base_url: Address = Field(description="up to /v1, as in http://127.0.0.1:8000/v1 or https://openrouter.ai/api/v1")
    model: str = Field(description="its name there")
    key: Annotated[Variable, BeforeValidator(_not_left_empty)] = Field(
        default="OPENAI_API_KEY", description="NAME of the variable that holds the key; unset: none is sent"
    )
    key_header: HeaderName = Field(
        default=BEARER,
        exclude_if=lambda name: name == BEARER,
        description="header with the key: Authorization has it as `Bearer KEY`, any other, such as Azure's api-key, as it is; "
        "part of no key of a step",
    )
    headers: Headers = Field(
        default_factory=dict,
        exclude_if=nothing,
        description="further headers of every request, name → text, or {env: NAME} for what stands in a variable. A text may "
        "route to another model, so that answers depend on it; what stands in a variable is part of no key and shown nowhere",
    )
    query: Query = Field(
        default_factory=dict,
        exclude_if=nothing,
        description="what follows the ? of every request, in the form of `headers`: {api-version: 2024-10-21}",
    )
    stream: bool = Field(
        default=False,
        exclude_if=nothing,
        description="ask for a stream of events, for endpoints that answer in no other way; part of no key",
    )
    served: Names = Field(
        default_factory=list,
        exclude_if=nothing,
        description="models that answers may come from, in the endpoint's words or as shell patterns (gpt-4o*), where one "
        "goes by several names; empty: the one that answers first",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="length of an answer; null: 16 for a choice, 96 for a topic, and more for a model that reasons",
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

    @model_validator(mode="after")
    def _one_value_for_a_header(self) -> Self:
        self.check_key_header()
        return self

    def check_key_header(self) -> None:
        """Raises ValueError where `headers` set the header that has the key."""
        if self.key and self.key_header.lower() in map(str.lower, self.headers):
            raise ValueError(
                f"{self.key_header} has the key, so `headers` cannot set it; take it out, or name another `key_header`, "
                'or set `key` to ""'
            )

    @property
    def written_out(self) -> dict[str, dict[str, str]]:
        """The texts in `headers` and `query`, where there are any: answers may depend on them. Variables are credentials."""
        texts = {
            name: {of: value for of, value in values.items() if isinstance(value, str)}
            for name, values in (("headers", self.headers), ("query", self.query))
        }
        return {name: values for name, values in texts.items() if values}
