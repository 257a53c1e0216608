"""A provider's reply as an answer: its text, why it ended, and what it has cost."""

import json
from collections.abc import Mapping
from math import inf
from typing import Any

from prefprobe.choices.api.client import Reply
from prefprobe.choices.api.failures import NO_ANSWER
from prefprobe.choices.engine import TOOL_CALLS, Answer, Spend, may_cost
from prefprobe.choices.listed import kept
from prefprobe.choices.reading import Labels, answer_text
from prefprobe.settings.endpoint import Prices

Body = dict[str, Any]
"""A chat completion as parsed JSON; nothing in it is taken for granted."""
_TOKEN = 3
"""UTF-8 bytes of a token where nobody counts them, fewer than in most texts, so that a budget errs on the safe side; a digit
counts as a token, and what is not ASCII double. Of a request all bytes count, the names of its fields for what a chat
template adds."""
_DIGITS, _BEYOND_ASCII = b"0123456789", bytes(range(128, 256))

EMPTY = "empty answer"
"""Why a completion is no answer that says null."""

_SAID, _THOUGHT = frozenset(["text", "output_text"]), frozenset(["reasoning", "thinking", "redacted_thinking"])
"""Kinds of the parts of a message."""

_MOST = 1e12
"""Nobody counts so many."""


def _first_choice(body: Body) -> Body | None:
    """The one choice of a completion if it has a message, else None."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) and isinstance(first.get("message"), dict) else None


def complaint(body: Body) -> str | None:
    """Why a body is no answer, whatever was asked; None for one that is. A model may say nothing, but not null."""
    chosen = _first_choice(body)
    if chosen is None or finish(body) == "error":
        return NO_ANSWER
    empty = _message(body).get("content") is None and finish(body) == "stop" and not thinks(body)
    return EMPTY if empty else None


def text(body: Body) -> str:
    """The answer's text as it came, with a thought at its head if the provider leaves it there; "" for none."""
    content = _message(body).get("content")
    parts = content if isinstance(content, list) else [content]
    said = "".join(_part(part) for part in parts)
    return said.encode("utf-8", "replace").decode()  # JSON may hold half a character, which no file can


def finish(body: Body) -> str:
    """Why the answer ended: `refusal` if the provider says so in a field of its own, TOOL_CALLS for one that is only a call,
    else its finish reason.
    """
    if _message(body).get("refusal"):
        return "refusal"
    reason = str((_first_choice(body) or {}).get("finish_reason") or "stop")
    if only_calls(body):
        return TOOL_CALLS
    return "stop" if reason == TOOL_CALLS else reason  # it says something beside


def only_calls(body: Body) -> bool:
    """Whether the answer calls a tool and says nothing."""
    calls = [_message(body).get("tool_calls"), _message(body).get("function_call")]
    reason = (_first_choice(body) or {}).get("finish_reason")
    return (any(calls) or reason in (TOOL_CALLS, "function_call")) and not text(body).strip()


def thinks(body: Body) -> bool:
    """Whether the model has thought before it answered."""
    message = _message(body)
    details = _mapping(_mapping(body.get("usage")).get("completion_tokens_details"))
    fields = bool(_thought(message) or details.get("reasoning_tokens"))
    said = text(body)
    return fields or answer_text(said) != said


def _thought(message: Body) -> Any:
    """What is shown of a thought beside the answer; nothing if there is none."""
    content = message.get("content")
    parts = [part for part in content if _mapping(part).get("type") in _THOUGHT] if isinstance(content, list) else []
    return message.get("reasoning_content") or message.get("reasoning") or parts


def _part(part: object) -> str:
    """What a part of a message says; nothing if it is none of those that are said, such as a thought."""
    if isinstance(part, str):
        return part
    known = _mapping(part)
    said = known.get("text") if known.get("type", "text") in _SAID else None
    return said if isinstance(said, str) else ""


def logprobs(body: Body) -> list[Body]:
    """The log-probabilities of the answer's tokens, each with those of other tokens; empty if none came that can be read.

    Read are `content`, and the columns of the older completions (`tokens`, `token_logprobs`, `top_logprobs`).
    """
    found = _listed(body)
    content = _rows(found) if found.get("content") is None else found["content"]
    tokens = content if isinstance(content, list) else []
    others = [_mapping(entry).get("top_logprobs") or [] for entry in tokens]
    if not any(others) or not all(isinstance(each, list) for each in others):
        return []
    return tokens if all(map(_says, tokens)) and all(_says(other) for each in others for other in each) else []


ALONE = "the endpoint listed the answer's own tokens alone"


def unlisted(body: Body) -> str:
    """Why there is nothing to read in what `logprobs` finds, in words; "" if there is."""
    if entries := logprobs(body):
        others = any(other["token"] != entry["token"] for entry in entries for other in entry["top_logprobs"])
        return "" if others else ALONE
    found = {name: value for name, value in _listed(body).items() if value}
    if not found:
        return "the endpoint returned no log-probabilities"
    tokens = found.get("content")
    alone = isinstance(tokens, list) and not any(_mapping(entry).get("top_logprobs") for entry in tokens)
    columns = found.get("top_logprobs")
    if alone or ("token_logprobs" in found and not (isinstance(columns, list) and any(columns))):
        return ALONE
    return f"the endpoint returned log-probabilities in a form that is not read (fields: {', '.join(sorted(found))})"


def _listed(body: Body) -> Body:
    return _mapping((_first_choice(body) or {}).get("logprobs"))


