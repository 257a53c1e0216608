"""Near duplicates: none that is one is missed, none that is none is found, and texts of one template are not compared."""

import random

import pytest

from prefprobe.tasks import duplicates
from prefprobe.tasks.duplicates import MISSED, NearDuplicates, bands, jaccard

_PERMUTATIONS = 256


def words(draw: random.Random, n: int) -> list[str]:
    return [f"{draw.choice('bcdfgklmnprst')}{draw.randrange(10**6)}" for _ in range(n)]


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_miss_few_at_the_threshold_and_are_as_few_as_that_allows(threshold: float) -> None:
    def missed(n: int) -> float:
        return float((1 - threshold ** (_PERMUTATIONS // n)) ** n)

    n = bands(threshold)
    assert missed(n) < 1 / MISSED
    fewer = {_PERMUTATIONS // rows for rows in range(_PERMUTATIONS // n + 1, _PERMUTATIONS + 1)}
    assert all(missed(m) >= 1 / MISSED for m in fewer)


@pytest.mark.parametrize(("threshold", "changed"), [(0.7, 4), (0.8, 2), (0.9, 1)])
def test_all_planted_near_duplicates_are_found_and_nothing_else(threshold: float, changed: int) -> None:
    draw = random.Random(1)
    originals = [words(draw, 52) for _ in range(400)]
    copies = []
    for original in originals:
        copy = list(original)
        for at in draw.sample(range(1, 51), changed):
            copy[at] = f"z{draw.randrange(10**6)}"
        copies.append(copy)
    firsts, others = [" ".join(some) for some in originals], [" ".join(some) for some in copies]
    near = NearDuplicates(threshold)
    for text, sketch in zip(firsts, near.sketches(firsts), strict=True):
        assert near.like(text, sketch) is None
        near.add(text, sketch)
    for k, (text, sketch) in enumerate(zip(others, near.sketches(others), strict=True)):
        is_one = jaccard(text, firsts[k]) >= threshold
        assert near.like(text, sketch) == (k if is_one else None)
    assert sum(jaccard(a, b) >= threshold for a, b in zip(firsts, others, strict=True)) > 300


def test_texts_of_one_template_are_hardly_ever_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(2)
    frame = words(draw, 20)
    texts = [" ".join([*frame, *words(draw, 20)]) for _ in range(1500)]
    compared: list[str] = []

    def counted(one: str, other: str) -> float:
        compared.append(one)
        return jaccard(one, other)

    monkeypatch.setattr(duplicates, "jaccard", counted)
    near = NearDuplicates(0.8)
    for text, sketch in zip(texts, near.sketches(texts), strict=True):
        assert near.like(text, sketch) is None
        near.add(text, sketch)
    assert 0.3 < jaccard(texts[0], texts[1]) < 0.4
    assert len(compared) < 15  # of more than a million pairs
