"""The sentence against the table that it stands above."""

from typing import Any

import pytest

from prefprobe.findings import rules
from prefprobe.findings.answer import answer


def claim(id_: str, verdict: str, value: float | None, **detail: float) -> dict[str, Any]:
    bounds = {"low": None if value is None else value - 0.1, "high": None if value is None else value + 0.1}
    known = {"value": value, "verdict": verdict, "published": None, "holds": verdict in rules.HOLDS}
    return {"id": id_, "detail": detail} | bounds | known


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("second", "said"),
    [
        (
            claim("heldout_above_b", rules.PRESENT, 0.2, encoder=0.5),
            r"it reads more than a sentence encoder does (+0.200 ",
        ),
        (
            claim("heldout_above_b", rules.INCONCLUSIVE, 0.04, encoder=0.7),
            r"it is not shown to read more than a sentence",
        ),
        (
            claim("heldout_above_b", rules.ABSENT, -1.2, encoder=0.9),
            r"it does not read more than a sentence encoder does (−1.2",
        ),
        (
            claim("heldout_above_b", rules.NOT_ESTIMABLE, None, encoder=0.9),
            r"it could not be tested for whether it reads more",
        ),
    ],
)
def test_of_several_encoders_the_one_that_does_best_is_spoken_of(second: Any, said: str, turned: bool) -> None:
    first = claim("heldout_above_a", rules.PRESENT, 0.4, encoder=0.3)
    both = [second, first] if turned else [first, second]
    raw, topics = claim("heldout_raw", rules.PRESENT, 0.8), claim("cross_topic", rules.PRESENT, 0.7)
    assert said in answer("M", [raw, *both, claim("heldout_above_base", rules.ABSENT, -0.3, base=0.9), topics])
