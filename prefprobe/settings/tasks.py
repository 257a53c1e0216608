"""Which tasks there are: the sources of a study, named ones among them, and how many are drawn from each."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, SerializerFunctionWrapHandler, Tag, model_serializer, model_validator

from prefprobe.settings.base import Settings, form
from prefprobe.yaml_text import parse_yaml

_NAMED = Path(__file__).parent / "sources.yaml"
Plain = str | bool | int | float


def _none(value: object) -> bool:
    return value is None


class TaskSource(Settings):
    """Where tasks come from, what the columns are called, and which rows are tasks."""

    name: str | None = Field(
        default=None,
        exclude_if=_none,
        description="a named source: `wildchat`, `alpaca`, `math`, `bailbench`, `stress_test` or `demo`; other keys change it",
    )
    path: str | None = Field(
        default=None, exclude_if=_none, description="as a source that is text; with `name` or filters also a folder"
    )
    hub: str | None = Field(default=None, exclude_if=_none, description="a data set repository of the hub, owner/name")
    revision: str | None = Field(
        default=None, exclude_if=_none, description="commit, branch or tag of the repository; a run pins the commit"
    )
    files: str | None = Field(
        default=None,
        exclude_if=_none,
        description="which files of a repository or folder, as in `data/*.parquet`; all Parquet, JSONL, JSON and CSV",
    )
    id: str | None = Field(default="id", description="null: ids are made from the texts; may be a template, as `text`")
    text: str = Field(
        default="text",
        description="a list, as of turns, is read as its first text, a conversation as the first turn of its user; or a "
        "template of columns, as in `{instruction} {input}`",
    )
    topic: str = Field(default="topic", description="must be there if it is called otherwise")
    origin: str = Field(default="origin", description="as topic; tasks of a named source have its name")
    language: str | None = Field(default=None, exclude_if=_none, description="a column, counted by `prefprobe tasks`")
    where: dict[str, Plain | list[Plain] | None] = Field(
        default_factory=dict,
        exclude_if=lambda given: not given,
        description="rows that are tasks: what a column, or a nested one (`a.b`), must be, or any of a list; null is anything",
    )
    min_characters: int | None = Field(default=None, ge=1, exclude_if=_none, description="shorter texts are dropped")
    max_characters: int | None = Field(default=None, ge=1, exclude_if=_none, description="longer texts are dropped")

    @model_validator(mode="after")
    def _from_somewhere(self) -> Self:
        if self.name is not None and self.name not in named_sources():
            raise ValueError(f"there is no source named {self.name}; named are {', '.join(named_sources())}")
        if self.path is not None and self.hub is not None:
            raise ValueError("a source has a `path` or a `hub` repository, not both")
        if self.path is None and self.hub is None:
            if self.name is None:
                raise ValueError("a source has a `name`, a `path` or a `hub` repository")
            if not {"hub", "path"} & named_sources()[self.name].keys.keys():
                raise ValueError(f"no place is known for {self.name}: say where it is by `path` or `hub`")
        if self.revision is not None and (self.path is not None or self.name == "demo"):
            raise ValueError("`revision` is of a `hub` repository; a file is pinned by its content")
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A named source is saved as it was given, so that its keys lie over those of its name when it is read again."""
        saved: dict[str, Any] = dump(self)
        return saved if self.name is None else {key: saved[key] for key in saved if key in self.model_fields_set}

    @property
    def whole(self) -> "TaskSource":
        """The source with what its name says, under what is given."""
        if self.name is None:
            return self
        given = {key: getattr(self, key) for key in self.model_fields_set}
        keys = dict(named_sources()[self.name].keys)
        if {"path", "hub"} & {key for key in given if given[key] is not None}:
            keys.pop("hub", None)
            keys.pop("path", None)
            if self.path is not None and "files" not in given:
                keys.pop("files", None)  # a local copy may lie otherwise
        where = {**keys.get("where", {}), **given.get("where", {})}
        return TaskSource(**{**keys, **given, "where": where})

    @property
    def strict(self) -> bool:
        """Whether it is a file of the user's own, in which every row is a task, and one that is none is refused."""
        chosen = (self.files, self.language, self.min_characters, self.max_characters)
        templates = "{" in self.text or (self.id is not None and "{" in self.id)
        ours = self.hub is None and self.name in (None, "demo")
        return ours and not (templates or self.where or any(value is not None for value in chosen))

    @property
    def label(self) -> str:
        """What counts and sentences call it: its name, its repository, or the name of its file."""
        return self.name or self.hub or PurePath(self.path or "").name


