"""What it means when an endpoint gives no answer: try again, give this one up, or stop everything."""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from prefprobe.choices.api.pacing import retry_after
from prefprobe.errors import BadConfig, PrefprobeError, TemporaryFailure

_AGAIN = {408, 409, 425, 429}
_NEVER = {501, 505}
_WORDS = tuple(
    (status, re.compile(words))
    for status, words in (
        (429, r"rate.?limit|too many requests"),
        (404, r"model\b.{0,99}\b(not found|not exist)|(no such|unknown|invalid) model|model_not_found"),
        (401, r"api[ _]key|unauthori[sz]ed"),
        (402, r"insufficient (credit|balance|fund)"),
        (400, r"invalid_request|unsupported|not supported"),
    )
)
"""Which status an error would have had, by its words."""
_SENTENCE = 300  # characters of what a provider says


_LOADING = re.compile(
    r"\b(loading|being loaded|(still|is|server|engine) (starting|warming)|(starting|warming) up|not ready yet)\b"
)
_FAILED = re.compile(r"fail|error|unable|could ?n.t|can ?not|can't")
_FIELD = re.compile(
    r"log[-_ ]?prob|\b(top_\w+|max_\w+|stream_options|tool_choice|temperature|streaming)\b"
    r"|(?<![\w/-])(seed|system role)(?![\w/-])|\b(field|parameter|argument)s?\b"
)
"""What a request asks for, in the words in which it is refused."""


NO_ANSWER = "no answer"
"""Why an attempt is lost to JSON that is no completion."""
GARBAGE = "garbage"
"""And to what is no JSON."""


class Lost(Exception):
    """An attempt that is worth another. `wait` is seconds that the provider asks for, `said` what it says; `loading`,
    whether it says that it is not ready yet; `whole`, whether a completion came, of no use, which may be all that ever comes.
    """

    def __init__(
        self, cause: str, wait: float | None = None, said: str = "", *, loading: bool = False, whole: bool = False
    ) -> None:
        super().__init__(cause)
        self.cause, self.wait, self.said, self.loading, self.whole = cause, wait, said, loading, whole


class TurnedDown(Exception):
    """A call that the provider will not answer. `means` is what to end a run with if any other call would fare the same."""

    def __init__(self, said: str, means: PrefprobeError | None = None) -> None:
        super().__init__(said)
        self.means = means


def failure(
    base_url: str,
    status: int,
    data: bytes,
    headers: Mapping[str, str],
    hiding: Callable[[str], str],
    key_advice: str,
) -> Exception:
    """What a status means that is no answer, or a 200 that has none: Lost, TurnedDown, TemporaryFailure or BadConfig; never
    with what `hiding` takes out of a text.
    """
    said, code = _said(data)
    said = cleaned(said, hiding) or "no reason given"
    found, low = f"({status}: {said})", said.lower()
    if status == 402 or "insufficient_quota" in code or (status == 400 and "credit balance" in low):
        return TemporaryFailure(f"{base_url} wants to be paid first {found}; add credit, then run again.")
    loading = status not in (401, 403) and bool(_LOADING.search(low)) and not _FAILED.search(low)
    if status == 200:
        return Lost(NO_ANSWER, said=said, loading=loading)
    if status in _AGAIN or (status >= 500 and status not in _NEVER) or (status >= 400 and loading):
        return Lost(str(status), retry_after({k.lower(): v for k, v in headers.items()}), said, loading=loading)
    if status < 400:
        where = cleaned(headers.get("Location", ""), hiding) or "elsewhere"
        return BadConfig(
            f"{base_url} is not where answers come from, it points to {where} ({status}); correct base_url."
        )
    if status == 401 or (status == 400 and "api key" in low):
        return BadConfig(f"{base_url} refuses the key {found}; {key_advice}.")
    means = None
    if status == 403 and _FIELD.search(low):
        means = BadConfig(
            f"{base_url} does not allow a field of the request {found}; set `mode` to sampled if it is log-probabilities, or "
            "leave it out of `extra`, or ask for the right to it."
        )
    elif status == 403 and not any(word in low for word in ("moderation", "flagged")):
        means = BadConfig(f"{base_url} refuses the key, or this to its owner {found}; {key_advice}.")
    if status in (404, 405):
        means = BadConfig(f"{base_url} has no such model or address {found}; check base_url, model and extra.")
    if status in _NEVER:
        means = BadConfig(f"{base_url} cannot do what it is asked for {found}; check base_url and extra.")
    return TurnedDown(f"{status}: {said}", means)


def error_within(body: dict[str, Any]) -> tuple[int, bytes] | None:
    """(status, JSON) of an error that stands in a body in place of an answer; 200 if nothing says of which status it is.

    None if there is no such error. A router answers 200 itself, and may say so in the choice as well.
    """
    choices = body.get("choices")
    within = choices[0] if isinstance(choices, list) and choices else body
    if not isinstance(within, dict):
        return None
    error = within.get("error")
    if not error and within is body and "choices" not in body and {"message", "detail"} & body.keys():
        error = body
    if not error or (within is body and choices):
        return None
    data = json.dumps({"error": error}).encode()
    named = [of.get(name) for of in (error, body) if isinstance(of, dict) for name in ("code", "status")]
    statuses = [n for n in map(_number, named) if 400 <= n < 600]
    said = " ".join(_said(data)).lower()
    statuses += [status for status, words in _WORDS if words.search(said)]
    return (statuses or [200])[0], data


def cleaned(text: str, hiding: Callable[[str], str]) -> str:
    """What a provider says, on one line, not too long, and without what `hiding` takes out."""
    return " ".join(hiding(text).split())[:_SENTENCE]


def _number(status: object) -> int:
    return int(status) if isinstance(status, int | str) and str(status).isdecimal() else 0


def _said(data: bytes) -> tuple[str, str]:
    """(sentence, code) of an error's body, however it is wrapped."""
    text = data.decode("utf-8", "replace")
    with suppress(ValueError, RecursionError):
        body = json.loads(text)
        body = body[0] if isinstance(body, list) and body else body
        error = body.get("error") or body if isinstance(body, dict) else body
        if isinstance(error, dict):
            sentence = error.get("message") or error.get("detail") or json.dumps(error)
            return str(sentence), f"{error.get('code')} {error.get('type')}"
        text = str(error)
    return text, ""
