"""All settings of a study: the blocks of a preset, what each key means, and its default.

The same object is the preset, the command line's `--set`, the environment of a pod, and what a run saves.
"""

import datetime
import re
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, JsonValue, Tag, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from prefprobe.settings.api import ApiSettings
from prefprobe.settings.base import Settings, form

DATE = datetime.date(2025, 1, 1)
"""The date that chat templates print unless another is given."""
RENDERERS_OWN = frozenset(
    [
        "add_generation_prompt",
        "bos_token",
        "cls_token",
        "continue_final_message",
        "conversation",
        "date_string",
        "documents",
        "eos_token",
        "mask_token",
        "max_length",
        "messages",
        "pad_token",
        "padding",
        "raise_exception",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "sep_token",
        "strftime_now",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
        "unk_token",
    ]
)
"""Arguments of a chat template that whatever renders it sets itself."""


def _templates_own(arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
    taken = sorted(set(arguments) & RENDERERS_OWN)
    if taken:
        raise ValueError(f"prompts are rendered with a {', '.join(taken)} of their own; the date is `date`")
    return arguments


class ModelSettings(Settings):
    """A causal language model."""

    source: str = Field(description="hub id, local folder, GGUF file, or package:NAME/PATH")
    name: str | None = Field(default=None, description="how the report calls it; the source if not given")
    revision: str | None = Field(default=None, description="hub commit; content digests identify everything else")
    adapter: str | None = Field(
        default=None, description="LoRA adapter (peft, safetensors) merged at load: hub id or folder"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="type of weights and passes"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes a GPU where there is one")
    chat: bool = Field(default=True, description="render prompts with the chat template; false reads bare text")
    template: Annotated[dict[str, JsonValue], AfterValidator(_templates_own)] = Field(
        default_factory=dict,
        description="arguments of the chat template, as in {enable_thinking: false}; `chat_template` names one of several",
    )
    date: datetime.date = Field(default=DATE, description="what chat templates print as today's date")

    @model_validator(mode="after")
    def _a_template_to_give_them_to(self) -> Self:
        if self.template and not self.chat:
            raise ValueError("`template` has arguments of a chat template, and `chat: false` uses none")
        return self


class TaskSource(Settings):
    """A file of tasks, and what its columns are called."""

    path: str = Field(description="as a source that is text")
    id: str | None = Field(default="id", description="null: ids are made from the texts")
    text: str = Field(default="text", description="a list, as of turns, is read as its first text")
    topic: str = Field(default="topic", description="must be there if it is called otherwise")
    origin: str = Field(default="origin", description="as topic")


class TaskSettings(Settings):
    """Which tasks there are, and how many are measured."""

    sources: list[
        Annotated[
            Annotated[str, Tag("(text)")] | Annotated[TaskSource, Tag("(mapping)")],
            Discriminator(
                form, custom_error_type="form", custom_error_message="a source is a text, or a mapping with `path`"
            ),
        ]
    ] = Field(
        default=["demo"],
        min_length=1,
        description="`demo`, a JSONL, CSV or Parquet file, or store:KEY, with id and text; or {path, id, text, topic, "
        "origin}, where the last four name its columns",
    )
    n_train: int = Field(ge=10, description="tasks that probes are trained on")
    n_eval: int = Field(ge=10, description="other tasks: half select penalty and layer, half are reported on")
    too_long: Literal["refuse", "drop"] = Field(
        default="refuse", description="what is done with tasks whose prompts are beyond a model's context"
    )

    @property
    def files(self) -> list[TaskSource]:
        """The sources, each with the names of its columns."""
        return [TaskSource(path=source) if isinstance(source, str) else source for source in self.sources]


class TopicSettings(Settings):
    """How topics are used."""

    min_tasks: int = Field(
        default=1, ge=1, description="topics with fewer train tasks are merged into one, `other`; 1 merges none"
    )


class ChoiceSettings(Settings):
    """How one choice between two tasks is made."""

    engine: Literal["local", "api"] = Field(
        default="local", description="local: exact label probabilities from own weights; api: the model behind `api`"
    )
    api: ApiSettings | None = Field(default=None, description="given with `engine: api`, and only then")
    temperature: float = Field(
        default=1.0, gt=0, description="at which answers are sampled, or label probabilities read"
    )
    label_a: str = Field(default="Task A:", description="the label of the task shown first")
    label_b: str = Field(default="Task B:", description="the label of the other")
    min_label_mass: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="a step stops where answers begin with a label less often on average, under any system prompt, unless "
        "they are sampled and a judge reads them; 0 never stops; part of no key",
    )
    part: int = Field(
        default=192,
        ge=2,
        description="choices between two saves, which a kill repeats at most; those of an API are saved each second as well",
    )

    @model_validator(mode="after")
    def _an_api_if_one_is_asked(self) -> Self:
        if (self.engine == "api") != (self.api is not None):
            raise ValueError("`api` is given with `engine: api`, and only then")
        return self

    def keyed(self) -> dict[str, Any]:
        """What choices depend on: all but the pace and the credentials with which an API is asked, and when to stop."""
        way = dict.fromkeys(("key", "key_header", "headers", "query", "stream"), True)
        stops = dict.fromkeys(("compare", "min_agreement", "max_difference"), True)
        exclude: dict[str, Any] = {"min_label_mass": True, "api": {**way, **stops, "transport": True, "judge": way}}
        keyed = self.model_dump(mode="json", exclude=exclude)
        if self.api is not None:
            keyed["api"] |= self.api.written_out
            if self.api.judge is not None:
                keyed["api"]["judge"] |= self.api.for_judge().written_out
        return keyed

    @property
    def own_pairs(self) -> int:
        """Pairs that own weights are asked beside an endpoint; 0 if they are asked all, or none."""
        return 0 if self.api is None else self.api.compare


class ActiveLearningSettings(Settings):
    """How many pairs of one task set are measured, and when to stop. Defaults are the published procedure's."""

    initial_degree: int = Field(
        default=5,
        ge=2,
        description="comparisons per task in the first round's random regular graph; 3 will do if read off",
    )
    batch: int = Field(ge=1, description="pairs in each later round")
    max_rounds: int = Field(default=10, ge=1, description="measuring stops after as many, converged or not")
    percentile: float = Field(
        default=0.3, gt=0, le=1, description="|Δμ| and joint degree of new pairs lie under this percentile"
    )
    relax: float = Field(default=1.5, gt=1, description="factor on the percentile while too few pairs qualify")
    rank_threshold: float = Field(default=0.995, gt=0, lt=1, description="rank correlation with the round before")
    reliability_threshold: float = Field(default=0.9, gt=0, lt=1, description="split-half reliability (Spearman-Brown)")
    samples: int = Field(
        default=1,
        ge=1,
        description="answers to each order of a pair where answers are sampled; read off, one is all there is",
    )


class ActivationSettings(Settings):
    """Which activations are kept."""

    fractions: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], min_length=1, description="layer int(f · n_layers)"
    )
    shards: int = Field(default=1, ge=1, le=64, description="extraction runs as this many parallel steps")
    part: int = Field(default=120, ge=1, description="tasks between two saves")


