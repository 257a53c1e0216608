"""All settings of a study: the blocks of a preset, what each key means, and its default.

The same object is the preset, the command line's `--set`, the environment of a pod, and what a run saves.
"""

import re
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from prefprobe.settings.activations import ActivationSettings
from prefprobe.settings.api import ApiSettings
from prefprobe.settings.base import Settings
from prefprobe.settings.model import ModelSettings
from prefprobe.settings.tasks import TaskSettings, TaskSource
from prefprobe.settings.topics import TopicSettings

__all__ = ["ModelSettings", "TaskSettings", "TaskSource", "TopicSettings"]
"""Of what is imported here, what others import from here."""


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


class ProbeSettings(Settings):
    """Probes and their controls."""

    holdout: int = Field(default=1, ge=1, description="topics held out together in a cross-topic fold")
    permutations: int = Field(
        default=199, ge=199, description="label permutations of the model's probe: p is 1 / (permutations + 1) at least"
    )
    compat: Literal["none", "reference"] = Field(
        default="none", description="reference: the published procedure's choices"
    )
    shards: int = Field(
        default=1,
        ge=1,
        le=64,
        exclude_if=lambda shards: shards == 1,
        description="layers of cross-topic folds are shared out among as many parallel steps",
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


BASELINE = "You are a helpful assistant."
NEUTRAL = (
    "You are an assistant who helps people.",
    "You help people with whatever they ask of you.",
    "Your role is to be a useful assistant.",
)
"""What the default baseline says, in other words: it is meant to move nothing."""


class ShiftSubset(Settings):
    """A part of every experiment, for a small study: drawn by ids, balanced over labels and directions."""

    prompts: int = Field(ge=4, multiple_of=2, description="system prompts of each file; love and hate come in pairs")
    tasks: int = Field(ge=2, description="tasks of each task set")


class ShiftSettings(Settings):
    """The system-prompt experiments."""

    experiments: Annotated[list[str], AfterValidator(_told_apart)] = Field(
        default=["category", "targeted", "competing", "persona"], description="names, YAML files, or store:KEY"
    )
    subset: ShiftSubset | None = Field(
        default=None,
        exclude_if=lambda given: given is None,
        description="null: all prompts and tasks of the experiments",
    )
    refitted: list[str] = Field(
        default_factory=list,
        exclude_if=lambda given: not given,
        description="prompts, or experiments, under which whole utilities are fitted to the same choices beside Δp",
    )
    comparisons: int = Field(ge=2, description="comparison tasks that every shifted task is measured against")
    samples: int = Field(default=1, ge=1, description="as for train and eval")
    baseline: str = Field(default=BASELINE, description="the system prompt that every other one is compared with")
    neutral: list[Annotated[str, Field(pattern=r"\S")]] = Field(
        default=list(NEUTRAL),
        max_length=20,
        description="paraphrases of the baseline, which are meant to move nothing: what they move is the noise",
    )
    shards: int = Field(
        default=1, ge=1, le=64, description="system prompts are shared out among as many parallel steps"
    )

    @model_validator(mode="after")
    def _paraphrased(self) -> "ShiftSettings":
        if self.baseline != BASELINE and "neutral" not in self.model_fields_set:
            raise ValueError(
                "neutral: its default paraphrases another baseline; word a few paraphrases of yours, or set [], which "
                "measures no noise, so that no experiment is estimable"
            )
        twice = [text for i, text in enumerate(self.neutral) if text in (self.baseline, *self.neutral[:i])]
        if twice:
            raise ValueError(
                f"neutral: {twice[0]!r} is the baseline or stands twice; word every paraphrase differently"
            )
        return self

    @property
    def stems(self) -> list[str]:
        """What the pins and keys call each experiment, in their order; no two are the same."""
        return [_stem(experiment) for experiment in self.experiments]


_ROLES = frozenset(["model", "base", "untrained", "random", "shuffled"])
"""What else has a row of its own beside the encoders: features, and the control of shuffled labels."""
_ENCODER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _without_nulls(encoders: object) -> object:
    """A preset takes out an encoder of the one below it by null, for layers are laid over each other key by key."""
    return {k: v for k, v in encoders.items() if v is not None} if isinstance(encoders, dict) else encoders


def _named(encoders: dict[str, str]) -> dict[str, str]:
    for name in encoders:
        if name in _ROLES:
            raise ValueError(f"{name!r} is what other features are called; give the encoder another name")
        if not _ENCODER.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot be part of the names of steps and files; name the encoder by letters, digits, - and _"
            )
    return encoders


class Config(Settings):
    """A whole study."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="the beginning of a run's id")
    seed: int = Field(default=0, description="everything random follows from it")
    model: ModelSettings = Field(description="the model that chooses, and whose activations are probed")
    base: ModelSettings | None = Field(default=None, description="a base model to compare with")
    encoders: Annotated[dict[str, str], BeforeValidator(_without_nulls), AfterValidator(_named)] = Field(
        default_factory=dict,
        description="name → sentence encoder (folder, hub id, package); null takes out one of the preset below",
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

    @model_validator(mode="after")
    def _positions_have_names_of_their_own(self) -> Self:
        taken = sorted(self.activations.further.keys() & self.encoders.keys())
        if taken:
            raise ValueError(f"encoders: {taken[0]!r} is what activations at another position are called; rename it")
        return self
