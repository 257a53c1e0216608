"""How fast an endpoint is asked: a window that adapts, even spacing under rate limits, and how long to wait after a loss.

Times are seconds of one monotonic clock, which the caller reads.
"""

import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from prefprobe.settings.endpoint import TransportSettings

FIRST_WINDOW = 8.0
FIRST_BACKOFF, LONGEST = 0.5, 60.0
"""Half of the longest first wait, and the longest of all, in seconds."""
_STREAK = 20
"""Losses in a row, at least, before everything pauses."""
_LATE = 0.01
"""Seconds by which a timer may be late without a rate suffering from it."""
_LOAD = {"429", "503", "529", "timeout"}
"""Causes that say the endpoint has too much to do."""
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


class Window:
    """How many attempts may be on their way (Chiu and Jain 1989, with the slow start of Jacobson 1988).

    It doubles in every round trip up to a threshold, infinite at first, and grows by one from there on. A loss halves
    it, but once in a round trip: what was sent before the window shrank says nothing of the smaller window.
    """

    def __init__(self, widest: int) -> None:
        self._widest = float(widest)
        self._size = min(FIRST_WINDOW, self._widest)
        self._threshold = float("inf")
        self._shrunk = float("-inf")

    @property
    def size(self) -> int:
        """Attempts at once, at least 1."""
        return int(self._size)

    def won(self) -> None:
        """An attempt came through while the window was full."""
        self._size = min(self._widest, self._size + (1.0 if self._size < self._threshold else 1.0 / self._size))

    def lost(self, sent: float, now: float) -> None:
        """An attempt that was sent at `sent` was lost to load."""
        if sent > self._shrunk:
            self._size = self._threshold = max(1.0, self._size / 2.0)
            self._shrunk = now

    def close(self) -> None:
        """One attempt at a time until one comes through."""
        if self._size > 1.0:
            self._threshold = self._size / 2.0
        self._size = 1.0


class Spacing:
    """An even flow of so much a minute: no burst, and nothing saved up while idle but a late timer's lateness."""

    def __init__(self, per_minute: float | None) -> None:
        self._each = 60.0 / per_minute if per_minute else 0.0
        self._free = float("-inf")

    def wait(self, now: float) -> float:
        """Seconds until the next may go."""
        return max(0.0, self._free - now)

    def take(self, amount: int, now: float) -> None:
        """`amount` goes now."""
        self._free = max(self._free, now - _LATE) + self._each * amount


class Breaker:
    """Pauses everything while nothing comes through, longer each time, with one attempt in between to see."""

    def __init__(self) -> None:
        self._streak, self._pauses = 0, 0
        self._paused = float("-inf")

    def won(self) -> bool:
        """An attempt came through. Returns whether that was the first after a pause."""
        was_open = self._pauses > 0
        self._streak = self._pauses = 0
        return was_open

    def lost(self, window: int, sent: float, now: float) -> float:
        """An attempt that was sent at `sent` was lost. Returns seconds for which to ask nothing from now on."""
        self._streak += 1
        if self._streak < max(_STREAK, 2 * window) if not self._pauses else sent < self._paused:
            return 0.0
        self._pauses, self._paused = self._pauses + 1, now
        return min(LONGEST, FIRST_BACKOFF * 2.0 ** min(self._pauses, 32)) * random.uniform(0.5, 1.0)


class Pace:
    """When the next attempt may start, from what became of those before."""

    def __init__(self, settings: TransportSettings) -> None:
        self._window, self._breaker = Window(settings.concurrency), Breaker()
        self._requests, self._tokens = Spacing(settings.requests_per_minute), Spacing(settings.tokens_per_minute)
        self._patience = settings.total_timeout
        self._paused_until = float("-inf")
        self._flying, self._full = 0, False
        self.widest = 0
        """The most attempts that were on their way at once."""

    @property
    def size(self) -> int:
        """Attempts that may be on their way."""
        return self._window.size

    def wait(self, now: float) -> float:
        """Seconds until an attempt may start; infinite until another has landed."""
        self._full = self._flying >= self._window.size
        if self._full:
            return float("inf")
        return max(self._paused_until - now, self._requests.wait(now), self._tokens.wait(now))

    def start(self, tokens: int, now: float) -> None:
        """An attempt that may take so many `tokens` starts."""
        self._requests.take(1, now)
        self._tokens.take(tokens, now)
        self._flying += 1
        self.widest = max(self.widest, self._flying)

    def land(self) -> None:
        """An attempt is over, whatever became of it."""
        self._flying -= 1

    def won(self) -> bool:
        """An attempt came through. Returns whether it was the first after an outage."""
        if self._full:  # a window that is not says nothing of a wider one
            self._window.won()
        return self._breaker.won()

    def lost(self, cause: str, asked: float, sent: float, now: float) -> None:
        """An attempt that was sent at `sent` was lost; the endpoint has `asked` to wait so long, 0 if it has not.

        A wait that is longer than anyone's patience is cut: one attempt then shows whether it was meant.
        """
        pause = self._breaker.lost(self._window.size, sent, now)
        if pause > 0.0:
            self._window.close()
        elif cause in _LOAD:
            self._window.lost(sent, now)
        if cause in _LOAD:
            pause = max(pause, min(asked, self._patience))
        self._paused_until = max(self._paused_until, now + pause)


def backoff(lost: int) -> float:
    """Seconds to wait after an attempt was lost the `lost`-th time: exponential with full jitter, a minute at most."""
    return min(LONGEST, FIRST_BACKOFF * 2.0 ** min(lost, 32)) * random.random()


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a provider asks to wait: `retry-after-ms`, `Retry-After` as seconds or a date (RFC 9110), or the
    later reset of OpenAI's `x-ratelimit-remaining-*` that is used up. None if it says nothing that can be read.
    """
    if (ms := _number(headers.get("retry-after-ms"))) is not None:
        return ms / 1000.0
    after = headers.get("retry-after")
    if (seconds := _number(after)) is not None:
        return seconds
    if (until := _date(after)) is not None:
        here = now or _date(headers.get("date")) or datetime.now(UTC)  # the provider's own clock if it shows one
        return max(0.0, (until - here).total_seconds())
    used_up = [k for k in ("requests", "tokens") if headers.get(f"x-ratelimit-remaining-{k}", "0") == "0"]
    resets = [_duration(headers.get(f"x-ratelimit-reset-{k}")) for k in used_up]
    return max((r for r in resets if r is not None), default=None)


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\s*\d+(\.\d+)?\s*", text) else None


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return date.replace(tzinfo=date.tzinfo or UTC)


def _duration(text: str | None) -> float | None:
    """`1h2m3.5s`, `6m0s`, `20ms` in seconds."""
    match = _DURATION.fullmatch((text or "").strip())
    if not text or match is None or not any(match.groups()):
        return None
    hours, minutes, seconds, ms = (float(part or 0) for part in match.groups())
    return 3600.0 * hours + 60.0 * minutes + seconds + ms / 1000.0
