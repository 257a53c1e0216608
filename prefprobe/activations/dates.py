"""The date that chat templates print: a pinned one, written the same on every machine, in every language and time zone."""

import re
from collections.abc import Callable
from datetime import date
from typing import Any

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_COMPOUND = {
    "c": "%a %b %e %H:%M:%S %Y",
    "D": "%m/%d/%y",
    "F": "%Y-%m-%d",
    "R": "%H:%M",
    "r": "%I:%M:%S %p",
    "T": "%H:%M:%S",
    "X": "%H:%M:%S",
    "x": "%m/%d/%y",
}
_DIRECTIVE = re.compile(r"%([-_0^#]?)[EO]?([A-Za-z%])")


def variables(day: date) -> dict[str, Any]:
    """What a chat template may read of the date, for the midnight that begins `day`.

    `date_string` is what Llama 3 asks for; `strftime_now` stands before the global of that name, which reads the clock.
    """

    def strftime_now(format: str) -> str:  # noqa: A002 - a template may name it
        return written(day, format)

    return {"date_string": written(day, "%d %b %Y"), "strftime_now": strftime_now}


def written(day: date, form: str) -> str:
    """`day` at midnight in the form of `strftime`, in English; there is no time zone. Raises ValueError for an unknown form."""

    def filled(match: re.Match[str]) -> str:
        flag, letter = match.groups()
        if letter in _COMPOUND:
            text = _DIRECTIVE.sub(filled, _COMPOUND[letter])
        elif letter in _WORDS:
            text = _WORDS[letter](day)
        elif letter in _NUMBERS:
            number, width, padding = _NUMBERS[letter]
            padding = {"_": " ", "0": "0"}.get(flag, padding)
            text = str(number(day)) if flag in ("-", "#") else str(number(day)).rjust(width, padding)
        else:
            raise ValueError(f"the date format {match[0]} is not known")
        return text.upper() if flag == "^" else text

    return _DIRECTIVE.sub(filled, form)


def _week(day: date, first: int) -> int:
    """Week of the year, from 0, where weeks begin with the weekday `first` (Monday is 0)."""
    return (day.timetuple().tm_yday - 1 + 7 - (day.weekday() - first) % 7) // 7


_WORDS: dict[str, Callable[[date], str]] = {
    "%": lambda _: "%",
    "A": lambda day: _DAYS[day.weekday()],
    "a": lambda day: _DAYS[day.weekday()][:3],
    "B": lambda day: _MONTHS[day.month - 1],
    "b": lambda day: _MONTHS[day.month - 1][:3],
    "h": lambda day: _MONTHS[day.month - 1][:3],
    "n": lambda _: "\n",
    "P": lambda _: "am",
    "p": lambda _: "AM",
    "t": lambda _: "\t",
    "Z": lambda _: "",
    "z": lambda _: "",
}
_NUMBERS: dict[str, tuple[Callable[[date], int], int, str]] = {
    "C": (lambda day: day.year // 100, 2, "0"),
    "d": (lambda day: day.day, 2, "0"),
    "e": (lambda day: day.day, 2, " "),
    "f": (lambda _: 0, 6, "0"),
    "G": (lambda day: day.isocalendar().year, 4, "0"),
    "g": (lambda day: day.isocalendar().year % 100, 2, "0"),
    "H": (lambda _: 0, 2, "0"),
    "I": (lambda _: 12, 2, "0"),
    "j": (lambda day: day.timetuple().tm_yday, 3, "0"),
    "k": (lambda _: 0, 2, " "),
    "l": (lambda _: 12, 2, " "),
    "M": (lambda _: 0, 2, "0"),
    "m": (lambda day: day.month, 2, "0"),
    "S": (lambda _: 0, 2, "0"),
    "s": (lambda day: (day - date(1970, 1, 1)).days * 86_400, 1, "0"),
    "U": (lambda day: _week(day, 6), 2, "0"),
    "u": (lambda day: day.isoweekday(), 1, "0"),
    "V": (lambda day: day.isocalendar().week, 2, "0"),
    "W": (lambda day: _week(day, 0), 2, "0"),
    "w": (lambda day: day.isoweekday() % 7, 1, "0"),
    "Y": (lambda day: day.year, 4, "0"),
    "y": (lambda day: day.year % 100, 2, "0"),
}
"""Value, width, and what fills it up."""
