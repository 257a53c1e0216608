"""The bootstrap over pairs against Laplace errors where the model holds, and against the truth where it does not."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from prefprobe.errors import BadConfig
from prefprobe.thurstonian.bootstrap import bootstrap_errors, bootstrap_mu
from prefprobe.thurstonian.fit import Comparisons, fit_mu, fit_utilities


def dense(n: int, samples: int, seed: int) -> tuple[np.ndarray, Comparisons]:
    """True mu, and choices of every pair of tasks with sigma 1."""
    rng = np.random.default_rng(seed)
    mu = rng.normal(0.0, 0.7, n)
    i, j = np.triu_indices(n, 1)
    wins = rng.binomial(samples, norm.cdf((mu[i] - mu[j]) / np.sqrt(2.0))).astype(float)
    return mu - mu.mean(), Comparisons(
        tuple(f"t{k:02d}" for k in range(n)), i, j, wins, np.full(len(i), float(samples))
    )


def test_errors_are_those_of_laplace_where_the_model_holds() -> None:
    ratios, inside = [], []
    for seed in range(3):
        mu, comparisons = dense(40, 4, seed)
        utilities = fit_utilities(comparisons)
        errors = bootstrap_errors(comparisons, utilities, samples=40, seed=seed)
        ratios.append(errors / utilities.se)
        inside.append(np.abs(utilities.mu - mu) < 1.96 * errors)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.12)
    assert np.mean(inside) > 0.9


def test_errors_hold_where_the_answers_of_a_pair_are_no_independent_samples() -> None:
    # Each pair is asked 20 times and always answers as the first time: Laplace takes them for 20 observations.
    mu, once = dense(20, 1, 0)
    i, j, ids, rng = once.i, once.j, once.task_ids, np.random.default_rng(1)
    copied = Comparisons(ids, i, j, 20.0 * once.wins, np.full(len(i), 20.0))
    utilities = fit_utilities(copied)
    errors = bootstrap_errors(copied, utilities, samples=40, seed=0)
    p = norm.cdf((mu[i] - mu[j]) / np.sqrt(2.0))
    spread = np.std([fit_mu(replace(copied, wins=20.0 * rng.binomial(1, p))) for _ in range(40)], axis=0, ddof=1)
    assert 0.8 < np.median(errors / spread) < 1.3
    assert np.median(utilities.se / spread) < 0.6


def test_a_resample_is_fixed_by_seed_and_number() -> None:
    _, comparisons = dense(12, 3, 0)
    utilities = fit_utilities(comparisons)
    first = bootstrap_mu(comparisons, utilities, samples=4, seed=1)
    np.testing.assert_array_equal(bootstrap_mu(comparisons, utilities, samples=3, seed=1), first[:3])
    assert not np.array_equal(bootstrap_mu(comparisons, utilities, samples=4, seed=2), first)
    np.testing.assert_allclose(first.mean(axis=1), 0.0, atol=1e-9)


def test_whole_pairs_are_drawn() -> None:
    # With one pair every resample is the data; its observations are never torn apart.
    single = Comparisons.from_choices(["a"], ["b"], [0.7], [10.0])
    utilities = fit_utilities(single)
    mu = bootstrap_mu(single, utilities, samples=5, seed=0)
    np.testing.assert_allclose(mu, np.tile(utilities.mu, (5, 1)), atol=1e-3)


def test_tasks_that_resamples_lose_are_left_out_of_them() -> None:
    ids = [f"t{k}" for k in range(10)]
    chain = Comparisons.from_choices(ids[:-1], ids[1:], [0.8] * 9, [5.0] * 9, [*ids, "never"])
    utilities = fit_utilities(chain)
    mu = bootstrap_mu(chain, utilities, samples=60, seed=0)
    lost = np.isnan(mu)
    # Nine draws miss the one pair of an end with probability (8/9)^9 = 0.35.
    assert 0.2 < lost[:, utilities.locate(["t0", "t9"])].mean() < 0.5
    assert lost[:, utilities.locate(["never"])].all()
    errors = bootstrap_errors(chain, utilities, samples=60, seed=0)
    assert np.isfinite(errors).all()
    assert errors[utilities.locate(["never"])] == 10.0
    kept = mu[~lost[:, 1], 1]
    assert errors[1] == pytest.approx(np.std(kept, ddof=1), rel=1e-12)
    with pytest.raises(BadConfig, match="at least 2 resamples"):
        bootstrap_mu(chain, utilities, samples=1, seed=0)
