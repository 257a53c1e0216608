"""The fit against other people's: choix, and the published procedure written down again from its definition.

The posterior is not convex in sigma, so fits are compared by objective and correlation and not value by value.
"""

from pathlib import Path

import choix
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm, spearmanr

from prefprobe.choices.pairs import initial_pairs, select_pairs
from prefprobe.thurstonian.choice_files import read_choices
from prefprobe.thurstonian.fit import Comparisons, Utilities, fit_mu, fit_utilities, posterior_of
from prefprobe.thurstonian.published import fit_published, published_objective

ALL_SIGMA_1 = 1e6
"""A penalty on log sigma that leaves the Thurstone model with equal sigma, case V."""


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(spearmanr(a, b).statistic)


def chance(mu: np.ndarray, sigma: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    i, j = pairs.T
    return np.asarray(norm.cdf((mu[i] - mu[j]) / np.hypot(sigma[i], sigma[j])))


def merged(pairs: np.ndarray, wins: np.ndarray, samples: int, n: int) -> Comparisons:
    ids = np.array([f"t{k:04d}" for k in range(n)])
    i, j = pairs.T
    return Comparisons.from_choices(ids[i], ids[j], wins / samples, np.full(len(i), float(samples)), ids)


def random_choices(
    n: int, m: int, samples: int, seed: int, log_sigma_sd: float = 0.5
) -> tuple[np.ndarray, np.ndarray, Comparisons]:
    """True mu (mean 0) and sigma, and `samples` choices of each of `m` random pairs."""
    rng = np.random.default_rng([seed, n, m, samples])
    mu, sigma = rng.normal(size=n), np.exp(rng.normal(0.0, log_sigma_sd, n))
    pairs = np.stack(np.triu_indices(n, 1), axis=1)
    pairs = pairs[np.sort(rng.choice(len(pairs), m, replace=False))]
    return mu - mu.mean(), sigma, merged(pairs, rng.binomial(samples, chance(mu, sigma, pairs)), samples, n)


# choix


def winners_and_losers(comparisons: Comparisons) -> list[tuple[int, int]]:
    rows = []
    for i, j, wins, count in zip(comparisons.i, comparisons.j, comparisons.wins, comparisons.count, strict=True):
        rows += [(int(i), int(j))] * round(wins) + [(int(j), int(i))] * round(count - wins)
    return rows


def test_utilities_and_errors_are_those_of_expectation_propagation() -> None:
    # choix has P = Phi(theta_i - theta_j) and a prior of precision alpha: theta = mu / sqrt(2) and alpha = 2 / 10^2.
    _, _, comparisons = random_choices(40, 500, 2, 0, log_sigma_sd=0.0)
    theta, covariance = choix.ep_pairwise(40, winners_and_losers(comparisons), 0.02, model="probit")
    utilities = fit_utilities(comparisons, log_sigma_penalty=ALL_SIGMA_1)
    np.testing.assert_allclose(utilities.sigma, 1.0, atol=1e-3)
    assert pearson(utilities.mu, theta) > 0.999
    assert np.polyfit(theta, utilities.mu, 1)[0] == pytest.approx(np.sqrt(2.0), rel=0.05)
    centre = np.eye(40) - 1.0 / 40.0
    errors = np.sqrt(2.0 * np.diag(centre @ covariance @ centre))
    np.testing.assert_allclose(utilities.se, errors, rtol=0.1)


def test_the_ranking_is_that_of_bradley_and_terry() -> None:
    _, _, comparisons = random_choices(60, 1200, 5, 1, log_sigma_sd=0.0)
    strength = choix.opt_pairwise(60, winners_and_losers(comparisons), alpha=0.01)
    for penalty, least in ((ALL_SIGMA_1, 0.999), (1.0, 0.99)):
        mu = fit_utilities(comparisons, log_sigma_penalty=penalty).mu
        assert pearson(mu, strength) > least
        assert spearman(mu, strength) > least


# The published procedure, from its definition


def definition(theta: np.ndarray, rows: list[tuple[int, int, float]]) -> float:
    """Minus the log-likelihood of (winner, loser, count) with P clipped, plus sum (log sigma)^2; theta is mu, then log sigma."""
    mu, log_sigma = theta.reshape(2, -1)
    value = float(np.sum(log_sigma**2))
    for winner, loser, count in rows:
        spread = np.sqrt(np.exp(log_sigma[winner]) ** 2 + np.exp(log_sigma[loser]) ** 2)
        p = norm.cdf((mu[winner] - mu[loser]) / spread)
        value -= count * np.log(min(max(p, 1e-10), 1.0 - 1e-10))
    return value


def by_definition(n: int, rows: list[tuple[int, int, float]], gtol: float, ftol: float) -> np.ndarray:
    """theta (2, n) of L-BFGS-B from zero with mu_0 = 0, by numerical derivatives."""
    bounds = [(-10.0, 10.0)] * (n - 1) + [(-2.0, 2.0)] * n
    options = {"gtol": gtol, "ftol": ftol, "maxiter": 1000, "maxfun": 10**6}

    def free(x: np.ndarray) -> float:
        return definition(np.append(0.0, x), rows)

    result = minimize(free, np.zeros(2 * n - 1), method="L-BFGS-B", bounds=bounds, options=options)
    return np.append(0.0, result.x).reshape(2, n)


def test_the_published_procedure_with_refusals_as_wins_of_b(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n, names = 9, [f"t{k}" for k in range(9)]
    lines, rows = ["task_a,task_b,choice"], []
    for a, b in (rng.choice(n, 2, replace=False) for _ in range(120)):
        word = str(rng.choice(["a", "b", "refusal"], p=[0.3 + 0.04 * a, 0.6 - 0.04 * a, 0.1]))
        lines.append(f"{names[a]},{names[b]},{word}")
        rows.append((a, b, 1.0) if word == "a" else (b, a, 1.0))
    path = tmp_path / "choices.csv"
    path.write_text("\n".join(lines))
    comparisons = read_choices(path).comparisons(refusals_lose=True)
    assert comparisons.count.sum() == 120
    ours, theirs = fit_utilities(comparisons, compat=True), by_definition(n, rows, 1.0, 1e-8)
    assert ours.report.objective == pytest.approx(definition(theirs, rows), rel=1e-4)
    assert pearson(ours.mu, theirs[0]) > 0.999
    assert spearman(ours.mu, theirs[0]) > 0.98


def test_every_fit_is_as_good_in_the_published_form_as_its_own_optimum() -> None:
    _, _, comparisons = random_choices(10, 40, 10, 2)
    lost = comparisons.count - comparisons.wins
    rows = [*zip(comparisons.i, comparisons.j, comparisons.wins, strict=True)]
    rows += zip(comparisons.j, comparisons.i, lost, strict=True)
    best = by_definition(10, rows, 1e-2, 1e-12)
    least = definition(best, rows)
    default = fit_utilities(comparisons)
    compat = fit_published(posterior_of(comparisons), 1000, gtol=1e-4, ftol=0.0)
    for mu, log_sigma in (np.stack([default.mu, np.log(default.sigma)]), compat[0]):
        value = published_objective(comparisons, mu, log_sigma)
        assert value == pytest.approx(definition(np.concatenate([mu, log_sigma]), rows), rel=1e-9)
        # The prior on mu is not in this form, so the default fit may be a little above its optimum.
        assert least - 1e-2 < value < least + 0.1
        assert pearson(mu, best[0]) > 0.999
        assert spearman(mu, best[0]) > 0.99
    assert compat[1] == pytest.approx(published_objective(comparisons, *compat[0]), rel=1e-9)


# Planted truth


def coverage(truths: list[np.ndarray], fits: list[Utilities]) -> float:
    return float(np.mean([np.abs(u.mu - mu) < 1.96 * u.se for mu, u in zip(truths, fits, strict=True)]))


@pytest.mark.parametrize(("m", "samples"), [(3000, 1), (900, 5)])
def test_intervals_cover_what_was_planted(m: int, samples: int) -> None:
    truths, fits = [], []
    for seed in range(10):
        mu, sigma, comparisons = random_choices(120, m, samples, seed)
        truths.append(mu)
        fits.append(fit_utilities(comparisons))
        assert pearson(np.log(fits[-1].sigma), np.log(sigma)) > 0.3
    assert 0.925 < coverage(truths, fits) < 0.975


def test_close_pairs_with_few_samples_stretch_the_scale_and_keep_the_order() -> None:
    # What the docstring of `Utilities.se` warns of: active learning, three samples a pair.
    truths, fits = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        mu, sigma = rng.normal(size=200), np.exp(rng.normal(0.0, 0.5, 200))
        pairs, wins, new = np.zeros((0, 2), dtype=np.int64), np.zeros(0), initial_pairs(200, 5, rng)
        for _ in range(6):
            pairs = np.concatenate([pairs, new])
            wins = np.concatenate([wins, rng.binomial(3, chance(mu, sigma, new))])
            comparisons = merged(pairs, wins, 3, 200)
            new = select_pairs(fit_mu(comparisons), pairs, 200, rng)
        truths.append(mu - mu.mean())
        fits.append(fit_utilities(comparisons))
    slopes = [np.polyfit(mu, u.mu, 1)[0] for mu, u in zip(truths, fits, strict=True)]
    assert np.mean(slopes) > 1.2
    assert coverage(truths, fits) < 0.9
    assert min(spearman(u.mu, mu) for mu, u in zip(truths, fits, strict=True)) > 0.9


# Choices that contradict each other


def test_a_circle_of_choices_says_that_all_are_equal() -> None:
    utilities = fit_utilities(Comparisons.from_choices(["a", "b", "c"], ["b", "c", "a"], [1.0] * 3, [100.0] * 3))
    assert utilities.report.converged
    np.testing.assert_allclose(utilities.mu, 0.0, atol=1e-6)
    assert np.ptp(utilities.sigma) < 1e-6
    assert utilities.report.agreement == pytest.approx(0.5, abs=0.2)
    assert (utilities.report.always_win, utilities.report.always_lose) == ((), ())


def test_a_task_that_beats_the_best_and_loses_to_the_worst_has_the_widest_sigma() -> None:
    n = 12
    i, j = np.triu_indices(n, 1)
    names = np.array([f"t{k:02d}" for k in range(n)])
    p = chance(-0.4 * np.arange(n), np.ones(n), np.stack([i, j], axis=1))
    odd = np.array(["odd"] * n)
    utilities = fit_utilities(
        Comparisons.from_choices(
            np.append(names[i], odd),
            np.append(names[j], names),
            np.append(p, np.arange(n) % 2),
            np.full(len(p) + n, 10.0),
        )
    )
    assert utilities.report.converged
    assert utilities.task_ids[int(np.argmax(utilities.sigma))] == "odd"
    assert utilities.sigma.max() > 1.5 * np.median(utilities.sigma)
    assert abs(utilities.mu[utilities.locate(["odd"])[0]]) < 0.5
