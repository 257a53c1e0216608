"""How a chat template wants to be spoken to: where the system prompt goes, in which form, and where an answer begins.

Needs neither torch nor transformers: what renders a template is given.
"""

import re
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from jinja2 import TemplateError

from prefprobe.activations.templates import Render
from prefprobe.errors import BadConfig
from prefprobe.numbers import shortened

TEXT, SYSTEM, _ANSWER = "xq7-text-7qx", "xq7-system-7qx", "xq7-answer-7qx"
"""Stand for a text, a system prompt and an answer where a template is tried out."""
_SLOTS = re.compile(f"({TEXT}|{SYSTEM})")
_FAILURES = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a template's code may end in."""
_THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis", "<|channel|>final"),
)
"""What opens a thought, and what closes it."""


class Piece(NamedTuple):
    """A part of a prompt."""

    string: str
    given: bool
    """Whether it is a text of the caller's, in which nothing is a control token; else it is the template's own."""
    task: bool = False
    """Whether it is the text that the prompt is about, and no system prompt."""


def bare_pieces(text: str, system: str | None) -> list[Piece]:
    """A prompt without a chat template: the text, under the system prompt if there is one."""
    task = Piece(text, True, True)
    return [task] if system is None else [Piece(system, True), Piece("\n\n", False), task]


class Turns:
    """One chat template, tried out.

    Raises BadConfig if no conversation of one user's turn can be rendered.
    """

    def __init__(self, render: Render) -> None:
        self._render = render
        self._forms: dict[str, bool] = {}
        """Role → whether its content is a list of parts."""
        self.folded = True
        """Whether a system prompt stands at the head of the user's turn, since it has no turn of its own."""
        self._choose_form()
        self._choose_place()
        self._skeletons = {s: _SLOTS.split(render(self._messages(TEXT, s), True)) for s in (None, SYSTEM)}
        self.closing, self.thought = "", ""
        """What the template puts between the prompt and a finished answer to close a thought; and a thought that it opens
        and does not close, so that no answer can follow the prompt."""
        self._closings = {s: self._closing(s) for s in (None, SYSTEM)}

    def pieces(self, text: str, system: str | None = None) -> list[Piece]:
        """The prompt, ready for the answer. Raises BadConfig if a text does not stand in it as it is (or trimmed)."""
        if self.folded and system is not None and not system.strip():
            system = None
        try:
            shown = self._render(self._messages(text, system), True)
        except _FAILURES as error:
            raise BadConfig(
                f"the chat template refuses {_quoted(text)} ({_said(error)}); change the text or leave it out."
            ) from error
        skeleton = self._skeletons[None if system is None else SYSTEM]
        for t, s in product(_trimmed(text), _trimmed(system or "")):
            fill = {TEXT: t, SYSTEM: s}
            pieces = [Piece(fill.get(part, part), part in fill, part == TEXT) for part in skeleton]
            if "".join(piece.string for piece in pieces) == shown:
                return pieces
        lost = next((t for t in (text, system or "") if t.strip() not in shown), text)
        raise BadConfig(
            f"the chat template does not print {_quoted(lost)} as it is, but alters it or what stands around it; change the "
            "text or leave it out."
        )

    def closing_after(self, system: str | None) -> str:
        """What closes the thought after such a prompt; "" where there is none."""
        return self._closings[None if system is None else SYSTEM]

    @property
    def printed(self) -> str:
        """All that is printed around texts and answers."""
        return "".join(part for skeleton in self._skeletons.values() for part in skeleton) + self.closing

    def _choose_form(self) -> None:
        """A user's turn as a text, or as a list of parts."""
        problem = "it leaves the text out"
        for self._forms["user"] in (False, True):
            try:
                if self._found(self._render(self._messages(TEXT, None), True), TEXT):
                    return
            except _FAILURES as error:
                problem = _said(error)
        raise BadConfig(
            f"the chat template renders no plain conversation ({problem}); give what it asks for in `template`, or use "
            "a tokenizer with another template."
        )

    def _choose_place(self) -> None:
        """A system turn as a text, one as a list of parts, or the head of the user's turn: the first that is printed."""
        for self.folded, self._forms["system"] in ((False, False), (False, True), (True, False)):
            try:
                shown = self._render(self._messages(TEXT, SYSTEM), True)
            except _FAILURES:
                continue
            if self._found(shown, TEXT) and self._found(shown, SYSTEM):
                return
        raise BadConfig(
            "the chat template prints neither a system turn nor a text of several lines as it is; use a tokenizer with "
            "another template."
        )

    def _messages(self, text: str, system: str | None, answer: Any = None) -> list[dict[str, Any]]:
        turns = [("user", text)] if system is None else [("system", system), ("user", text)]
        if system is not None and self.folded:
            turns = [("user", f"{system}\n\n{text}")]
        messages = [{"role": role, "content": _content(said, self._forms[role])} for role, said in turns]
        return messages if answer is None else [*messages, {"role": "assistant", "content": answer}]

    def _found(self, shown: str, sentinel: str) -> bool:
        """Whether it is printed, and not in quotes within a printed list of parts."""
        return sentinel in shown and not (any(self._forms.values()) and re.search(f"{sentinel}['\"]", shown))

    def _closing(self, system: str | None) -> str:
        """What stands between the prompt and a finished answer, unless blank; sets `closing` and `thought`."""
        tail = self._render(self._messages(TEXT, system), True).rpartition(TEXT)[2]
        between = self._between(tail, system)
        opened = next((o for o, c in _THOUGHTS if (tail + between).rfind(o) > (tail + between).rfind(c)), "")
        self.thought = self.thought or opened
        self.closing = self.closing or between
        return between

    def _between(self, tail: str, system: str | None) -> str:
        for parts in (False, True):
            try:
                shown = self._render(self._messages(TEXT, system, _content(_ANSWER, parts)), False)
            except _FAILURES:
                continue
            until, answered, _ = shown.partition(_ANSWER)
            finished = until.rpartition(TEXT)[2]
            if not answered or TEXT not in until:
                continue
            if finished.startswith(tail):
                between = finished[len(tail) :]
                return between if between.strip() else ""
            pairs = enumerate(zip(tail, finished, strict=False))
            same = next((k for k, (one, other) in pairs if one != other), len(finished))
            tag = tail.rfind("<", 0, same)
            same = tag if tag > tail.rfind(">", 0, same) else same  # a tag is taken whole
            if tail[same:].strip():
                self.thought = self.thought or tail[same:]
            return ""
        return ""  # it takes no answers: what it opens is seen in the tail


def check_thought(turns: Turns, arguments: Sequence[str]) -> None:
    """Raise BadConfig if an answer after the prompt would stand within a thought; the arguments are the template's."""
    if turns.thought:
        close = (
            f"close it by an argument of the template in `template` (it takes {', '.join(arguments)}), or "
            if arguments
            else ""
        )
        raise BadConfig(
            f"the chat template begins an answer with `{shortened(turns.thought, 60)}`, which finished answers do not have: a "
            f"label would be read within a thought; {close}let answers be sampled with `choices.engine: api` and "
            "`choices.api.compare: 0`."
        )


def _content(said: str, parts: bool) -> Any:
    return [{"type": "text", "text": said}] if parts else said


def _trimmed(text: str) -> list[str]:
    return list(dict.fromkeys((text, text.strip(), text.rstrip(), text.lstrip())))


def _quoted(text: str) -> str:
    return f"the text “{shortened(text, 60)}”"


def _said(error: Exception) -> str:
    return shortened(str(error) or type(error).__name__, 200).rstrip(".")
