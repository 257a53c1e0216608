"""Settings of the endpoint that is asked for choices, and of the judge that reads its answers."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from prefprobe.settings.base import Settings
from prefprobe.settings.endpoint import (
    BEARER,
    Address,
    EndpointSettings,
    Extra,
    HeaderName,
    Headers,
    Names,
    Prices,
    Query,
    Variable,
    not_given,
    nothing,
)

ENOUGH_PAIRS = 8
"""Pairs without which it is not decided whether two tables of choices are of one model."""


def _none_or_enough(pairs: int) -> int:
    if 0 < pairs < ENOUGH_PAIRS:
        raise ValueError(f"fewer than {ENOUGH_PAIRS} pairs tell nothing; give more, or 0 to compare none")
    return pairs


class JudgeSettings(Settings):
    """A model that is asked what an answer without a label says."""

    model: str = Field(description="its name at the endpoint")
    base_url: Address | None = Field(default=None, description="null: the same endpoint")
    key: Variable | None = Field(
        default=None, description="null: the same variable; must be given with another base_url"
    )
    key_header: HeaderName | None = Field(
        default=None,
        exclude_if=not_given,
        description="null: as for the model, or Authorization with another base_url",
    )
    headers: Headers | None = Field(
        default=None, exclude_if=not_given, description="null: as for the model, or none with another base_url"
    )
    query: Query | None = Field(default=None, exclude_if=not_given, description="as headers")
    stream: bool | None = Field(
        default=None,
        exclude_if=not_given,
        description="null: as for the model, or false with another base_url",
    )
    served: Names = Field(default_factory=list, exclude_if=nothing, description="as for the model, but its own")
    max_tokens: int | None = Field(default=None, ge=1, description="as for the model")
    prices: Prices | None = Field(default=None, description="as for the model, but its own")
    extra: Extra = Field(default_factory=dict, description="further fields of every request to it")

    @model_validator(mode="after")
    def _no_key_for_a_stranger(self) -> Self:
        if self.base_url is not None and self.key is None:
            raise ValueError('`key` must be given with another base_url, "" for none: a key is sent to one address')
        return self


class ApiSettings(EndpointSettings):
    """A model behind an OpenAI-compatible API: vLLM, OpenRouter, OpenAI, `transformers serve`."""

    mode: Literal["auto", "exact", "sampled"] = Field(
        default="auto",
        description="exact reads log-probabilities; auto does where they come and answers begin with a label",
    )
    seed: int | None = Field(
        default=0, description="from which every question and repeat gets a seed of its own; null: none"
    )
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
    def _one_value_for_a_header_of_the_judge(self) -> Self:
        if self.judge is not None:
            self.for_judge().check_key_header()
        return self

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
            own |= {"base_url": judge.base_url, "key_header": BEARER, "headers": {}, "query": {}, "stream": False}
        for name in ("key", "key_header", "headers", "query", "stream"):
            if getattr(judge, name) is not None:
                own |= {name: getattr(judge, name)}
        return self.model_copy(update=own)
