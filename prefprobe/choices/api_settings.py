"""Settings of an endpoint that speaks OpenAI's chat completions: whom to ask, how, how fast, and for how much."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from prefprobe.settings import Settings

_ENGINES_OWN = frozenset(
    [
        "model",
        "messages",
        "n",
        "stream",
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


Address = Annotated[str, AfterValidator(_address)]
Variable = Annotated[str, AfterValidator(_variable)]
Extra = Annotated[dict[str, Any], AfterValidator(_providers_own)]


class TransportSettings(Settings):
    """How hard an endpoint is pressed, and how long it is waited for."""

    concurrency: int = Field(
        32, ge=1, description="the most requests on their way at once; fewer while the endpoint is busy"
    )
    requests_per_minute: int | None = Field(None, ge=1, description="sent evenly, no bursts; null: no limit")
    tokens_per_minute: int | None = Field(None, ge=1, description="prompt and longest answer; null: no limit")
    attempt_timeout: float = Field(120.0, gt=0, description="seconds for one attempt")
    total_timeout: float = Field(
        900.0, gt=0, description="seconds without any answer after which a step gives up for now"
    )


class Prices(Settings):
    """US dollars for a million tokens."""

    prompt: float = Field(ge=0)
    cached: float | None = Field(None, ge=0, description="prompt tokens out of the provider's cache; null: as prompt")
    completion: float = Field(ge=0)


class JudgeSettings(Settings):
    """A model that is asked what an answer without a label says."""

    model: str
    base_url: Address | None = Field(None, description="null: the same endpoint")
    key: Variable | None = Field(None, description="null: the same variable; must be given with another base_url")
    max_tokens: int | None = Field(None, ge=1, description="as for the model")
    prices: Prices | None = None
    extra: Extra = Field(default_factory=dict)

    @model_validator(mode="after")
    def _no_key_for_a_stranger(self) -> Self:
        if self.base_url is not None and self.key is None:
            raise ValueError('`key` must be given with another base_url, "" for none: a key is sent to one address')
        return self


class ApiSettings(Settings):
    """A model behind an OpenAI-compatible API: vLLM, OpenRouter, OpenAI, `transformers serve`."""

    base_url: Address = Field(description="up to /v1, as in http://127.0.0.1:8000/v1 or https://openrouter.ai/api/v1")
    model: str = Field(description="its name there")
    key: Variable = Field("OPENAI_API_KEY", description="NAME of the variable that holds the key; unset: none is sent")
    mode: Literal["auto", "exact", "sampled"] = Field(
        "auto", description="exact reads log-probabilities; auto does where they come and answers begin with a label"
    )
    max_tokens: int | None = Field(
        None, ge=1, description="length of an answer; null: 16, and what it takes for a model that reasons"
    )
    seed: int | None = Field(0, description="from which every question and repeat gets a seed of its own; null: none")
    prices: Prices | None = Field(None, description="needed for budget_usd where the provider reports no cost")
    budget_usd: float | None = Field(None, gt=0, description="what one step may cost; null: no limit")
    budget_tokens: int | None = Field(
        None, gt=0, description="prompt and completion tokens of one step; null: no limit"
    )
    extra: Extra = Field(
        default_factory=dict, description="further fields of every request: provider, reasoning, top_p"
    )
    transport: TransportSettings = TransportSettings()
    judge: JudgeSettings | None = None

    def for_judge(self) -> "ApiSettings":
        """How the judge is asked: the same, but for what `judge` says otherwise. There must be a judge."""
        assert self.judge is not None
        judge = self.judge
        own = {"model": judge.model, "max_tokens": judge.max_tokens, "prices": judge.prices, "extra": judge.extra}
        own |= {"mode": "sampled", "judge": None}
        if judge.base_url is not None:
            own |= {"base_url": judge.base_url}
        if judge.key is not None:
            own |= {"key": judge.key}
        return self.model_copy(update=own)
