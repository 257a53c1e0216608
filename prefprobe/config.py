"""Reads a preset and lays over it what the environment and the command line say.

A preset is YAML, and may extend another one: `extends: gemma3` lays it over gemma3.yaml in its folder, key by key. A value is
overridden by the environment (`PREFPROBE_TRAIN__MAX_ROUNDS=2`) and above all by the command line
(`--set train.max_rounds=2`). A key that does not exist is an error everywhere. A layer that names another source of a model
takes nothing of the source's own from below: its name and its revision.
"""

import difflib
import functools
import os
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from prefprobe.errors import BadConfig
from prefprobe.settings import Config
from prefprobe.settings.base import Settings
from prefprobe.yaml_text import parse_yaml

_PREFIX = "PREFPROBE_"
"""Of the environment's variables that hold settings."""
_OF_A_SOURCE = ("name", "revision")
"""What a model's settings say of its source alone."""


def load_config(preset: Path, overrides: Iterable[str] = (), text: str | None = None) -> Config:
    """Read a preset, lay the environment and then `overrides` ("a.b=value", YAML values) over it, and validate.

    With `text` the file is not read: `preset` only names it in errors, and says where presets lie that `text` extends.
    Raises BadConfig naming the file and the key.
    """
    values = _laid_over(_values(preset, text), [_environment()])
    given = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise BadConfig(f"--set {override}: expected KEY=VALUE, such as train.max_rounds=2.")
        nested = parse_yaml(value, f"--set {override}")
        for name in reversed(key.split(".")):
            nested = {name: nested}
        given.append(nested)
    return parse_config(_laid_over(values, given), str(preset))


def parse_config(values: Mapping[str, Any], origin: str) -> Config:
    """Validate merged values; BadConfig names `origin` and every wrong key."""
    try:
        return Config(**values)
    except ValidationError as error:
        problems = "; ".join(_sentence(e["loc"], e["type"], e["msg"], e["input"]) for e in error.errors())
        raise BadConfig(f"{origin}: {problems}. Correct the preset and run again.") from error


def standalone(preset: Path) -> str:
    """The text of a preset, for where the presets that it extends do not lie: with their values if it extends any."""
    data = _read(preset)
    extends = "extends" in _mapping(preset, data)
    return yaml.safe_dump(_values(preset), sort_keys=False) if extends else data.decode("utf-8")


def _values(preset: Path, text: str | None = None, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a preset says, laid over what those say that it extends. `above` are the presets that extend it, the last first."""
    values = _mapping(preset, _read(preset) if text is None else text)
    name = values.pop("extends", None)
    if name is None:
        return values
    if not isinstance(name, str) or not name:
        raise BadConfig(f"{preset}: `extends`: expected the name of one preset, such as gemma3, found {name!r}.")
    below = preset.parent / (name if name.endswith(".yaml") else f"{name}.yaml")
    chain = (*([preset] if text is None else []), *above)
    if below.resolve() in {path.resolve() for path in chain}:
        raise BadConfig(
            f"{preset}: `extends: {name}` leads back to {below}; name a preset that does not extend this one."
        )
    if not below.is_file():
        known = ", ".join(sorted(path.stem for path in preset.parent.glob("*.yaml") if path != preset))
        raise BadConfig(
            f"{preset}: `extends: {name}`: there is no {below}; name a preset in the same folder"
            + (f" ({known})" if known else "")
            + ", or the path of one from there."
        )
    return _laid_over(_values(below, above=chain), [values])


def _mapping(preset: Path, text: str | bytes) -> dict[str, Any]:
    values = parse_yaml(text, str(preset))
    if not isinstance(values, dict):
        raise BadConfig(f"{preset}: expected a mapping of settings, found {type(values).__name__}.")
    unnamed = next((key for key in values if not isinstance(key, str)), None)
    if unnamed is not None:
        raise BadConfig(f"{preset}: the key {unnamed!r} is no name of a setting; correct it.")
    return values


def _read(preset: Path) -> bytes:
    try:
        return preset.read_bytes()
    except FileNotFoundError as error:
        known = ", ".join(sorted(str(p) for p in preset.parent.glob("*.yaml"))) or "presets/demo.yaml"
        raise BadConfig(f"{preset}: no such preset; name a YAML file such as {known}.") from error
    except OSError as error:
        raise BadConfig(f"{preset}: cannot be read ({error.strerror}); name a YAML file that can.") from error


def _environment() -> dict[str, Any]:
    # imported here: it takes as long as all other settings together, and a step of a saved run reads no environment
    from pydantic_settings import EnvSettingsSource, SettingsError

    for name in os.environ:  # one without __ may be another variable of this program's
        first = name.removeprefix(_PREFIX).partition("__")[0].lower()
        if name.startswith(_PREFIX) and "__" in name and first not in Config.model_fields:
            raise BadConfig(f"environment: {name}: there is no block of settings `{first}`; correct it or unset it.")
    try:
        # a plain model will do, though it says otherwise: all that a class of settings has beyond one is given here
        return EnvSettingsSource(Config, env_prefix=_PREFIX, env_nested_delimiter="__")()  # type: ignore[arg-type]
    except SettingsError as error:
        block = re.search(r'field "(\w+)"', str(error))
        name = f"{_PREFIX}{block[1].upper() if block else ''}"
        raise BadConfig(
            f"environment: a variable whose name begins with {name} is not valid JSON, as a block or a list of settings "
            "must be; correct it or unset it."
        ) from error


def _laid_over(below: Mapping[str, Any], layer: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`below` with the mappings of one layer over it, in their order."""
    layer = list(layer)
    both = functools.reduce(_merged, layer, dict(below))
    for block in ("model", "base"):
        old, new = below.get(block), both.get(block)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("source") != new.get("source"):
            given = {key for over in layer if isinstance(over.get(block), Mapping) for key in over[block]}
            both[block] = {key: value for key, value in new.items() if key in given or key not in _OF_A_SOURCE}
    return both


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        both[key] = (
            _merged(old or {}, value) if isinstance(value, Mapping) and isinstance(old, Mapping | None) else value
        )
    return both


def _blocks(annotation: Any) -> Iterator[type[Settings]]:
    """The classes of settings that values of this type may be."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _blocks(inner)


def _sentence(location: tuple[int | str, ...], kind: str, message: str, given: object) -> str:
    location = tuple(part for part in location if not str(part).startswith("("))  # a tag: which form of a value it is
    key = ".".join(str(part) for part in location)
    if kind != "extra_forbidden":
        if kind == "value_error":  # written here, and may begin with a name
            return f"`{key}`: {message.removeprefix('Value error, ')}"
        found = ", and nothing stands there" if given is None else ""
        return f"`{key}`: {message[0].lower()}{message[1:]}{found}"
    fields: Any = Config
    for part in location[:-1]:
        if part in fields.model_fields:  # a number is a place in a list, and a user's name one in a mapping
            fields = next(iter(_blocks(fields.model_fields[part].annotation)))
    near = difflib.get_close_matches(str(location[-1]), fields.model_fields, n=1)
    return f"`{key}` is not a setting" + (f" (did you mean `{near[0]}`?)" if near else "")
