"""Parts of pages that are made from the code: commands, settings, steps, exit codes, published values, rules."""

import datetime
import html
import json
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import click
from pydantic import JsonValue
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import prefprobe
from prefprobe import cli, errors
from prefprobe.config import load_config
from prefprobe.findings import published, rules
from prefprobe.settings import Config
from prefprobe.settings.base import Settings
from prefprobe.shift.experiments import builtin_paths, load_experiments
from prefprobe.shift.power import design, subjects_of
from prefprobe.shift.subset import subset_of
from prefprobe.study.graph import STEPS

DEMO = Path(__file__).parents[1] / "presets" / "demo.yaml"

_WORDS = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    datetime.date: "date",
    JsonValue: "any value",
    Any: "any value",
    type(None): "null",
}


def commands() -> str:
    """Every command with its usage, its help, and its options."""
    return "\n\n".join(_command(command, path) for command, path in walk(cli.main, ("prefprobe",)))


def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[click.Command, tuple[str, ...]]]:
    """The command and all below it, each with the words that call it."""
    yield command, path
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from walk(inner, (*path, name))


def _command(command: click.Command, path: tuple[str, ...]) -> str:
    context = click.Context(command, info_name=" ".join(path))
    usage = context.get_usage().removeprefix("Usage: ")
    text = [f"## {' '.join(path)}", f"```\n{usage}\n```", *_paragraphs(command.help or "")]
    if isinstance(command, click.Group):
        links = [f"[{name}](#{'-'.join((*path, name))})" for name in command.commands]
        text.append(f"Commands: {', '.join(links)}.")
    entries = []
    for option in command.get_params(context):
        names, said = option.get_help_record(context) or ("", "")
        if said and names != "--help":  # an argument stands in the usage
            variable = f"\n`{option.envvar}`" if option.envvar else ""
            entries.append((f"`{names}`", said.replace("  [", " [") + variable))
    return "\n\n".join([*text, _list("-".join(path), entries)] if entries else text)


def _paragraphs(text: str) -> list[str]:
    return [html.escape(" ".join(part.split()), quote=False) for part in text.split("\n\n")]


def settings() -> str:
    """Every setting by its block: type, default, what it means, and the variable that overrides it."""
    parts = []
    items = {item(field) for block, _ in blocks() for field in block.model_fields.values()}
    for block, (path, *more) in blocks():
        fields = {f"{path}.{name}".lstrip("."): field for name, field in block.model_fields.items()}
        parts += [f"## {', '.join(f'`{p}`' for p in (path, *more)) if path else 'The study'}"]
        parts += _paragraphs(block.__doc__ or "")
        parts += [f"The same keys stand in {' and '.join(f'`{p}`' for p in more)}."] if more else []
        parts.append(
            _list(
                "",
                [(f"`{key}`", _setting(key, f, block not in items)) for key, f in fields.items() if inner(f) is None],
            )
        )
        nested = [(f"`{key}`", _block(f)) for key, f in fields.items() if inner(f) is not None]
        parts += ["Blocks of their own:", _list(None, nested)] if nested else []
    return "\n\n".join(parts)


def blocks() -> list[tuple[type[Any], list[str]]]:
    """The classes of settings in the order of a preset, each with every path at which it stands."""
    found: dict[type[Any], list[str]] = {}

    def visit(block: type[Any], path: str) -> None:
        found.setdefault(block, []).append(path)
        for name, field in block.model_fields.items():
            below = inner(field) or item(field)
            if below is not None:
                visit(below, f"{path}.{name}".lstrip("."))

    visit(Config, "")
    return list(found.items())


