"""A completion that comes as a stream of events (server-sent events, WHATWG HTML 9.2), put together.

Every event has a piece of the completion: what a field says further, entries of a list, or what stays as it is.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from aiohttp import ClientError, StreamReader

Body = dict[str, Any]

EVENTS = "text/event-stream"
_LINE_END = re.compile(r"\r\n|\n|\r")
_LAST_LINE_END = (b"\n\n", b"\r\r", b"\r\n\r\n")
_DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]")
_WINDOW = 32
"""Bytes that such a line may have begun before the last ones that came."""
_AFTER = 0.2
"""Seconds that a stream has to end after it has said so: then its connection serves again."""
_BEGINNING = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:(?:data|event|id|retry)\s*:|:)")
_ONCE = frozenset(["id", "index", "name", "role", "type"])
"""Fields of a piece that are not said further by the next one."""


class CutOff(ValueError):
    """A stream that ends before its completion does."""


async def read_events(content: StreamReader) -> bytes:
    """All bytes of a stream up to where it says that it is done, whether or not its connection stays open."""
    data = bytearray()
    while chunk := await content.readany():
        looked = max(0, len(data) - _WINDOW)
        data += chunk
        if _DONE.search(data, looked):
            with suppress(TimeoutError, ClientError):
                async with asyncio.timeout(_AFTER):
                    await content.read()
            break
    return bytes(data)


def is_stream(data: bytes) -> bool:
    """Whether bytes are a stream of events, whatever their content type is: JSON begins otherwise."""
    return _BEGINNING.match(data) is not None


def completion(data: bytes) -> Body:
    """The chat completion of a stream's events, as if it had come whole; an error in a stream is all that comes of it.

    Raises CutOff for a stream that ends early, and ValueError for one whose events are no JSON objects.
    """
    whole: Body = {}
    choices: dict[int, Body] = {}
    done, broken = False, ValueError if data.endswith(_LAST_LINE_END) else CutOff
    for name, said in _events(data, broken):
        if said.strip() == "[DONE]":
            done = True
            break
        try:
            piece = json.loads(said)
        except ValueError:
            if name == "error":
                return {"error": said}
            if name in ("", "message") and said.strip():
                raise broken(said) from None
            continue  # another event's, as one that keeps the connection open
        if not isinstance(piece, dict):
            raise ValueError(said)
        if name == "error" or piece.get("error") or piece.get("object") == "error":
            return {"error": piece.get("error") or piece}
        for choice in _mappings(piece.pop("choices", None)):
            index = choice.get("index")
            index = index if isinstance(index, int) else 0
            message = choice.pop("delta", None) or choice.pop("message", None)
            so_far = choices.setdefault(index, {"index": index, "message": {"role": "assistant", "content": None}})
            so_far["message"] = _further(so_far["message"], message)
            so_far["logprobs"] = _further(so_far.get("logprobs"), choice.pop("logprobs", None))
            so_far.update({field: value for field, value in choice.items() if value is not None})
        for field, value in piece.items():
            if field == "usage" or not whole.get(field):  # a later count has the earlier one in it
                whole[field] = value or whole.get(field)
    if not done and not (choices and all(choice.get("finish_reason") for choice in choices.values())):
        raise CutOff
    return whole | {"object": "chat.completion", "choices": [choices[index] for index in sorted(choices)]}


def _events(data: bytes, broken: type[ValueError]) -> Iterator[tuple[str, str]]:
    """(name, data) of each event; a last one counts without the blank line that ends it."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise broken("no UTF-8") from None
    name, said = "", list[str]()
    for line in [*_LINE_END.split(text.removeprefix("\ufeff")), ""]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            said.append(value)
        elif field == "event":
            name = value
        elif not line:
            if said:
                yield name, "\n".join(said)
            name, said = "", []


def _further(so_far: Any, more: Any) -> Any:
    """What was said so far with what one more piece says."""
    if more is None or so_far is None:
        return so_far if more is None else more
    if isinstance(so_far, str) and isinstance(more, str):
        return so_far + more
    if isinstance(so_far, list) or isinstance(more, list):
        return _longer(_parts(so_far), _parts(more))
    if isinstance(so_far, dict) and isinstance(more, dict):
        said = {
            field: (so_far.get(field) or value) if field in _ONCE else _further(so_far.get(field), value)
            for field, value in more.items()
        }
        return so_far | said
    return more


def _longer(so_far: list[Any], more: list[Any]) -> list[Any]:
    """A list with more entries; one with the `index` of an entry that is there goes on with it, as calls of tools do."""
    longer = list(so_far)
    for entry in more:
        places = [
            k for k, old in enumerate(longer) if _goes_on(entry) and _goes_on(old) and old["index"] == entry["index"]
        ]
        if places:
            longer[places[0]] = _further(longer[places[0]], entry)
        else:
            longer.append(entry)
    return longer


def _goes_on(entry: Any) -> bool:
    """Whether an entry is a numbered part of a message, and not tokens with their log-probabilities."""
    known = entry if isinstance(entry, dict) else {}
    return "index" in known and (isinstance(known.get("function"), dict) or isinstance(known.get("type"), str))


def _parts(said: Any) -> list[Any]:
    """What a message says, as the list of its parts."""
    return said if isinstance(said, list) else [{"type": "text", "text": said}]


def _mappings(value: object) -> list[Body]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
