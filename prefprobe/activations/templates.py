"""What a chat template reads beside the messages, which of several it is, and how it is rendered.

Rendered here and not by transformers, which lets the clock in and takes no functions; by the same rules otherwise.
"""

import json
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

import jinja2.ext
from jinja2 import TemplateError, meta, nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from prefprobe.activations.dates import variables
from prefprobe.errors import BadConfig
from prefprobe.numbers import listed
from prefprobe.settings.model import RENDERERS_OWN

Render = Callable[[list[dict[str, Any]], bool], str]
"""The prompt of some messages, with the beginning of an answer or without."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, which marks what an assistant said and prints it as it is."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    return environment


def renderer(template: str, arguments: Mapping[str, Any], day: date, special: Mapping[str, str]) -> Render:
    """Renders as transformers does; `special` are the texts of bos_token and the like, which templates print."""
    ready = _environment().from_string(template)
    given = {**special, "tools": None, "documents": None, **arguments, **variables(day)}
    return lambda messages, answer: str(ready.render(messages=messages, add_generation_prompt=answer, **given))


def chosen(templates: str | Mapping[str, str] | None, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The one of a tokenizer's templates that `chat_template` in the arguments names, and the other arguments.

    Raises BadConfig if there is no template, none of that name, or several and no name.
    """
    others = {key: value for key, value in arguments.items() if key != "chat_template"}
    if not templates:
        raise BadConfig(
            "the tokenizer has no chat template; let a base model read bare text (`chat: false`, or --no-chat)."
        )
    named = {"default": templates} if isinstance(templates, str) else dict(templates)
    name = arguments.get("chat_template", "default")
    if not isinstance(name, str) or name not in named:
        problem = f"has none called {name}" if "chat_template" in arguments else "says not which to use"
        raise BadConfig(
            f"the tokenizer has the chat templates {listed(sorted(named))} and {problem}; name one of them as "
            "`chat_template` in `template`."
        )
    return named[name], others


def read_by(template: str, arguments: Mapping[str, Any]) -> frozenset[str]:
    """Names of all variables that a template reads.

    Raises BadConfig if it is not valid, is random, or does not read one of the arguments.
    """
    environment = _environment()
    try:
        parsed = environment.parse(template)
        environment.compile(template)
    except TemplateError as error:
        raise BadConfig(f"the chat template is not valid ({error}); mend the tokenizer's files.") from error
    names = frozenset(meta.find_undeclared_variables(parsed))
    used = [name.name for name in parsed.find_all(nodes.Name)] + [
        filter_.name for filter_ in parsed.find_all(nodes.Filter)
    ]
    if {"lipsum", "random"} & set(used):
        raise BadConfig("the chat template draws random words, so that no prompt is the same twice; use another.")
    for unread in sorted(set(arguments) - names):
        free = arguments_of(names)
        takes = f"takes {listed(free)}" if free else "takes none"
        raise BadConfig(
            f"`template`: `{unread}` is no argument that the chat template reads (it {takes}); correct it or leave it out."
        )
    return names


def arguments_of(names: frozenset[str]) -> list[str]:
    """Those of the names that a template reads which are for its user to give."""
    return sorted(names - RENDERERS_OWN)