def _rows(found: Body) -> list[Body]:
    """The rows of three columns, of which the last has a mapping from token to log-probability in each."""
    columns = [found.get(name) for name in ("tokens", "token_logprobs", "top_logprobs")]
    if not all(isinstance(column, list) for column in columns):
        return []
    return [
        {"token": token, "logprob": log, "top_logprobs": [{"token": t, "logprob": p} for t, p in _mapping(top).items()]}
        for token, log, top in zip(*columns, strict=False)
    ]


def _says(entry: object) -> bool:
    """Whether an entry of a list of log-probabilities has a token and a number."""
    known = _mapping(entry)
    log = known.get("logprob")
    return isinstance(known.get("token"), str) and isinstance(log, int | float) and log < inf  # so that NaN is none


def reported_cost(body: Body) -> float | None:
    """US dollars as the provider says; None if it says nothing, or nothing but 0."""
    return _number(_mapping(body.get("usage")).get("cost")) or None


def to_answer(reply: Reply, host: str, prices: Prices | None, labels: Labels | None) -> Answer:
    """What is kept of a reply: its log-probabilities where `labels` are given, else its text.

    Tokens and cost include attempts that were lost although the provider may have worked on them: each counts like the
    one that came through, so that a budget errs on the safe side. A status of the provider's, or no connection, is free.
    Tokens that the provider does not report are estimated.
    """
    body, lost = reply.body, sum(map(may_cost, reply.losses))
    if body is None:
        each = expected(reply.asked, prices) if lost else Spend()
        return Answer(
            id=reply.id,
            raw="",
            finish=f"failed: {reply.error}",
            provider=host,
            prompt_tokens=each.prompt_tokens * lost,
            completion_tokens=each.completion_tokens * lost,
            cost=each.dollars * lost,
            losses=reply.losses,
            estimated=lost > 0,
        )
    prompt, completion, estimated = _tokens(body, reply.asked)
    cost = reported_cost(body)
    if cost is None:
        details = _mapping(_mapping(body.get("usage")).get("prompt_tokens_details"))
        cost = _price(prices, prompt, _count(details, "cached_tokens"), completion)
    said = text(body) or str(_message(body).get("refusal") or "")
    return Answer(
        id=reply.id,
        raw=said if labels is None else kept(said, logprobs(body), labels.undecided, labels.given),
        finish=finish(body),
        model=str(body.get("model") or ""),
        provider=str(body.get("provider") or host),
        prompt_tokens=prompt * (1 + lost),
        completion_tokens=completion * (1 + lost),
        cost=cost * (1 + lost),
        losses=reply.losses,
        estimated=estimated,
    )


def expected(asked: Mapping[str, Any], prices: Prices | None) -> Spend:
    """What one request may cost, before anything is known of its answer: that it is as long as it may be."""
    prompt, completion = _estimate(asked), limit(asked)
    return Spend(1, prompt, completion, _price(prices, prompt, 0, completion))


def limit(asked: Mapping[str, Any]) -> int:
    """Tokens that the answer to a request may have; 0 if it sets no limit."""
    return int(asked.get("max_tokens") or asked.get("max_completion_tokens") or 0)


def _tokens(body: Body, asked: Mapping[str, Any]) -> tuple[int, int, bool]:
    """Tokens of prompt and answer, and whether one of them is estimated: every prompt has some, and what was said too."""
    usage = _mapping(body.get("usage"))
    prompt, completion, total = (_count(usage, f"{name}_tokens") for name in ("prompt", "completion", "total"))
    said, estimated = _said(body, asked), False
    if not prompt:
        estimated = not 0 < completion < total
        prompt = _estimate(asked) if estimated else total - completion
    if not completion and said:
        estimated = estimated or total <= prompt
        completion = total - prompt if total > prompt else said
    return prompt, completion, estimated


def _said(body: Body, asked: Mapping[str, Any]) -> int:
    """Tokens of an answer, thought included, by what can be seen of it: the length at which it was cut off, its listed
    tokens, its bytes.
    """
    message = _message(body)
    shown = text(body), message.get("refusal"), message.get("tool_calls")
    thought = _estimate(_thought(message) or "")
    listed = _listed(body)
    tokens = next((column for name in ("content", "tokens") if isinstance(column := listed.get(name), list)), [])
    seen = len(tokens) or sum(_estimate(part) for part in shown if part)
    cut_at = limit(asked) if finish(body) == "length" else 0
    return max(cut_at, thought + seen) if thought else cut_at or seen


def _estimate(value: object) -> int:
    """Tokens of a text or of JSON, by its bytes, rounded up."""
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    data = written.encode("utf-8", "replace")
    digits, beyond = (len(data) - len(data.translate(None, of)) for of in (_DIGITS, _BEYOND_ASCII))
    return -(-(len(data) + beyond + (_TOKEN - 1) * digits) // _TOKEN)


def _price(prices: Prices | None, prompt: int, cached: int, completion: int) -> float:
    if prices is None:
        return 0.0
    cached = min(cached, prompt)
    of_cached = prices.prompt if prices.cached is None else prices.cached
    return ((prompt - cached) * prices.prompt + cached * of_cached + completion * prices.completion) / 1e6


def _message(body: Body) -> Body:
    return _mapping((_first_choice(body) or {}).get("message"))


def _mapping(value: object) -> Body:
    return value if isinstance(value, dict) else {}


def _count(usage: Body, name: str) -> int:
    return int(_number(usage.get(name)))


def _number(value: object) -> float:
    """A number that can count tokens or dollars; 0 for whatever cannot."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MOST else 0.0
