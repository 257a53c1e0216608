"""The ceiling against what the true utilities score."""

import numpy as np
import pytest
from scipy.special import ndtr

from prefprobe.thurstonian.ceiling import agreement_ceiling
from prefprobe.thurstonian.comparisons import Comparisons

IDS = np.array([f"t{i:03d}" for i in range(120)])


def world(seed: int, degree: int, spread: float, samples: int) -> tuple[Comparisons, float]:
    """Choices by planted utilities in random pairs, and the share of them that these utilities tell."""
    rng = np.random.default_rng(seed)
    mu = spread * rng.normal(size=len(IDS))
    a = np.concatenate([rng.permutation(len(IDS)) for _ in range(degree)])
    b = np.concatenate([np.roll(row, 1) for row in a.reshape(degree, -1)])
    share = rng.binomial(samples, ndtr((mu[a] - mu[b]) / np.sqrt(2))) / samples
    found = Comparisons.from_choices(IDS[a], IDS[b], share, np.full(len(a), float(samples)))
    side = np.sign(found.wins - found.count / 2)
    return found, float((np.sign(mu[found.i] - mu[found.j]) == side)[side != 0].mean())


@pytest.mark.parametrize(("degree", "spread", "samples", "below"), [(20, 2.0, 5, 0.02), (10, 1.0, 3, 0.05)])
def test_it_lies_a_little_below_what_true_utilities_score_and_in_sample_above(
    degree: int, spread: float, samples: int, below: float
) -> None:
    drawn = [world(seed, degree, spread, samples) for seed in range(12)]
    found = [(truth, agreement_ceiling(comparisons)) for comparisons, truth in drawn]
    truth = float(np.mean([t for t, _ in found]))
    accuracy, in_sample = (float(np.mean([c[key] or 0.0 for _, c in found])) for key in ("accuracy", "in_sample"))
    assert truth - below < accuracy < truth < in_sample
    assert in_sample - truth > 0.005


def test_choices_by_chance_have_a_ceiling_of_chance() -> None:
    comparisons, _ = world(0, 10, 0.0, 1)
    found = agreement_ceiling(comparisons)
    assert found["accuracy"] == pytest.approx(0.5, abs=0.08)
    assert found["in_sample"] is not None
    assert found["in_sample"] > 0.58
    assert found["n_choices"] == int((comparisons.wins != comparisons.count / 2).sum())


def test_it_depends_on_no_order_and_skips_what_has_no_direction() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(20, size=200), rng.integers(1, 20, size=200)
    b = (a + b) % 20
    p = np.where(rng.random(200) < 0.3, 0.5, (a > b).astype(float))
    order = rng.permutation(200)
    one = agreement_ceiling(Comparisons.from_choices(IDS[a], IDS[b], p))
    other = agreement_ceiling(Comparisons.from_choices(IDS[b][order], IDS[a][order], 1 - p[order]))
    assert one == other
    merged = Comparisons.from_choices(IDS[a], IDS[b], p)
    assert one["n_choices"] == int((merged.wins != merged.count / 2).sum())


def test_what_cannot_be_estimated_is_none() -> None:
    nothing = Comparisons.from_choices([], [], [])
    assert agreement_ceiling(nothing) == {"accuracy": None, "n_choices": 0, "in_sample": None}
    torn = Comparisons.from_choices(["a", "b"], ["b", "c"], [0.5, 0.5])
    assert agreement_ceiling(torn) == {"accuracy": None, "n_choices": 0, "in_sample": None}
    single = Comparisons.from_choices(["a"], ["b"], [1.0])
    assert agreement_ceiling(single) == {"accuracy": None, "n_choices": 1, "in_sample": None}
