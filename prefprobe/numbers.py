"""Numbers as a reader sees them: fixed decimals, a true minus sign, intervals in brackets."""

import re
from collections.abc import Mapping, Sequence

MISSING = "–"


def number(value: float | None, digits: int = 3) -> str:
    """0.123; a dash where there is no value."""
    if value is None:
        return MISSING
    shown = f"{value:,.{digits}f}"
    return shown.lstrip("-") if float(shown.replace(",", "")) == 0 else shown.replace("-", "−")


def count(value: int | None) -> str:
    """1,234; a dash where nothing was counted."""
    return MISSING if value is None else f"{value:,}"


def percent(share: float) -> str:
    """12 %."""
    return f"{number(100 * share, 0)} %"


def dollars(value: float | None) -> str:
    """12.34; more digits below one dollar: 0.0042."""
    return number(value, 2 if value is None or value >= 1 else 4)


def signed(value: float | None, digits: int = 3) -> str:
    """+0.123, for differences."""
    shown = number(value, digits)
    return f"+{shown}" if value is not None and float(f"{value:.{digits}f}") > 0 else shown


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """[lo, hi]; empty if a bound is missing."""
    return "" if low is None or high is None else f"[{number(low, digits)}, {number(high, digits)}]"


def p_value(value: float | None) -> str:
    """Three decimals; below that, how small it is at most."""
    return "<0.001" if value is not None and value < 0.001 else number(value)


def penalty(value: float) -> str:
    """Three significant digits of a ridge penalty: 0.464, 21,544 → 21,500."""
    return f"{float(f'{value:.3g}'):,.10g}"


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def by_set(values: Mapping[str, str]) -> str:
    """0.71 (train and eval), or 0.71 (train) and 0.66 (eval)."""
    if len(set(values.values())) == 1 and len(values) > 1:
        return f"{next(iter(values.values()))} ({listed(list(values))})"
    return listed([f"{value} ({name})" for name, value in values.items()])


def shortened(text: str, length: int) -> str:
    """At most `length` characters on one line, an ellipsis for what is left out."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def slug(text: str) -> str:
    """Letters, digits and dashes: fit for a file name and for an id in a page."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
