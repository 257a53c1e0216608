"""Numbers as they are shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefprobe.numbers import (
    count,
    dollars,
    interval,
    listed,
    number,
    p_value,
    rough,
    rough_dollars,
    rough_hours,
    rough_size,
    rough_tokens,
    signed,
    significant,
    size,
)

UNITS = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
BYTES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def test_measured_numbers() -> None:
    assert [number(x) for x in (0.12345, -0.5, -0.0001, 1234.5, None)] == ["0.123", "−0.500", "0.000", "1,234.500", "–"]
    assert [signed(x) for x in (0.25, -0.25, 0.0001, None)] == ["+0.250", "−0.250", "0.000", "–"]
    assert interval(-0.1, 0.25) == "[−0.100, 0.250]"
    assert interval(None, 0.25) == ""
    assert [p_value(x) for x in (0.0004, 0.001, None)] == ["<0.001", "0.001", "–"]
    assert [significant(x) for x in (0.1, 0.46415888, 21544.3469, 1e5)] == ["0.1", "0.464", "21,500", "100,000"]
    assert [count(x) for x in (0, 1234567, None)] == ["0", "1,234,567", "–"]
    assert [dollars(x) for x in (0.00421, 12.345, None)] == ["0.0042", "12.35", "–"]
    assert [size(x) for x in (0, 999, 2048, 123_456_789, 999_700)] == ["0 B", "999 B", "2.05 kB", "123 MB", "1 MB"]
    assert [listed(x) for x in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_estimates() -> None:
    assert [rough(v) for v in (7, 999, 999.7, 1234, 99_960, 1.5e6, 27e9)] == [
        "7", "999", "1.0 k", "1.2 k", "100 k", "1.5 M", "27.0 B",
    ]  # fmt: skip
    assert [rough_size(v) for v in (12, 999_700, 5.4e10, 1.5e15)] == ["12 B", "1.0 MB", "54.0 GB", "1,500 TB"]
    assert [rough_tokens(v) for v in (12, 1200)] == ["12 tokens", "1.2 k tokens"]
    assert [rough_dollars(v) for v in (0.001, 1234.5)] == ["<$0.01", "$1,234.50"]
    assert [rough_hours(v) for v in (0.001, 1234.5)] == ["<0.01", "1,234.50"]


@pytest.mark.parametrize(("show", "units"), [(rough, UNITS), (rough_size, BYTES), (size, BYTES)])
@given(value=st.integers(0, 10**15 - 10**12))
def test_a_shown_amount_is_near_the_true_one_and_short(show, units, value: int) -> None:
    digits, _, unit = show(value).partition(" ")
    assert float(digits) < 1000
    assert len(digits.replace(".", "")) <= 3
    assert float(digits) * units[unit] == pytest.approx(value, rel=0.051)
