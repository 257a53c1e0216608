"""The Thurstonian fit against brute force, planted truth and the symmetries that any fit of choices must have."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad, minimize
from scipy.special import log_ndtr
from scipy.stats import norm

from prefprobe.errors import BadConfig
from prefprobe.thurstonian import laplace
from prefprobe.thurstonian.fit import Comparisons, Utilities, fit_mu, fit_utilities, predict, to_table
from prefprobe.thurstonian.likelihood import Point, Posterior
from prefprobe.thurstonian.published import published_objective


def names(n: int) -> np.ndarray:
    return np.array([f"t{k:04d}" for k in range(n)])


def ring_and_random(n: int, m: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A connected graph: a ring, and `m` random pairs on top of it."""
    first, second = (
        np.append(np.arange(n), rng.integers(n, size=m)),
        np.append((np.arange(n) + 1) % n, rng.integers(n, size=m)),
    )
    keys = np.unique((np.minimum(first, second) * n + np.maximum(first, second))[first != second])
    return keys // n, keys % n


def simulate(n: int, m: int, repeats: int, seed: int) -> tuple[np.ndarray, np.ndarray, Comparisons]:
    """True mu and log sigma, and choices sampled from them."""
    rng = np.random.default_rng([seed, n, m])
    mu, log_sigma = rng.normal(0.0, 1.5, n), rng.normal(0.0, 0.5, n)
    i, j = ring_and_random(n, m, rng)
    p = norm.cdf((mu[i] - mu[j]) / np.sqrt(np.exp(2 * log_sigma[i]) + np.exp(2 * log_sigma[j])))
    wins = rng.binomial(repeats, p).astype(float)
    return mu - mu.mean(), log_sigma, Comparisons(tuple(names(n)), i, j, wins, np.full(len(i), float(repeats)))


def posterior_of(comparisons: Comparisons, prior_sd: float = 10.0, penalty: float = 1.0) -> Posterior:
    losses = comparisons.count - comparisons.wins
    return Posterior(
        len(comparisons.task_ids), comparisons.i, comparisons.j, comparisons.wins, losses, prior_sd, penalty
    )


def point_of(comparisons: Comparisons, utilities: Utilities, prior_sd: float = 10.0) -> Point:
    return Point(posterior_of(comparisons, prior_sd), np.stack([utilities.mu, np.log(utilities.sigma)]))


# Observations


def test_both_orders_of_a_pair_are_merged() -> None:
    merged = Comparisons.from_choices(["b", "a", "c"], ["a", "b", "a"], [0.25, 1.0, 0.0], [2.0, 1.0, 3.0])
    assert merged.task_ids == ("a", "b", "c")
    assert merged.i.tolist() == [0, 0]
    assert merged.j.tolist() == [1, 2]
    assert merged.wins.tolist() == [2 * 0.75 + 1.0, 3.0]
    assert merged.count.tolist() == [3.0, 3.0]
    assert merged.degree.tolist() == [2, 1, 1]


def test_tasks_stand_in_the_order_that_was_given() -> None:
    order = ["c", "z", "a", "b"]
    merged = Comparisons.from_choices(["b", "a", "c"], ["a", "b", "a"], [0.25, 1.0, 0.0], [2.0, 1.0, 3.0], order)
    assert merged.task_ids == ("c", "z", "a", "b")
    assert (merged.i.tolist(), merged.j.tolist()) == ([0, 2], [2, 3])
    assert merged.wins.tolist() == [0.0, 2 * 0.75 + 1.0]
    assert merged.degree.tolist() == [1, 0, 2, 1]
    logits = Comparisons.from_logits(["a", "b"], ["b", "a"], [0.5, -0.5], pa.array(["b", "a"]))
    assert logits.task_ids == ("b", "a")
    np.testing.assert_allclose(logits.wins / logits.count, 1 / (1 + np.exp(0.5)), rtol=1e-14)


def test_a_list_of_tasks_has_every_task_and_has_it_once() -> None:
    with pytest.raises(BadConfig, match=r"row 1.*'c', which the task ids lack"):
        Comparisons.from_choices(["a", "b"], ["b", "c"], [1.0, 1.0], task_ids=["b", "a"])
    with pytest.raises(BadConfig, match=r"'b' more than once"):
        Comparisons.from_choices(["a"], ["b"], [1.0], task_ids=["a", "b", "c", "b"])


