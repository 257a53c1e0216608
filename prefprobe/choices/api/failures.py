"""What it means when an endpoint gives no answer: try again, give this one up, or stop everything."""

import json
from collections.abc import Mapping
from contextlib import suppress

from prefprobe.choices.api.pacing import retry_after
from prefprobe.errors import BadConfig, TemporaryFailure

_AGAIN = {408, 409, 425, 429}
_SENTENCE = 300  # characters of what a provider says


class Lost(Exception):
    """An attempt that is worth another. `wait` is seconds that the provider asks for, `said` what it says."""

    def __init__(self, cause: str, wait: float | None = None, said: str = "") -> None:
        super().__init__(cause)
        self.cause, self.wait, self.said = cause, wait, said


class TurnedDown(Exception):
    """A call that the provider will not answer."""


def failure(base_url: str, status: int, data: bytes, headers: Mapping[str, str], key: str) -> Exception:
    """What a status other than 200 means: Lost, TurnedDown, TemporaryFailure or BadConfig; never with the key in it."""
    said, code = _said(data)
    said = " ".join((said.replace(key, "…") if key else said).split())[:_SENTENCE] or "no reason given"
    if status == 402 or "insufficient_quota" in code or (status == 400 and "credit balance" in said.lower()):
        return TemporaryFailure(f"{base_url} wants to be paid first ({status}: {said}); add credit, then run again.")
    if status in _AGAIN or status >= 500:
        return Lost(str(status), retry_after({k.lower(): v for k, v in headers.items()}), said)
    of_content = any(word in said.lower() for word in ("moderation", "flagged"))
    if status == 401 or (status == 403 and not of_content) or (status == 400 and "api key" in said.lower()):
        return BadConfig(f"{base_url} refuses the key ({status}: {said}); check the variable that holds it.")
    if status in (404, 405) or status < 400:
        return BadConfig(f"{base_url} has no such model or address ({status}: {said}); check base_url and model.")
    return TurnedDown(f"{status}: {said}")


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
