"""Reliability against planted truth: what is all signal, what is all noise, and a closed form in between."""

import numpy as np
import pytest

from prefprobe.errors import BadConfig
from prefprobe.thurstonian.fit import Comparisons, fit_utilities
from prefprobe.thurstonian.reliability import additive_r2, split_half


def names(n: int) -> np.ndarray:
    return np.array([f"t{k:04d}" for k in range(n)])


def random_pairs(n: int, m: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    all_i, all_j = np.triu_indices(n, 1)
    chosen = np.sort(rng.choice(len(all_i), m, replace=False))
    return all_i[chosen], all_j[chosen]


def sampled(n: int, m: int, mu_sd: float, repeats: int, seed: int) -> Comparisons:
    rng = np.random.default_rng(seed)
    i, j = random_pairs(n, m, rng)
    mu = rng.normal(0.0, mu_sd, n)
    wins = rng.binomial(repeats, 1 / (1 + np.exp(-1.7 * (mu[i] - mu[j]) / np.sqrt(2)))) / repeats
    return Comparisons.from_choices(names(n)[i], names(n)[j], wins, np.full(m, float(repeats)))


def test_reliable_choices_have_reliable_halves() -> None:
    result = split_half(sampled(40, 700, 1.5, 200, 0), seed=1, splits=4)
    assert result["split_half_r"] is not None
    assert result["split_half_r"] > 0.98
    assert result["splits"] == 4


def test_coin_tosses_have_none() -> None:
    values = [split_half(sampled(60, 400, 0.0, 2, seed), seed=seed, splits=4)["split_half_r"] for seed in range(6)]
    assert abs(np.mean([value for value in values if value is not None])) < 0.12


def test_spearman_brown_foretells_what_all_pairs_give() -> None:
    # Two halves of 2m pairs agree as two independent runs of m do, and the formula then speaks of 2m pairs.
    def between_runs(m: int, seed: int) -> float:
        rng = np.random.default_rng(seed)
        mu = rng.normal(0.0, 1.0, 60)
        runs = []
        for _ in range(2):
            i, j = random_pairs(60, m, rng)
            choice = (rng.random(m) < 1 / (1 + np.exp(-1.7 * (mu[i] - mu[j]) / np.sqrt(2)))).astype(float)
            runs.append(Comparisons.from_choices(names(60)[i], names(60)[j], choice, task_ids=names(60)))
        return float(np.corrcoef(fit_utilities(runs[0]).mu, fit_utilities(runs[1]).mu)[0, 1])

    foretold = [split_half(sampled(60, 800, 1.0, 1, seed), seed=seed, splits=3)["spearman_brown"] for seed in range(6)]
    observed = [between_runs(800, seed) for seed in range(6)]
    assert np.mean([x for x in foretold if x is not None]) == pytest.approx(np.mean(observed), abs=0.05)


def test_spearman_brown_is_the_formula_and_the_seed_decides() -> None:
    comparisons = sampled(40, 300, 1.0, 2, 0)
    first, same, other = (split_half(comparisons, seed=seed, splits=3) for seed in (1, 1, 2))
    r = first["split_half_r"]
    assert r is not None
    assert first["spearman_brown"] == pytest.approx(2 * r / (1 + r), rel=1e-12)
    assert first == same
    assert first["split_half_r"] != other["split_half_r"]


def test_nothing_to_split_is_none_and_not_nan() -> None:
    none = {"split_half_r": None, "spearman_brown": None, "splits": 0}
    assert split_half(Comparisons.from_choices(["a"], ["b"], [1.0]), seed=0) == none
    i, j = np.triu_indices(8, 1)
    assert split_half(Comparisons.from_choices(names(8)[i], names(8)[j], np.full(len(i), 0.5)), seed=0) == none
    with pytest.raises(BadConfig, match="splits"):
        split_half(Comparisons.from_choices(["a"], ["b"], [1.0]), seed=0, splits=0)


def both_orders(i: np.ndarray, j: np.ndarray, y: np.ndarray, bias: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = names(int(max(i.max(), j.max())) + 1)
    return np.append(ids[i], ids[j]), np.append(ids[j], ids[i]), np.append(y + bias, bias - y)


def test_additive_logits_are_explained_whatever_the_position_bias() -> None:
    rng = np.random.default_rng(0)
    i, j = random_pairs(30, 120, rng)
    x = rng.normal(size=30)
    assert additive_r2(*both_orders(i, j, x[i] - x[j], 2.5)) == pytest.approx(1.0, abs=1e-9)


def test_additive_share_equals_least_squares_on_the_incidence_matrix() -> None:
    rng = np.random.default_rng(1)
    i, j = random_pairs(12, 30, rng)
    y = rng.normal(size=30) + 0.5 * (i - j)
    incidence = np.zeros((30, 12))
    incidence[np.arange(30), i], incidence[np.arange(30), j] = 1.0, -1.0
    rank = np.linalg.matrix_rank(incidence)
    residual = y - incidence @ np.linalg.lstsq(incidence, y, rcond=None)[0]
    expected = 1 - (residual @ residual / (30 - rank)) / (y @ y / 30)
    assert additive_r2(*both_orders(i, j, y, 0.3)) == pytest.approx(expected, abs=1e-9)


def test_logits_without_structure_are_explained_by_nothing_on_average() -> None:
    rng = np.random.default_rng(2)
    shares = []
    for _ in range(200):
        i, j = random_pairs(20, 60, rng)
        shares.append(additive_r2(names(20)[i], names(20)[j], rng.normal(size=60)))
    # Without the adjustment for degrees of freedom this would be 19 / 60.
    assert abs(np.mean([share for share in shares if share is not None])) < 0.04


def test_additive_share_that_cannot_be_estimated_is_none() -> None:
    assert additive_r2(["a", "b"], ["b", "c"], [1.0, 2.0]) is None
    assert additive_r2(["a", "b", "a"], ["b", "c", "c"], [0.0, 0.0, 0.0]) is None