def test_a_pair_without_observations_is_no_comparison() -> None:
    merged = Comparisons.from_choices(["a", "b"], ["b", "c"], [1.0, 1.0], [0.0, 2.0])
    assert merged.task_ids == ("a", "b", "c")
    assert merged.degree.tolist() == [0, 1, 1]


def test_logits_weigh_both_orders_the_same() -> None:
    # Position bias +1 towards the first task; the preference of a over b is 0.5. One order was asked three times.
    merged = Comparisons.from_logits(["a", "a", "b", "a"], ["b", "b", "a", "b"], [1.5, 1.4, 0.5, 1.6])
    assert merged.count.tolist() == [4.0]
    np.testing.assert_allclose(merged.wins / merged.count, 1 / (1 + np.exp(-0.5)), rtol=1e-14)


def test_arrow_and_numpy_columns_are_read_alike() -> None:
    a, b, p = ["x", "y", "é"], ["y", "é", "x"], [1.0, 0.5, 0.0]
    plain = Comparisons.from_choices(a, b, p)
    for wrap in (np.array, pa.array, lambda ids: pa.chunked_array([ids[:1], ids[1:]])):
        other = Comparisons.from_choices(wrap(a), wrap(b), np.array(p))
        assert other.task_ids == plain.task_ids
        np.testing.assert_array_equal(other.wins, plain.wins)