def inner(field: FieldInfo) -> type[Settings] | None:
    """The class of a field that is a block of its own."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Settings)), None)


def item(field: FieldInfo) -> type[Settings] | None:
    """The class of the mappings in a field that is a list, or a mapping by names of the user's; no variable of the
    environment names one of their keys.
    """
    for kind in [field.annotation, *get_args(field.annotation)]:
        many = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        if get_origin(many) in (list, dict):
            kinds = _kinds(get_args(many)[-1])
            return next((k for k in kinds if isinstance(k, type) and issubclass(k, Settings)), None)
    return None


def _kinds(annotation: Any) -> list[Any]:
    args = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _kinds(args[0])
    return [kind for arg in args for kind in _kinds(arg)] if args else [annotation]


def _block(field: FieldInfo) -> str:
    about = field.description or ""
    return f"{about[:1].upper()}{about[1:]}{'; null for none' if type(None) in get_args(field.annotation) else ''}."


def _setting(key: str, field: FieldInfo, has_variable: bool) -> str:
    default = field.get_default(call_default_factory=True)
    start = (
        "required"
        if default is PydanticUndefined
        else f"default `{json.dumps(default, ensure_ascii=False, default=str)}`"
    )
    variable = f" · `PREFPROBE_{key.upper().replace('.', '__')}`" if has_variable else ""
    kind = f"{_type(field.annotation)}{_bounds(field)}"
    about = field.description or ""
    return f"{about[:1].upper()}{about[1:]}.\n{kind} · {start}{variable}"


def _type(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(args[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(arg) for arg in args)
    if origin is list:
        return f"list of {_type(args[0]).replace(' or ', 's or ')}s"
    if origin is dict:
        return f"mapping from {_type(args[0])} to {_type(args[1])}"
    return _WORDS.get(annotation, "mapping")


def _bounds(field: FieldInfo) -> str:
    said = []
    for bound in field.metadata:
        for kind, sign in (("Ge", "≥"), ("Gt", ">"), ("Le", "≤"), ("Lt", "<")):
            if isinstance(bound, getattr(annotated_types, kind)):
                said.append(f"{sign} {getattr(bound, kind.lower()):g}")
        if isinstance(bound, annotated_types.MinLen):
            said.append(f"with at least {bound.min_length}")
        if getattr(bound, "pattern", None):
            said.append(f"matching `{bound.pattern}`")
    return f" {', '.join(said)}" if said else ""


def front_door() -> str:
    """The names of `import prefprobe`, in its order."""
    return "\n\n".join(f"::: prefprobe.{name}" for name in prefprobe.__all__ if name[0] != "_")


def steps() -> str:
    """The steps in the order of a study."""
    rows = [f"| `{s.name}` | {s.node.upper()}{' or API' if s.asks else ''} | {s.does} |" for s in STEPS.values()]
    return "\n".join(["| step | runs on | does |", "|---|---|---|", *rows])


def exit_codes() -> str:
    """What a command ends with."""
    kinds = (errors.TemporaryFailure, errors.BadConfig, errors.InputMissing)
    rows = [f"| {kind.exit_code} | {kind.__doc__} |" for kind in kinds]
    return "\n".join(
        [
            "| code | means |",
            "|---|---|",
            "| 0 | Done, or in the store already. |",
            *rows,
            "| 1 | A bug, with a traceback. |",
        ]
    )


def published_values() -> str:
    """The values that a verdict stands beside."""
    rows = []
    for role, values in published.HELD_OUT.items():
        rows += [(f"{role}: r on held-out tasks, {target}", f"{value:.3f}") for target, value in values.items()]
    rows += [(f"model: accuracy on held-out choices, {target}", f"{v:.3f}") for target, v in published.ACCURACY.items()]
    for role, values in published.CROSS_TOPIC.items():
        rows.append(
            (
                f"{role}: mean r over {published.FOLDS} held-out topics ± sd",
                f"{values['mean']:.3f} ± {values['sd']:.3f}",
            )
        )
    for name, values in published.SHIFT.items():
        rows.append((f"shift, {name}: r on target / pooled", f"{values['on_target']:.3f} / {values['pooled']:.3f}"))
    rows.append(("reliability: r between two runs’ utilities", f"{published.RELIABILITY:.3f}"))
    return "\n".join(
        [
            f"| {published.MODEL}, layer {published.LAYER} | published |",
            "|---|---|",
            *(f"| {a} | {b} |" for a, b in rows),
        ]
    )


def verdict_rules() -> str:
    """The rules of the verdict, in the words in which every verdict carries them."""
    named = (
        ("Held-out r (`heldout_raw`, `heldout_demeaned`)", rules.HELD_OUT),
        ("Held-out accuracy (`heldout_accuracy`)", rules.ACCURACY),
        ("Cross-topic r (`cross_topic`)", rules.CROSS_TOPIC),
        ("Differences (`heldout_above_…`, `cross_topic_above_…`)", rules.DIFFERENCE),
        ("Shifts (`shift_…`)", rules.SHIFT),
        ("Reliability (`reliability`)", rules.RELIABILITY),
    )
    return _list(None, list(named))


def experiments() -> str:
    """The packaged experiments: how large each is and what it can show, whole and as the demo runs it."""
    whole = load_experiments(builtin_paths())
    demo = subset_of(whole, load_config(DEMO).shift.subset)
    lines = ["| experiment | prompts × tasks | on target | shows r | in the demo | on target | shows r |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|")
    for experiment, part in zip(whole, demo, strict=True):
        cells = [f"`{experiment.name}`"]
        for e in (experiment, part):
            found = design(subjects_of(e))
            shows = "–" if found.shows is None else f"{found.shows:.2f}"
            cells += [f"{len(e.prompts)} × {len(e.tasks)}", str(found.n), shows]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _list(prefix: str | None, entries: list[tuple[str, str]]) -> str:
    """A definition list, which unlike a table needs no width; a first line break in what is said begins a smaller line.

    With a `prefix`, which may be empty, each entry has an anchor to link to.
    """
    out = ['<dl class="keys">']
    for name, said in entries:
        about, _, small = said.partition("\n")
        anchor = "" if prefix is None else f"{prefix}-{name.split()[0].strip('-,`')}".lstrip("-")
        small = f'<span class="small">{_inline(small)}</span>' if small else ""
        id_ = f' id="{html.escape(anchor)}"' if anchor else ""
        out.append(f"<dt{id_}>{_inline(name)}</dt><dd>{_inline(about)}{small}</dd>")
    return "\n".join([*out, "</dl>"])


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "exit codes": exit_codes,
    "front door": front_door,
    "published": published_values,
    "rules": verdict_rules,
    "experiments": experiments,
    "settings": settings,
    "steps": steps,
}
