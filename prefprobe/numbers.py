"""Numbers as a reader sees them: what was measured exactly as it was, what is estimated roughly; and words in lists.

Measured numbers have fixed decimals or significant digits, a true minus sign, and intervals in brackets. The `rough_` ones
are for estimates: as short as they can be, and never 0 for something.
"""

import math
import re
from collections.abc import Mapping, Sequence

MISSING = "–"
_THOUSANDS = ("", "k", "M", "B", "T")
_BYTES = ("B", "kB", "MB", "GB", "TB")


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


def significant(value: float) -> str:
    """Three significant digits, with no zeros after them: 0.464, 21,544 → 21,500."""
    return f"{float(f'{value:.3g}'):,.10g}"


def size(value: float) -> str:
    """Bytes at three significant digits: 812 B, 2.05 kB, 123 MB."""
    scaled, unit = _scaled(value, _BYTES)
    return f"{significant(scaled)} {unit}"


def rough(value: float) -> str:
    """Up to three digits: 123, 45.6 k, 7.8 M."""
    return _rough(value, _THOUSANDS)


def rough_size(value: float) -> str:
    """Bytes: 812 B, 2.0 kB, 123 MB."""
    return _rough(value, _BYTES)


def rough_tokens(value: float) -> str:
    """A number of tokens, with the word."""
    return f"{rough(value)} tokens"


def rough_hours(value: float) -> str:
    """1.25; <0.01."""
    return f"{value:,.2f}" if value >= 0.01 else "<0.01"


def rough_dollars(value: float) -> str:
    """$1.25; <$0.01."""
    return f"${value:,.2f}" if value >= 0.01 else "<$0.01"


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


def _rough(value: float, units: Sequence[str]) -> str:
    scaled, unit = _scaled(value, units)
    return f"{scaled:,.{0 if unit == units[0] or scaled >= 99.95 else 1}f} {unit}".rstrip()


def _scaled(value: float, units: Sequence[str]) -> tuple[float, str]:
    """`value` in the first unit in which it is shown below 1000, each a thousand of the one before."""
    power = min(len(units) - 1, int(math.log10(value * 1.0005)) // 3) if value >= 999.5 else 0
    return value / 1000**power, units[power]