@dataclass(frozen=True)
class NamedSource:
    """A source that has a name, and what is known of it."""

    keys: dict[str, Any]
    """Of `TaskSource`."""
    licence: str
    non_commercial: bool = False
    quotable: bool = True
    """Whether its texts may be shown."""
    published: int | None = None
    """Tasks of the published pool."""


@cache
def named_sources() -> dict[str, NamedSource]:
    """The sources of sources.yaml by their names."""
    found = {}
    for name, said in parse_yaml(_NAMED.read_text("utf-8"), _NAMED.name).items():
        about = {key: said[key] for key in ("licence", "non_commercial", "quotable", "published") if key in said}
        found[name] = NamedSource({key: said[key] for key in said if key not in about} | {"name": name}, **about)
    return found


def quotable(origin: str | None) -> bool:
    """Whether texts of this origin may be shown to a reader."""
    named = named_sources().get(origin or "")
    return named is None or named.quotable


class TaskSettings(Settings):
    """Which tasks there are, and how many are measured."""

    sources: list[
        Annotated[
            Annotated[str, Tag("(text)")] | Annotated[TaskSource, Tag("(mapping)")],
            Discriminator(
                form,
                custom_error_type="form",
                custom_error_message="a source is a text, or a mapping with `name`, `path` or `hub`",
            ),
        ]
    ] = Field(
        default=["demo"],
        min_length=1,
        description="`demo` or another named source, a JSONL, CSV or Parquet file, or store:KEY, with id and text; or a "
        "mapping that names its columns",
    )
    non_commercial: bool = Field(
        default=False,
        exclude_if=lambda given: not given,
        description="allow sources whose licence forbids commercial use (alpaca)",
    )
    n_train: int = Field(ge=10, description="tasks that probes are trained on")
    n_eval: int = Field(ge=10, description="other tasks: half select penalty and layer, half are reported on")
    n_pool: int = Field(
        default=0,
        ge=0,
        exclude_if=lambda given: given == 0,
        description="further tasks, of which activations and embeddings are made and no choices; more of them change nothing",
    )
    quotas: (
        Literal["equal", "published"] | Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)] | None
    ) = Field(
        default=None,
        exclude_if=_none,
        description="how many tasks each origin gives: equal shares, those of the published pool, or weights by origin; one "
        "that is short gives all it has, and the others the rest; null draws evenly along the ids",
    )
    near_duplicates: float | None = Field(
        default=None,
        ge=0.7,
        le=1,
        exclude_if=_none,
        description="of tasks that share this part of their pairs of words (Jaccard), and of one with a task of an experiment, "
        "only the first is drawn; null looks for equal texts alone",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        exclude_if=_none,
        description="tasks whose prompt takes more tokens of the model are dropped",
    )
    too_long: Literal["refuse", "drop"] = Field(
        default="refuse", description="what is done with tasks whose prompts are beyond a model's context"
    )

    @model_validator(mode="after")
    def _allowed(self) -> Self:
        for source in self.all_sources:
            named = named_sources().get(source.name or "")
            if named is not None and named.non_commercial and not self.non_commercial:
                raise ValueError(
                    f"{source.name} is under {named.licence}: set `tasks.non_commercial` to true if your use is not "
                    "commercial, or leave the source out"
                )
            if self.quotas == "published" and (named is None or named.published is None):
                raise ValueError(f"the published pool has no tasks of {source.label}: give `quotas` by origin")
        return self

    @property
    def all_sources(self) -> list[TaskSource]:
        """The sources, each with the names of its columns."""
        return [_source(source).whole if isinstance(source, str) else source.whole for source in self.sources]

    @property
    def pooled(self) -> bool:
        """Whether the step `tasks` keeps origin and topic of what it draws; else they are read from the user's files anew."""
        return self.n_pool > 0 or self.quotas is not None or not all(source.strict for source in self.all_sources)

    @property
    def weights(self) -> dict[str, float] | None:
        """The weights of `quotas` by origin; None for equal ones."""
        if self.quotas == "published":
            return {name: float(of.published) for name, of in named_sources().items() if of.published is not None}
        return self.quotas if isinstance(self.quotas, dict) else None


def _source(text: str) -> TaskSource:
    return TaskSource(name=text) if text in named_sources() and text != "demo" else TaskSource(path=text)
