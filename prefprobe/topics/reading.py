"""What a judge's answer says: labels of the taxonomy, whatever else is recorded as unread.

Only the raw answer is read, so a better reader reads old answers again and nobody pays again.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from prefprobe.choices.engine import Answer
from prefprobe.choices.reading import answer_text, declines
from prefprobe.tasks.topics import OTHER
from prefprobe.topics.taxonomy import Taxonomy

READING = 1
"""Raised with every change of what is read of a judge's answers; part of the key of its step."""

How = Literal["", "object", "text", "scores", "nearest"]
"""How a label was read: out of a JSON object, out of words, by scores of all labels or by the nearest; "" if none was."""

_MARKS = " \t\r\n*_`\"'“”‘’#>.,:;!()[]"
_BETWEEN = r"[\s*_`\"'“”:=]*"
_SAID = re.compile(
    rf"\b(?:(?:topic|label|category|primary)\b\s*)+{_BETWEEN}(?:(?:is|would be)\b)?{_BETWEEN}([\w -]+)", re.IGNORECASE
)
_NOT = re.compile(r"\b(?:not|neither|nor|none|isn't|cannot)\b|n't\b", re.IGNORECASE)
_CUT = re.compile(r'"primary"\s*:\s*"([^"]*)"')
_SHOWN = 40
"""Characters of a label of a judge's own that are kept."""
_SHORT = 200
"""Characters of a text in which the one label that is named is the one that is meant."""


@dataclass(frozen=True)
class Reading:
    """What one answer says of one task."""

    primary: str | None = None
    """A label of the taxonomy; None if none was read."""
    secondary: str | None = None
    confidence: float | None = None
    """From 0 to 1, as the judge says it; of scores the probability among the labels."""
    how: How = ""
    refusal: bool = False
    """Whether the judge, or its provider, declined."""
    own: str = ""
    """A label of the judge's own, where it names one that the taxonomy lacks."""


class Labels:
    """The labels of a taxonomy as answers write them: capitals, spaces and hyphens make no difference."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._of = {_folded(name): name for name in taxonomy.names}
        longest = sorted(self._of, key=len, reverse=True)
        self._named = re.compile(
            r"(?<!\w)(?:" + "|".join(re.escape(name).replace("_", "[_ -]") for name in longest) + r")(?!\w)",
            re.IGNORECASE,
        )

    def label(self, said: object) -> str | None:
        """The label that is said, None if it is none."""
        return self._of.get(_folded(said)) if isinstance(said, str) else None

    def read(self, answer: Answer) -> Reading:
        """What an answer says; a JSON object first, then words."""
        if answer.finish.startswith("failed"):
            return Reading()
        if answer.finish in ("refusal", "content_filter"):
            return Reading(refusal=True)
        text = answer_text(answer.raw).strip()
        for found in objects(text):
            if "primary" in found:
                return self._of_object(found)
        cut = _CUT.search(text)
        if cut is not None:
            return self._of_object({"primary": cut[1]})
        return self._of_text(text)

    def _of_object(self, found: dict[str, Any]) -> Reading:
        primary, secondary = self.label(found["primary"]), self.label(found.get("secondary"))
        if primary is None:
            return Reading(own=_shown(found["primary"]))
        return Reading(
            primary, None if secondary == primary else secondary, _confidence(found.get("confidence")), "object"
        )

    def _of_text(self, text: str) -> Reading:
        first = next(iter(text.splitlines()), "")
        whole = self.label(text) or self.label(first)
        if whole is not None:
            return Reading(whole, how="text")
        said = {label for words in _SAID.findall(text) if (label := self._leading(words)) is not None}
        if len(said) == 1:
            return Reading(said.pop(), how="text")
        if declines(text, self._of.values()):
            return Reading(refusal=True)
        named = {self.label(words) for words in self._named.findall(text)} - {OTHER, None}
        if len(named) == 1 and len(text) <= _SHORT and not _NOT.search(text) and not said:
            return Reading(named.pop(), how="text")
        return Reading(own=_shown(text) if len(text.split()) <= 3 else "")

    def _leading(self, words: str) -> str | None:
        """The label with which some words begin."""
        found = self._named.match(words.strip(_MARKS))
        return None if found is None else self.label(found[0])


def _folded(name: str) -> str:
    return "_".join(re.split(r"[\s_-]+", name.strip(_MARKS).casefold()))


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, whatever stands around them, in their order."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield found
        at = text.find("{", end)


def _confidence(said: object) -> float | None:
    try:
        value = float(said) if isinstance(said, int | float | str) and not isinstance(said, bool) else -1.0
    except (ValueError, OverflowError):
        return None
    return value if 0 <= value <= 1 else None


def _shown(said: object) -> str:
    """A label of a judge's own, shortened; no text of a task is as short."""
    return " ".join(str(said).split()).strip(_MARKS)[:_SHOWN]
