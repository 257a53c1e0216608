"""A provider's reply as an answer: its text, why it ended, and what it has cost."""

from math import inf
from typing import Any

from prefprobe.choices.api.client import Reply
from prefprobe.choices.engine import TOOL_CALLS, Answer
from prefprobe.choices.listed import kept
from prefprobe.choices.reading import Labels, answer_text
from prefprobe.settings import Prices

Body = dict[str, Any]
"""A chat completion as parsed JSON; nothing in it is taken for granted."""


def _first_choice(body: Body) -> Body | None:
    """The one choice of a completion if it has a message, else None."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) and isinstance(first.get("message"), dict) else None


def complaint(body: Body) -> str | None:
    """Why a body is no answer, whatever was asked; None for one that is. A model may say nothing, but not null."""
    chosen = _first_choice(body)
    if chosen is None or finish(body) == "error":
        return "no answer"
    empty = _message(body).get("content") is None and finish(body) == "stop" and not thinks(body)
    return "empty answer" if empty else None


def text(body: Body) -> str:
    """The answer's text as it came, with a thought at its head if the provider leaves it there; "" for none."""
    content = _message(body).get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    said = content if isinstance(content, str) else ""
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
    fields = bool(message.get("reasoning_content") or message.get("reasoning") or details.get("reasoning_tokens"))
    said = text(body)
    return fields or answer_text(said) != said


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
    """US dollars as the provider says."""
    cost = _mapping(body.get("usage")).get("cost")
    return float(cost) if isinstance(cost, int | float) else None


def to_answer(reply: Reply, host: str, prices: Prices | None, labels: Labels | None) -> Answer:
    """What is kept of a reply: its log-probabilities where `labels` are given, else its text.

    Tokens and cost include attempts that were lost although the provider may have worked on them: each counts like the
    one that came through, so that a budget errs on the safe side. A status of the provider's, or no connection, is free.
    """
    body = reply.body
    if body is None:
        return Answer(reply.id, "", f"failed: {reply.error}", provider=host, losses=reply.losses)
    usage = _mapping(body.get("usage"))
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    cost = reported_cost(body)
    if cost is None:
        cost = _price(prices, prompt, _count(_mapping(usage.get("prompt_tokens_details")), "cached_tokens"), completion)
    times = 1 + sum(may_cost(cause) for cause in reply.losses)
    said = text(body) or str(_message(body).get("refusal") or "")
    return Answer(
        id=reply.id,
        raw=said if labels is None else kept(said, logprobs(body), labels.undecided, labels.given),
        finish=finish(body),
        model=str(body.get("model") or ""),
        provider=str(body.get("provider") or host),
        prompt_tokens=prompt * times,
        completion_tokens=completion * times,
        cost=cost * times,
        losses=reply.losses,
    )


def may_cost(cause: str) -> bool:
    """Whether an attempt lost by this cause may have been worked on: a timeout, a body cut off, an answer turned away."""
    return not (cause[:3].isdigit() or cause.startswith("connect"))


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
    value = usage.get(name)
    return int(value) if isinstance(value, int | float) and value > 0 else 0