class ProbeSettings(Settings):
    """Probes and their controls."""

    holdout: int = Field(default=1, ge=1, description="topics held out together in a cross-topic fold")
    permutations: int = Field(default=20, ge=5, description="label permutations of the shuffled control")
    compat: Literal["none", "reference"] = Field(
        default="none", description="reference: the published procedure's choices"
    )


def _stem(experiment: str) -> str:
    """What the pin and the keys call an experiment: its name, or the name of its file without folder and suffix."""
    return PurePath(experiment.removeprefix("store:")).stem


def _told_apart(experiments: list[str]) -> list[str]:
    seen: dict[str, str] = {}
    for experiment in experiments:
        stem = _stem(experiment)
        if not stem:
            raise ValueError(f"{experiment!r} names no file")
        if stem in seen:
            raise ValueError(
                f"{seen[stem]} and {experiment} are both called {stem}, by which a run knows them apart; rename one file"
            )
        seen[stem] = experiment
    return experiments


class ShiftSettings(Settings):
    """The system-prompt experiments."""

    experiments: Annotated[list[str], AfterValidator(_told_apart)] = Field(
        default=["category", "targeted", "competing", "persona"], description="names, YAML files, or store:KEY"
    )
    comparisons: int = Field(ge=2, description="comparison tasks that every shifted task is measured against")
    samples: int = Field(default=1, ge=1, description="as for train and eval")
    baseline: str = Field(
        default="You are a helpful assistant.", description="the system prompt that every other one is compared with"
    )
    shards: int = Field(
        default=1, ge=1, le=64, description="system prompts are shared out among as many parallel steps"
    )

    @property
    def stems(self) -> list[str]:
        """What the pins and keys call each experiment, in their order; no two are the same."""
        return [_stem(experiment) for experiment in self.experiments]


_ROLES = frozenset(["model", "base", "untrained", "random", "shuffled"])
"""What else has a row of its own beside the encoders: features, and the control of shuffled labels."""
_ENCODER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _named(encoders: dict[str, str]) -> dict[str, str]:
    for name in encoders:
        if name in _ROLES:
            raise ValueError(f"{name!r} is what other features are called; give the encoder another name")
        if not _ENCODER.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot be part of the names of steps and files; name the encoder by letters, digits, - and _"
            )
    return encoders


class Config(BaseSettings):
    """A whole study."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="PREFPROBE_", env_nested_delimiter="__", protected_namespaces=()
    )

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="the beginning of a run's id")
    seed: int = Field(default=0, description="everything random follows from it")
    model: ModelSettings = Field(description="the model that chooses, and whose activations are probed")
    base: ModelSettings | None = Field(default=None, description="a base model to compare with")
    encoders: Annotated[dict[str, str], AfterValidator(_named)] = Field(
        default_factory=dict, description="name → sentence encoder (folder, hub id, package)"
    )
    untrained: bool = Field(default=True, description="control: the same architecture with untrained weights")
    random_features: bool = Field(default=True, description="control: features that know nothing of the tasks")
    tasks: TaskSettings = Field(description="what there is to choose from")
    topics: TopicSettings = Field(default=TopicSettings(), description="how topics are used")
    choices: ChoiceSettings = Field(default=ChoiceSettings(), description="how a choice is made")
    train: ActiveLearningSettings = Field(description="how the train tasks are measured")
    eval: ActiveLearningSettings = Field(description="how the eval tasks are measured")
    activations: ActivationSettings = Field(default=ActivationSettings(), description="which activations are kept")
    probes: ProbeSettings = Field(default=ProbeSettings(), description="how probes are trained")
    shift: ShiftSettings = Field(description="which system prompts are tried")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Values come merged from `load_config`; nothing else is read behind its back."""
        return (init_settings,)
