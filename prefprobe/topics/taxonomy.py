"""A taxonomy: the labels that a judge chooses from, as a YAML file with a name and a version."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from prefprobe.errors import BadConfig
from prefprobe.sources import input_file
from prefprobe.store.objects import ObjectStore
from prefprobe.tasks.topics import OTHER
from prefprobe.yaml_text import parse_yaml

TAXONOMIES = Path(__file__).parent / "taxonomies"
BUILTIN = ("study", "demo")

Line = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"\S")]


class Label(BaseModel):
    """One topic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]+(_[A-Za-z0-9]+)*$", max_length=60)]
    """In letters, digits and single underscores, as a judge says it."""
    description: Line
    boundary: Line
    """A task that nearly belongs elsewhere, and where it goes."""

    @property
    def words(self) -> str:
        """The name as words."""
        return self.name.replace("_", " ")


class Taxonomy(BaseModel):
    """Labels, `other` among them, in the order in which a judge is shown them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Line
    version: Annotated[int, Field(strict=True, ge=1)]
    """Raised with every change of what a label means."""
    labels: tuple[Label, ...] = Field(min_length=3)

    @property
    def names(self) -> list[str]:
        """The labels' names in their order."""
        return [label.name for label in self.labels]

    @property
    def title(self) -> str:
        """Name and version, as the report says it."""
        return f"{self.name}, version {self.version}"

    @classmethod
    def parse(cls, text: str | bytes, origin: str) -> Self:
        """Of YAML text. Raises BadConfig naming `origin`, the label and what is wrong."""
        values = parse_yaml(text, origin)
        try:
            found = cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            raise BadConfig(
                f"{origin}: {_where(first['loc'], values)} {_wrong(first['type'], first['msg'])}."
            ) from None
        folded = Counter(name.casefold() for name in found.names)
        twice = next((name for name in found.names if folded[name.casefold()] > 1), None)
        if twice is not None:
            raise BadConfig(f"{origin}: the label {twice} stands twice; every label needs a name of its own.")
        if OTHER not in found.names:
            raise BadConfig(f"{origin}: there is no label `{OTHER}` for tasks that are none of the others; add one.")
        return found


def taxonomy_path(named: str, objects: ObjectStore) -> Path:
    """The file of a taxonomy: one of BUILTIN, a path, or store:KEY. Raises BadConfig if there is none."""
    if named in BUILTIN:
        return TAXONOMIES / f"{named}.yaml"
    path = input_file(named, objects)
    if not path.is_file():
        raise BadConfig(
            f"topics.taxonomy: there is no taxonomy {named}; name {', '.join(BUILTIN)}, or a YAML file that "
            "`prefprobe taxonomy` has printed and you have edited."
        )
    return path


def load_taxonomy(named: str, objects: ObjectStore) -> Taxonomy:
    """The taxonomy of that name or file; raises BadConfig for none, and for one that is not in order."""
    return Taxonomy.parse(taxonomy_path(named, objects).read_bytes(), named)


def _where(location: tuple[int | str, ...], values: object) -> str:
    """The key, and the label's name where it is of a label that has one."""
    key = ".".join(map(str, location))
    if not key:
        return "the file"
    labels = values.get("labels") if isinstance(values, dict) else None
    if len(location) > 1 and isinstance(location[1], int) and isinstance(labels, list):
        label = labels[location[1]]
        name = label.get("name") if isinstance(label, dict) else None
        return f"`{key}` of the label {name}" if name else f"`{key}`"
    return f"`{key}`"


def _wrong(kind: str, message: str) -> str:
    if kind == "missing":
        return "is missing: a taxonomy has name, version and labels, and every label a name, a description and a boundary case"
    if kind == "extra_forbidden":
        return "is no key of a taxonomy; take it out"
    if kind in ("model_type", "model_attributes_type"):
        return "is not as expected: a mapping of name, version and labels, and a label one of name, description and boundary"
    if kind in ("tuple_type", "too_short"):
        return "is not as expected: a list of three labels or more, of which one is `other`"
    if kind in ("string_pattern_mismatch", "string_type"):
        return "is not as expected: a text that is not blank, and of a name letters, digits and single underscores"
    return f"is not as expected: {message[0].lower()}{message[1:]}"