@pytest.mark.parametrize(
    ("a", "b", "p", "count", "message"),
    [
        (["a", "b"], ["b", "a"], [0.5, np.nan], None, "row 1.*p_a = nan"),
        (["a", "b"], ["b", "a"], [1.01, 0.5], None, "row 0.*p_a"),
        (["a", "b"], ["b", "a"], [0.5, -0.01], None, "row 1.*p_a"),
        (["a", "b"], ["c", "b"], [0.5, 0.5], None, "row 1.*'b' with itself"),
        (["a", "b"], ["b", "a"], [0.5, 0.5], [1.0, -1.0], "row 1.*count"),
        (["a", "b"], ["b", "a"], [0.5, 0.5], [np.inf, 1.0], "row 0.*count"),
        (["a", "b"], ["b"], [0.5, 0.5], None, "task_a has 2 rows"),
        (["a", "b"], ["b", "a"], [0.5], None, "p_a has shape"),
        (["a", "b"], ["b", "a"], ["x", "y"], None, "p_a is not numeric"),
        (["a", None], ["b", "a"], [0.5, 0.5], None, "row 1.*task_a"),
        (["a", 7], ["b", "a"], [0.5, 0.5], None, "task_a, row 1"),
    ],
)
def test_bad_rows_are_named(a: list, b: list, p: list, count: list | None, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        Comparisons.from_choices(a, b, p, count)


def test_a_logit_that_is_not_finite_is_named() -> None:
    with pytest.raises(BadConfig, match=r"row 1.*logit"):
        Comparisons.from_logits(["a", "b"], ["b", "a"], [0.0, np.inf])


# The objective


def literal_objective(theta: np.ndarray, comparisons: Comparisons, prior_sd: float, penalty: float) -> float:
    """The formula, one pair after the other."""
    mu, log_sigma = theta.reshape(2, -1)
    total = float(np.sum(mu**2) / (2 * prior_sd**2) + penalty * np.sum(log_sigma**2))
    for i, j, wins, count in zip(comparisons.i, comparisons.j, comparisons.wins, comparisons.count, strict=True):
        spread = np.sqrt(np.exp(log_sigma[i]) ** 2 + np.exp(log_sigma[j]) ** 2)
        z = (mu[i] - mu[j]) / spread
        total -= wins * norm.logcdf(z) + (count - wins) * norm.logcdf(-z)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_are_those_of_the_formula(seed: int) -> None:
    _, _, comparisons = simulate(9, 20, 3, seed)
    theta = np.random.default_rng(seed).normal(size=(2, 9))
    posterior = posterior_of(comparisons, 3.0, 0.7)
    literal = literal_objective(theta, comparisons, 3.0, 0.7)
    assert Point(posterior, theta).value == pytest.approx(literal, rel=1e-12)
    error = check_grad(
        lambda x: literal_objective(x, comparisons, 3.0, 0.7),
        lambda x: Point(posterior, x.reshape(2, -1)).gradient.ravel(),
        theta.ravel(),
        epsilon=1e-7,
    )
    assert error < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_hessian_product_is_the_derivative_of_the_gradient(seed: int) -> None:
    _, _, comparisons = simulate(30, 90, 3, seed)
    rng = np.random.default_rng(seed)
    theta, v = rng.normal(size=(2, 30)), rng.normal(size=(2, 30))
    posterior, step = posterior_of(comparisons), 1e-5
    numeric = (Point(posterior, theta + step * v).gradient - Point(posterior, theta - step * v).gradient) / (2 * step)
    np.testing.assert_allclose(Point(posterior, theta).hessian_product(v), numeric, rtol=1e-6, atol=1e-6)


def test_expected_information_is_the_hessian_of_data_that_follow_the_model_exactly() -> None:
    _, _, comparisons = simulate(30, 90, 3, 0)
    rng = np.random.default_rng(1)
    theta, v = rng.normal(size=(2, 30)), rng.normal(size=(2, 30))
    i, j, count = comparisons.i, comparisons.j, comparisons.count
    p = norm.cdf((theta[0][i] - theta[0][j]) / np.hypot(np.exp(theta[1][i]), np.exp(theta[1][j])))
    point = Point(Posterior(30, i, j, count * p, count * (1 - p), 10.0, 1.0), theta)
    np.testing.assert_allclose(point.scoring_product(v), point.hessian_product(v), rtol=1e-9, atol=1e-9)


def test_tails_keep_their_digits() -> None:
    z = np.concatenate([np.linspace(-37.0, 37.0, 2001), [-1e4, 1e4, -45.0, 45.0, 0.0]])
    n = len(z)
    theta = np.zeros((2, 2 * n))
    theta[0, :n] = np.sqrt(2.0) * z
    point = Point(Posterior(2 * n, np.arange(n), np.arange(n, 2 * n), np.ones(n), np.ones(n), 10.0, 1.0), theta)
    np.testing.assert_allclose(point.log_win, log_ndtr(point.z), rtol=1e-12)
    np.testing.assert_allclose(point.log_loss, log_ndtr(-point.z), rtol=1e-12)
    assert np.isfinite(point.gradient).all()
    assert (point.second >= 0.0).all()


# The fit


@pytest.mark.parametrize("seed", range(4))
def test_fit_finds_the_minimum_that_brute_force_finds(seed: int) -> None:
    _, _, comparisons = simulate(5, 8, 3, seed)
    utilities = fit_utilities(comparisons, prior_sd=4.0, log_sigma_penalty=0.8)
    theta = np.concatenate([utilities.mu, np.log(utilities.sigma)])
    brute = minimize(literal_objective, np.zeros(10), (comparisons, 4.0, 0.8), tol=1e-9, options={"gtol": 1e-6})
    assert utilities.report.objective == pytest.approx(brute.fun, abs=1e-6)
    np.testing.assert_allclose(theta, brute.x, atol=1e-3)
    assert utilities.report.converged
    assert utilities.report.max_gradient < 1e-6


def test_planted_utilities_are_recovered() -> None:
    mu, log_sigma, comparisons = simulate(120, 2500, 60, 0)
    utilities = fit_utilities(comparisons)
    assert np.corrcoef(utilities.mu, mu)[0, 1] > 0.995
    assert np.corrcoef(np.log(utilities.sigma), log_sigma)[0, 1] > 0.9
    assert np.polyfit(mu, utilities.mu, 1)[0] == pytest.approx(1.0, abs=0.05)


def test_exact_probabilities_give_back_the_utilities_they_came_from() -> None:
    mu, log_sigma, comparisons = simulate(40, 500, 1, 1)
    i, j = comparisons.i, comparisons.j
    p = norm.cdf((mu[i] - mu[j]) / np.hypot(np.exp(log_sigma[i]), np.exp(log_sigma[j])))
    exact = Comparisons(comparisons.task_ids, i, j, 1e5 * p, np.full(len(p), 1e5))
    utilities = fit_utilities(exact)
    # The penalty still fixes the common scale, which choices do not determine.
    scale = np.exp(np.mean(np.log(utilities.sigma) - log_sigma))
    np.testing.assert_allclose(utilities.mu, scale * mu, atol=0.02)
    np.testing.assert_allclose(utilities.sigma, scale * np.exp(log_sigma), rtol=0.02)


def test_intervals_cover_the_truth() -> None:
    inside: list[np.ndarray] = []
    for seed in range(12):
        mu, _, comparisons = simulate(100, 900, 6, seed)
        utilities = fit_utilities(comparisons)
        inside.append(np.abs(utilities.mu - mu) < 1.96 * utilities.se)
    assert 0.93 < np.mean(inside) < 0.97


def test_standard_errors_are_those_of_the_inverted_information() -> None:
    _, _, comparisons = simulate(25, 60, 4, 0)
    utilities = fit_utilities(comparisons, prior_sd=3.0)
    point = point_of(comparisons, utilities, 3.0)
    columns = [point.scoring_product(unit.reshape(2, 25)).ravel() for unit in np.eye(50)]
    inverse = np.linalg.inv(np.stack(columns))[:25, :25]
    centre = np.eye(25) - 1 / 25
    np.testing.assert_allclose(utilities.se, np.sqrt(np.diag(centre @ inverse @ centre)), rtol=1e-9)


def test_a_prior_as_wide_as_you_like_costs_no_digits_of_the_standard_errors() -> None:
    _, _, comparisons = simulate(25, 60, 4, 0)
    wide, wider = fit_utilities(comparisons, prior_sd=1e5), fit_utilities(comparisons, prior_sd=1e7)
    np.testing.assert_allclose(wide.se, wider.se, rtol=1e-6)


def test_standard_errors_by_messages_are_exact_on_a_tree() -> None:
    rng = np.random.default_rng(0)
    n = 40
    parent = np.array([rng.integers(k) for k in range(1, n)])
    tree = Comparisons(tuple(names(n)), parent, np.arange(1, n), rng.uniform(0, 3, n - 1), np.full(n - 1, 3.0))
    point = point_of(tree, fit_utilities(tree, prior_sd=2.0), 2.0)
    exact, messages = laplace.standard_errors(point), laplace.standard_errors(point, exact_tasks=5)
    # On a tree the messages know the common shift of all tasks, variance prior_sd^2 / n, that cycles hide from them.
    np.testing.assert_allclose(messages**2 - 2.0**2 / n, exact**2, rtol=1e-4)


def test_standard_errors_by_messages_are_close_on_a_graph() -> None:
    _, _, comparisons = simulate(400, 2000, 4, 0)
    point = point_of(comparisons, fit_utilities(comparisons))
    ratio = laplace.standard_errors(point, exact_tasks=100) / laplace.standard_errors(point)
    assert np.abs(np.median(ratio) - 1.0) < 0.01
    assert ratio.min() > 0.93
    assert ratio.max() < 1.03


# Symmetries


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_rows_in_any_order_give_the_same_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(8, size=(2, 60))
    a, b = a[a != b], b[a != b]
    p, count = rng.random(len(a)), rng.uniform(0.1, 3.0, len(a))
    logit = rng.normal(size=len(a))
    order = rng.permutation(len(a))
    ids = names(8)
    merged = Comparisons.from_choices(ids[a], ids[b], p, count)
    again = Comparisons.from_choices(ids[a][order], ids[b][order], p[order], count[order])
    assert merged.wins.tobytes() == again.wins.tobytes()
    assert merged.count.tobytes() == again.count.tobytes()
    from_logits = Comparisons.from_logits(ids[a], ids[b], logit)
    again = Comparisons.from_logits(ids[a][order], ids[b][order], logit[order])
    assert from_logits.wins.tobytes() == again.wins.tobytes()
    first, second = (
        fit_utilities(merged),
        fit_utilities(Comparisons.from_choices(ids[a][order], ids[b][order], p[order], count[order])),
    )
    assert first.mu.tobytes() == second.mu.tobytes()
    assert first.se.tobytes() == second.se.tobytes()


def test_names_do_not_matter() -> None:
    _, _, comparisons = simulate(40, 200, 4, 3)
    shuffled = np.random.default_rng(0).permutation(40)
    ids = names(40)
    renamed = Comparisons.from_choices(
        ids[shuffled[comparisons.i]],
        ids[shuffled[comparisons.j]],
        comparisons.wins / comparisons.count,
        comparisons.count,
    )
    before, after = fit_utilities(comparisons), fit_utilities(renamed)
    np.testing.assert_allclose(after.mu[shuffled], before.mu, atol=1e-6)
    np.testing.assert_allclose(after.sigma[shuffled], before.sigma, atol=1e-6)
    np.testing.assert_allclose(after.se[shuffled], before.se, atol=1e-6)


def test_swapping_first_and_second_task_changes_nothing() -> None:
    a, b, p = ["x", "y", "z", "x"], ["y", "z", "x", "z"], np.array([1.0, 0.25, 0.5, 0.75])
    np.testing.assert_array_equal(
        fit_utilities(Comparisons.from_choices(a, b, p)).mu, fit_utilities(Comparisons.from_choices(b, a, 1.0 - p)).mu
    )


def test_opposite_choices_give_opposite_utilities() -> None:
    _, _, comparisons = simulate(30, 100, 4, 5)
    opposite = Comparisons(
        comparisons.task_ids, comparisons.i, comparisons.j, comparisons.count - comparisons.wins, comparisons.count
    )
    before, after = fit_utilities(comparisons), fit_utilities(opposite)
    np.testing.assert_allclose(after.mu, -before.mu, atol=1e-9)
    np.testing.assert_allclose(after.sigma, before.sigma, atol=1e-9)
    assert after.report.always_win == before.report.always_lose


def test_soft_counts_equal_repeated_hard_choices() -> None:
    soft = Comparisons.from_choices(["a", "b", "c"], ["b", "c", "a"], [0.75, 0.5, 0.25], [4.0, 4.0, 4.0])
    hard = Comparisons.from_choices(
        ["a"] * 4 + ["b"] * 4 + ["c"] * 4,
        ["b"] * 4 + ["c"] * 4 + ["a"] * 4,
        [1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0],
    )
    np.testing.assert_array_equal(fit_utilities(soft).mu, fit_utilities(hard).mu)


def test_a_warm_start_ends_at_the_same_place_sooner() -> None:
    _, _, comparisons = simulate(200, 1500, 4, 0)
    cold = fit_utilities(comparisons)
    rng = np.random.default_rng(0)
    start = cold.mu + 5.0 + 0.05 * rng.normal(size=200), np.log(cold.sigma) + 0.05 * rng.normal(size=200)
    warm = fit_utilities(comparisons, start=start)
    np.testing.assert_allclose(warm.mu, cold.mu, atol=1e-6)
    np.testing.assert_allclose(warm.se, cold.se, atol=1e-6)
    assert warm.report.iterations < cold.report.iterations


def test_mu_alone_is_that_of_the_fit_but_for_its_last_digits() -> None:
    _, _, comparisons = simulate(200, 1500, 4, 0)
    whole = fit_utilities(comparisons)
    for start in (None, (whole.mu + 0.01, np.log(whole.sigma))):
        mu = fit_mu(comparisons, start=start)
        np.testing.assert_allclose(mu, whole.mu, atol=0.01)
        assert abs(mu.sum()) < 1e-9


# What the data do not say


def test_gauge_and_tasks_that_were_never_compared() -> None:
    _, _, alone = simulate(20, 60, 3, 0)
    wider = Comparisons((*alone.task_ids, "x1", "x2"), alone.i, alone.j, alone.wins, alone.count)
    utilities, without = fit_utilities(wider, prior_sd=7.0), fit_utilities(alone, prior_sd=7.0)
    assert abs(utilities.mu.sum()) < 1e-9
    assert utilities.mu[20:].tolist() == [0.0, 0.0]
    assert utilities.sigma[20:].tolist() == [1.0, 1.0]
    assert utilities.se[20:].tolist() == [7.0, 7.0]
    assert utilities.comparisons[20:].tolist() == [0, 0]
    assert utilities.report.components == 3
    np.testing.assert_allclose(utilities.mu[:20], without.mu, atol=1e-9)
    np.testing.assert_allclose(utilities.se[:20], without.se, atol=1e-9)


def test_components_are_each_centred_and_unsure_of_their_offset() -> None:
    a, b, p = ["a", "b", "a", "x"], ["b", "c", "c", "y"], [0.8, 0.7, 0.9, 0.9]
    apart = fit_utilities(Comparisons.from_choices(a, b, p))
    joined = fit_utilities(Comparisons.from_choices([*a, "c"], [*b, "x"], [*p, 0.5]))
    assert apart.report.components == 2
    assert joined.report.components == 1
    np.testing.assert_allclose([apart.mu[:3].sum(), apart.mu[3:].sum()], 0.0, atol=1e-9)
    # Two of five tasks share an unknown offset of variance 10^2 (1/2 - 1/5) on top of their own difference.
    assert (apart.se[3:] > np.sqrt(30.0)).all()
    assert (joined.se < np.sqrt(30.0)).all()


def test_a_task_that_always_wins_stays_finite_and_is_named() -> None:
    ids = names(6)
    a, b = np.triu_indices(6, 1)
    p = np.where(a == 0, 1.0, 0.5)
    p[(a == 0) & (b == 5)] = 0.9995
    utilities = fit_utilities(Comparisons.from_choices(ids[a], ids[b], p, np.full(len(a), 50.0)))
    assert utilities.report.converged
    assert utilities.report.always_win == ("t0000",)
    assert utilities.report.always_lose == ()
    assert np.isfinite(utilities.mu).all()
    assert np.argmax(utilities.mu) == 0
    assert utilities.se[0] == utilities.se.max()
    p[(a == 0) & (b == 5)] = 0.9985
    assert fit_utilities(Comparisons.from_choices(ids[a], ids[b], p)).report.always_win == ()


def test_a_total_order_converges_and_is_kept() -> None:
    ids = names(30)
    a, b = np.triu_indices(30, 1)
    utilities = fit_utilities(Comparisons.from_choices(ids[a], ids[b], np.ones(len(a)), np.full(len(a), 20.0)))
    assert utilities.report.converged
    assert (np.diff(utilities.mu) < 0.0).all()
    assert utilities.report.agreement == 1.0
    assert utilities.report.always_win == ("t0000",)
    assert utilities.report.always_lose == ("t0029",)


def test_agreement_is_the_share_of_soft_observations() -> None:
    report = fit_utilities(
        Comparisons.from_choices(["a", "b", "c"], ["b", "c", "a"], [0.9, 0.8, 0.4], [1.0, 1.0, 2.0])
    ).report
    assert report.agreement == pytest.approx((0.9 + 0.8 + 2 * 0.6) / 4)


def test_tasks_without_any_choice_can_be_fitted() -> None:
    utilities = fit_utilities(Comparisons.from_choices([], [], [], task_ids=["a", "b"]))
    assert utilities.mu.tolist() == [0.0, 0.0]
    assert utilities.report.agreement is None
    assert utilities.report.components == 2


def test_too_few_iterations_are_reported() -> None:
    _, _, comparisons = simulate(20, 60, 3, 0)
    report = fit_utilities(comparisons, max_iterations=1).report
    assert report.iterations == 1
    assert not report.converged
    assert report.max_gradient > 1e-2


def test_bad_settings_are_refused() -> None:
    _, _, comparisons = simulate(6, 5, 3, 0)
    with pytest.raises(BadConfig, match="prior_sd"):
        fit_utilities(comparisons, prior_sd=0.0)
    with pytest.raises(BadConfig, match="log_sigma_penalty"):
        fit_utilities(comparisons, log_sigma_penalty=np.nan)
    with pytest.raises(BadConfig, match="start"):
        fit_utilities(comparisons, start=(np.zeros(5), np.zeros(6)))
    with pytest.raises(BadConfig, match="start"):
        fit_utilities(comparisons, start=(np.zeros(6), np.full(6, np.nan)))
    with pytest.raises(BadConfig, match="no tasks"):
        fit_utilities(Comparisons.from_choices([], [], []))


# Predictions and the table


def test_predictions_follow_the_formula_in_both_directions() -> None:
    _, _, comparisons = simulate(6, 10, 3, 0)
    utilities = fit_utilities(comparisons)
    a, b = ["t0003", "t0000"], ["t0001", "t0005"]
    literal = [
        norm.cdf((utilities.mu[i] - utilities.mu[j]) / np.sqrt(utilities.sigma[i] ** 2 + utilities.sigma[j] ** 2))
        for i, j in ((3, 1), (0, 5))
    ]
    np.testing.assert_allclose(predict(utilities, a, b), literal, rtol=1e-12)
    np.testing.assert_allclose(predict(utilities, a, b) + predict(utilities, b, a), 1.0, rtol=1e-12)
    with pytest.raises(BadConfig, match=r"'nobody' \(row 1\)"):
        predict(utilities, ["t0000", "nobody"], b)


def test_table_has_the_columns_of_the_contract() -> None:
    _, _, comparisons = simulate(6, 10, 3, 0)
    utilities = fit_utilities(comparisons)
    table = to_table(utilities)
    assert table.schema == pa.schema(
        {
            "task_id": pa.string(),
            "mu": pa.float64(),
            "sigma": pa.float64(),
            "se": pa.float64(),
            "comparisons": pa.int64(),
        }
    )
    assert table["task_id"].to_pylist() == sorted(utilities.task_ids)
    np.testing.assert_array_equal(table["mu"].to_numpy(), utilities.mu)
    np.testing.assert_array_equal(table["comparisons"].to_numpy(), comparisons.degree)


# The published procedure


def published(comparisons: Comparisons) -> tuple[np.ndarray, np.ndarray, float]:
    """The published procedure on a full matrix of wins, as its description reads: mu, sigma and the objective."""
    n = len(comparisons.task_ids)
    wins = np.zeros((n, n))
    wins[comparisons.i, comparisons.j] = comparisons.wins
    wins[comparisons.j, comparisons.i] = comparisons.count - comparisons.wins

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        mu, log_sigma = np.append(0.0, x[: n - 1]), x[n - 1 :]
        sigma = np.exp(log_sigma)
        spread = np.sqrt(sigma[:, None] ** 2 + sigma[None, :] ** 2)
        z = (mu[:, None] - mu[None, :]) / spread
        p = np.clip(norm.cdf(z), 1e-10, 1 - 1e-10)
        by_z = -wins / p * norm.pdf(z) * (p == norm.cdf(z))
        by_mu = (by_z / spread).sum(1) - (by_z / spread).sum(0)
        by_spread = -by_z * z / spread
        by_log_sigma = ((by_spread + by_spread.T) / spread).sum(1) * sigma**2
        value = float(np.sum(log_sigma**2) - np.sum(wins * np.log(p)))
        return value, np.append(by_mu[1:], by_log_sigma + 2 * log_sigma)

    bounds = [(-10.0, 10.0)] * (n - 1) + [(-2.0, 2.0)] * n
    options = {"maxiter": 1000, "maxfun": 50000, "gtol": 1.0, "ftol": 1e-8}
    result = minimize(loss, np.zeros(2 * n - 1), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.append(0.0, result.x[: n - 1]), np.exp(result.x[n - 1 :]), float(result.fun)


@pytest.mark.parametrize(("n", "m", "repeats"), [(8, 10, 2), (60, 300, 5), (60, 30, 1)])
def test_compat_is_the_published_procedure(n: int, m: int, repeats: int) -> None:
    _, _, comparisons = simulate(n, m, repeats, 0)
    mu, sigma, objective = published(comparisons)
    utilities = fit_utilities(comparisons, compat=True)
    assert utilities.report.objective == pytest.approx(objective, rel=1e-9)
    np.testing.assert_allclose(utilities.mu, mu, atol=1e-7)
    np.testing.assert_allclose(utilities.sigma, sigma, rtol=1e-7)
    form = published_objective(comparisons, utilities.mu, np.log(utilities.sigma))
    assert utilities.report.objective == pytest.approx(form, rel=1e-12)
    assert utilities.mu[0] == 0.0
    assert np.abs(utilities.mu).max() <= 10.0
    assert np.abs(np.log(utilities.sigma)).max() <= 2.0 + 1e-12
    assert np.isfinite(utilities.se).all()


def test_the_first_task_is_the_gauge_of_compat_and_no_other_place_in_the_order_matters() -> None:
    _, _, sorted_ = simulate(60, 300, 5, 0)
    ids, p = names(60), sorted_.wins / sorted_.count

    def fitted(order: np.ndarray, compat: bool) -> tuple[Comparisons, Utilities]:
        ordered = Comparisons.from_choices(ids[sorted_.i], ids[sorted_.j], p, sorted_.count, ids[order])
        return ordered, fit_utilities(ordered, compat=compat)

    rest = np.random.default_rng(0).permutation(np.arange(1, 60))
    before, (_, same) = fit_utilities(sorted_, compat=True), fitted(np.append(0, rest), True)
    np.testing.assert_allclose(same.mu[same.locate(ids)], before.mu, atol=1e-7)
    ordered, other = fitted(np.append(rest, 0), True)
    mu, _, objective = published(ordered)
    assert other.mu[0] == 0.0
    assert other.report.objective == pytest.approx(objective, rel=1e-9)
    np.testing.assert_allclose(other.mu, mu, atol=1e-7)
    # not the same utilities in another gauge: it stops early, on another path
    shift = other.mu[other.locate(ids)] - before.mu
    assert np.ptp(shift) > 1e-3
    assert np.corrcoef(other.mu[other.locate(ids)], before.mu)[0, 1] > 0.95
    default = fit_utilities(sorted_)
    for order in (np.append(0, rest), np.append(rest, 0)):
        _, again = fitted(order, False)
        np.testing.assert_allclose(again.mu[again.locate(ids)], default.mu, atol=1e-6)


def test_compat_and_default_agree_on_the_ranking() -> None:
    _, _, comparisons = simulate(100, 900, 6, 0)
    default, compat = fit_utilities(comparisons), fit_utilities(comparisons, compat=True)
    assert np.corrcoef(default.mu, compat.mu)[0, 1] > 0.98


def test_standard_errors_of_exact_probabilities_are_what_repetition_gives():
    # the same pairs again and again, each time with another noise of the pairs and the same position bias
    rng = np.random.default_rng(0)
    truth, n = rng.normal(0, 0.5, 40), 40
    first, second = np.triu_indices(n, 1)
    kept = rng.choice(len(first), 200, replace=False)
    first, second = first[kept], second[kept]
    ids = np.array([f"t{k:02d}" for k in range(n)])
    mus, ses = [], []
    for _ in range(60):
        noise = rng.normal(0, 0.3, len(first))
        gap = truth[first] - truth[second] + noise
        a, b = np.concatenate([first, second]), np.concatenate([second, first])
        fitted = fit_utilities(Comparisons.from_logits(ids[a], ids[b], np.concatenate([gap, -gap]) + 1.7))
        mus.append(fitted.mu)
        ses.append(fitted.se)
    ratio = np.mean(ses, axis=0) / np.std(mus, axis=0)
    assert 0.85 < np.median(ratio) < 1.15
    assert fitted.report.dispersion < 0.1  # a sampled answer would scatter ten times as much


def test_sampled_choices_have_no_dispersion_and_unmeasured_tasks_keep_the_prior():
    assert fit_utilities(Comparisons.from_choices(["a", "b"], ["b", "c"], [1.0, 0.0])).report.dispersion == 1.0
    exact = fit_utilities(Comparisons.from_logits(["a", "b", "a"], ["b", "c", "c"], [0.1, 0.2, 0.4], list("abcz")))
    assert exact.se[-1] == 10.0
    assert exact.se[:3].max() < 1.0
