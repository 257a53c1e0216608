"""The one configuration object: a preset, the command line's `--set`, the environment of a pod, and what a run saves.

A preset is YAML. A value is overridden by the environment (`PREFPROBE_TRAIN__MAX_ROUNDS=2`) and above all by the command
line (`--set train.max_rounds=2`). A key that does not exist is an error everywhere.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from prefprobe.choices.api_settings import ApiSettings
from prefprobe.errors import BadConfig
from prefprobe.settings import Settings


class ModelSettings(Settings):
    """A causal language model."""

    source: str = Field(description="hub id, local folder, GGUF file, or package:NAME/PATH")
    name: str | None = Field(None, description="how the report calls it; the source if not given")
    revision: str | None = Field(None, description="hub commit; content digests identify everything else")
    adapter: str | None = Field(None, description="LoRA adapter (peft, safetensors) merged at load: hub id or folder")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    chat: bool = Field(True, description="render prompts with the chat template; false reads bare text")


class TaskSettings(Settings):
    """Which tasks there are, and how many are measured."""

    sources: list[str] = Field(
        ["demo"], min_length=1, description="`demo`, a JSONL, CSV or Parquet file with id and text, or store:KEY"
    )
    n_train: int = Field(ge=10)
    n_eval: int = Field(ge=10)


class ChoiceSettings(Settings):
    """How one choice between two tasks is made."""

    engine: Literal["local", "api"] = Field(
        "local", description="local: exact label probabilities from own weights; api: the model behind `api`"
    )
    api: ApiSettings | None = None
    temperature: float = Field(1.0, gt=0)
    label_a: str = "Task A:"
    label_b: str = "Task B:"
    part: int = Field(192, ge=2, description="choices measured between two saves; at most this many are repeated")

    @model_validator(mode="after")
    def _an_api_if_one_is_asked(self) -> Self:
        if (self.engine == "api") != (self.api is not None):
            raise ValueError("`api` is given with `engine: api`, and only then")
        return self

    def keyed(self) -> dict[str, Any]:
        """What choices depend on: all but the pace and the credentials with which an API is asked."""
        return self.model_dump(mode="json", exclude={"api": {"transport": True, "key": True, "judge": {"key": True}}})


class ActiveLearningSettings(Settings):
    """How many pairs of one task set are measured, and when to stop. Defaults are the published procedure's."""

    initial_degree: int = Field(
        5, ge=2, description="comparisons per task in the first round's random regular graph; 3 will do if read off"
    )
    batch: int = Field(ge=1, description="pairs in each later round")
    max_rounds: int = Field(10, ge=1)
    percentile: float = Field(
        0.3, gt=0, le=1, description="|Δμ| and joint degree of new pairs lie under this percentile"
    )
    relax: float = Field(1.5, gt=1, description="factor on the percentile while too few pairs qualify")
    rank_threshold: float = Field(0.995, gt=0, lt=1, description="rank correlation with the round before")
    reliability_threshold: float = Field(0.9, gt=0, lt=1, description="split-half reliability (Spearman-Brown)")
    samples: int = Field(
        1, ge=1, description="answers to each order of a pair where answers are sampled; read off, one is all there is"
    )


class ActivationSettings(Settings):
    """Which activations are kept."""

    fractions: list[float] = Field([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], description="layer int(f · n_layers)")
    shards: int = Field(1, ge=1, le=64, description="extraction runs as this many parallel steps")
    part: int = Field(120, ge=1, description="tasks between two saves")


class ProbeSettings(Settings):
    """Probes and their controls."""

    holdout: int = Field(1, ge=1, description="topics held out together in a cross-topic fold")
    permutations: int = Field(20, ge=5, description="label permutations of the shuffled control")
    compat: Literal["none", "reference"] = Field("none", description="reference: the published procedure's choices")


class ShiftSettings(Settings):
    """The system-prompt experiments."""

    experiments: list[str] = Field(
        ["category", "targeted", "competing", "persona"], description="names, YAML files, or store:KEY"
    )
    comparisons: int = Field(ge=2, description="comparison tasks that every shifted task is measured against")
    samples: int = Field(1, ge=1, description="as for train and eval")
    baseline: str = "You are a helpful assistant."
    shards: int = Field(1, ge=1, le=64)


class Config(BaseSettings):
    """A whole study."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="PREFPROBE_", env_nested_delimiter="__", protected_namespaces=()
    )

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    seed: int = 0
    model: ModelSettings
    base: ModelSettings | None = None
    encoders: dict[str, str] = Field(
        default_factory=dict, description="name → sentence encoder (folder, hub id, package)"
    )
    untrained: bool = Field(True, description="control: the same architecture with untrained weights")
    random_features: bool = Field(True, description="control: features that know nothing of the tasks")
    tasks: TaskSettings
    choices: ChoiceSettings = ChoiceSettings()
    train: ActiveLearningSettings
    eval: ActiveLearningSettings
    activations: ActivationSettings = ActivationSettings()
    probes: ProbeSettings = ProbeSettings()
    shift: ShiftSettings

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


def load_config(preset: Path, overrides: Iterable[str] = (), text: str | None = None) -> Config:
    """Read a preset, lay the environment and then `overrides` ("a.b=value", YAML values) over it, and validate.

    With `text` the file is not read: `preset` only names it in errors. Raises BadConfig naming the file and the key.
    """
    try:
        values = yaml.safe_load(preset.read_text("utf-8") if text is None else text)
    except FileNotFoundError as error:
        known = ", ".join(sorted(str(p) for p in preset.parent.glob("*.yaml"))) or "presets/demo.yaml"
        raise BadConfig(f"{preset}: no such preset; name a YAML file such as {known}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        raise BadConfig(f"{preset}{line}: not valid YAML ({getattr(error, 'problem', None) or 'bad text'}).") from error
    if not isinstance(values, dict):
        raise BadConfig(f"{preset}: expected a mapping of settings, found {type(values).__name__}.")
    values = _merged(values, EnvSettingsSource(Config)())
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise BadConfig(f"--set {override}: expected KEY=VALUE, such as train.max_rounds=2.")
        nested: Any = yaml.safe_load(text)
        for name in reversed(key.split(".")):
            nested = {name: nested}
        values = _merged(values, nested)
    return parse_config(values, str(preset))


def parse_config(values: Mapping[str, Any], origin: str) -> Config:
    """Validate merged values; BadConfig names `origin` and every wrong key."""
    try:
        return Config(**values)
    except ValidationError as error:
        problems = "; ".join(_sentence(e["loc"], e["type"], e["msg"]) for e in error.errors())
        raise BadConfig(f"{origin}: {problems}. Correct the preset and run again.") from error


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        both[key] = (
            _merged(old or {}, value) if isinstance(value, Mapping) and isinstance(old, Mapping | None) else value
        )
    return both


def _sentence(location: tuple[int | str, ...], kind: str, message: str) -> str:
    key = ".".join(str(part) for part in location)
    if kind != "extra_forbidden":
        return f"`{key}`: {message[0].lower()}{message[1:]}"
    fields: Any = Config
    for part in location[:-1]:
        annotation = fields.model_fields[str(part)].annotation
        fields = next((a for a in getattr(annotation, "__args__", ()) if isinstance(a, type)), annotation)
    near = difflib.get_close_matches(str(location[-1]), fields.model_fields, n=1)
    return f"`{key}` is not a setting" + (f" (did you mean `{near[0]}`?)" if near else "")
