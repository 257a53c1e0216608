"""Settings of topics: who says which task is of which topic, by which taxonomy, and how that is checked."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from prefprobe.settings.base import Settings
from prefprobe.settings.endpoint import EndpointSettings, not_given
from prefprobe.settings.model import ModelSettings

_STOPS = ("prices", "budget_usd", "budget_tokens", "transport", "key", "key_header", "headers", "query", "stream")
"""What labels do not depend on: pace, credentials, and when to stop."""


class TopicJudge(Settings):
    """Who says which topic a task is of."""

    by: Literal["given", "api", "local", "encoder"] = Field(
        default="given",
        description="given: the task files; api: the model behind `api`; local: own weights, by exact scores of the labels; "
        "encoder: the nearest of the labels' embeddings, a last resort",
    )
    api: EndpointSettings | None = Field(default=None, description="given with `by: api`, and only then")
    model: ModelSettings | None = Field(
        default=None, description="with `by: local`, a model other than the one that chooses"
    )
    encoder: str | None = Field(default=None, description="given with `by: encoder`: folder, hub id, package")
    examples: str | None = Field(
        default=None,
        description="with `by: encoder`, a file of tasks with topics, whose means stand for the labels in place of their "
        "descriptions: demo, a path or store:KEY",
    )

    @model_validator(mode="after")
    def _what_it_takes(self) -> Self:
        for name, kind, needed in (("api", "api", True), ("encoder", "encoder", True), ("model", "local", False),
                                   ("examples", "encoder", False)):  # fmt: skip
            given = getattr(self, name) is not None
            if given and self.by != kind:
                raise ValueError(
                    f"`{name}` is for `by: {kind}`, and this judge is `by: {self.by}`; take out one of them"
                )
            if needed and not given and self.by == kind:
                raise ValueError(f"`by: {kind}` needs `{name}`; give it")
        return self

    def keyed(self) -> dict[str, Any]:
        """What labels depend on, but for weights and files, whose pins say more."""
        if self.api is None:
            return {"by": self.by}
        asked = self.api.model_dump(mode="json", exclude=set(_STOPS)) | self.api.written_out
        return {"by": self.by, "api": asked}


class TopicSettings(Settings):
    """Which topics there are, who says which task is of which, and how topics are used."""

    min_tasks: int = Field(
        default=1, ge=1, description="topics with fewer train tasks are merged into one, `other`; 1 merges none"
    )
    judge: TopicJudge = Field(
        default=TopicJudge(),
        exclude_if=lambda judge: judge == TopicJudge(),
        description="who says which topic a task is of",
    )
    second: TopicJudge | None = Field(
        default=None,
        exclude_if=not_given,
        description="another who says it of a sample, so that the report can say how far both agree; `by: given` holds the judge "
        "against the topics of the task files",
    )
    sample: int = Field(
        default=400,
        ge=30,
        exclude_if=lambda n: n == 400,
        description="tasks that both are asked about",
    )
    taxonomy: str = Field(
        default="study",
        exclude_if=lambda name: name == "study",
        description="study, demo, a YAML file or store:KEY: the labels that a judge chooses from",
    )
    max_unread: float = Field(
        default=0.05,
        ge=0,
        le=1,
        exclude_if=lambda share: share == 0.05,
        description="the step stops where more answers than this share name no label of the taxonomy; part of no key",
    )

    @model_validator(mode="after")
    def _two_judges(self) -> Self:
        if self.second is not None and self.second == self.judge:
            raise ValueError("`second` is the same judge as `judge`: give another one, or none")
        if self.second is not None and self.judge.by == "given":
            raise ValueError("`second` checks a judge, and topics are given; name a `judge`, or take `second` out")
        return self

    @property
    def models(self) -> list[ModelSettings]:
        """The models that judges with own weights read, beside the one that chooses."""
        return [judge.model for judge in self.judges.values() if judge.model is not None]

    @property
    def judges(self) -> dict[str, TopicJudge]:
        """The judges that a step of its own asks, by the name of its node."""
        both = {"first": self.judge, "second": self.second}
        return {name: judge for name, judge in both.items() if judge is not None and judge.by != "given"}
