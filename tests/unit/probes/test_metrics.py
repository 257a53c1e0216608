import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import r2_score

from prefprobe.probes.metrics import (
    accuracy_interval,
    best,
    correlations,
    determination,
    paired_difference,
    pairwise_accuracy,
    pearson,
    r_interval,
    r_within,
    spearman,
)


def correlated(n, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return x, x + noise * rng.normal(size=n)


def known(interval):
    """The interval as numbers; one that could not be estimated fails here."""
    assert interval is not None
    return dict(interval)


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 40).flatmap(lambda n: arrays(np.float64, (2, n), elements=st.integers(-9, 9).map(float))))
def test_correlations_are_those_of_scipy(xy):
    x, y = xy
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert pearson(x, y) is None
        assert spearman(x, y) is None
    else:
        assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_a_large_mean_costs_no_accuracy():
    x, y = correlated(50)
    assert pearson(x + 1e6, y - 1e6) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)


def test_what_cannot_be_estimated_is_none():
    x, y = correlated(5)
    constant = np.full(5, 0.1 + 0.2)
    almost = np.where(np.arange(5) % 2, 0.3, 0.1 + 0.2)
    for a, b in ((x[:2], y[:2]), (x, constant), (constant, y), (x, almost), (x[:0], y[:0])):
        assert pearson(a, b) is None
        assert r_interval(a, b) is None
        assert paired_difference(a, b, b) is None
        assert np.isnan(correlations(a[:, None], b[:, None])).all()
    assert determination(constant, y) is None
    assert determination(x[:2], y[:2]) is None


def test_r2_is_one_less_the_share_of_squared_error():
    x, y = correlated(40)
    assert determination(x, y) == pytest.approx(r2_score(x, y), abs=1e-12)
    assert determination(np.arange(4.0), np.arange(4.0) + 10) == pytest.approx(1 - 400 / 5)


def test_pairwise_accuracy_counts_directions():
    scores = np.array([3.0, 1.0, 2.0, 2.0])
    a, b = np.array([0, 1, 1, 2, 0]), np.array([1, 0, 2, 3, 1])
    # right, wrong (1 over 0), no direction, equal scores, wrong
    accuracy, n = pairwise_accuracy(scores, a, b, np.array([0.9, 1.0, 0.5, 0.2, 0.49]))
    assert n == 4
    assert accuracy == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert pairwise_accuracy(scores, a[:0], b[:0], np.zeros(0)) == (None, 0)
    assert accuracy_interval(scores, a, b, np.full(5, 0.5)) is None


def test_accuracy_does_not_depend_on_which_task_is_shown_first():
    rng = np.random.default_rng(0)
    scores, a, b, p = rng.normal(size=20), rng.integers(20, size=90), rng.integers(20, size=90), rng.random(90)
    assert pairwise_accuracy(scores, a, b, p) == pairwise_accuracy(scores, b, a, 1 - p)


def left_out(n):
    """Positions with one left out at a time."""
    return [np.delete(np.arange(n), i) for i in range(n)]


def jackknife(values):
    """Tukey's formula as it stands in textbooks."""
    values = np.array(values)
    return np.sqrt((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum())


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 30), st.integers(0, 999), st.floats(0.1, 3.0))
def test_a_correlations_interval_is_the_jackknife_by_hand(n, seed, noise):
    x, y = correlated(n, seed, noise)
    se = jackknife([np.arctanh(stats.pearsonr(x[i], y[i]).statistic) for i in left_out(n)])
    reach = stats.t.ppf(0.975, n - 1) * se
    found = known(r_interval(x + 1e3, y))
    bounds = np.tanh(np.arctanh(stats.pearsonr(x, y).statistic) + np.array([-reach, reach]))
    assert (found["se"], found["df"]) == (pytest.approx(se, rel=1e-6), n - 1)
    assert [found["low"], found["high"]] == pytest.approx(bounds.tolist(), abs=1e-7)


def test_an_estimate_that_hangs_on_one_task_has_no_bounds():
    x, y = np.array([0.0, 0, 0, 0, 1]), np.array([0.0, 1, 0, 1, 3])
    assert known(r_interval(x, y)) == {"value": pearson(x, y), "low": None, "high": None, "se": None, "df": None}
    assert known(r_interval(x[2:], y[2:]))["low"] is None
    one = np.zeros(4, np.int64)
    found = known(accuracy_interval(np.arange(5.0), one, np.arange(1, 5), np.zeros(4)))
    assert (found["value"], found["low"]) == (1, None)


def test_an_accuracy_lies_between_0_and_1_and_so_do_its_bounds():
    a, b = np.triu_indices(8, 1)
    p = np.zeros(len(a))
    p[0] = 1.0  # all but one choice is right, or wrong
    for scores in (np.arange(8.0), -np.arange(8.0)):
        found = known(accuracy_interval(scores, a, b, p))
        assert 0 <= found["low"] < found["value"] < found["high"] <= 1
        assert not 0 < found["value"] - 3 * found["se"] < found["value"] + 3 * found["se"] < 1


@pytest.mark.parametrize("pairs", [5, 30, 200])
def test_a_perfect_accuracy_of_few_choices_is_not_known_to_be_perfect(pairs):
    scores, a, b = np.arange(2.0 * pairs), np.arange(pairs), np.arange(pairs) + pairs
    found = known(accuracy_interval(scores, a, b, np.zeros(pairs)))
    assert (found["value"], found["high"]) == (1, 1)
    wilson = stats.binomtest(pairs, pairs).proportion_ci(method="wilson").low
    assert found["low"] == pytest.approx(wilson, abs=0.1 if pairs == 5 else 0.01)
    wrong = known(accuracy_interval(-scores, a, b, np.zeros(pairs)))
    assert (wrong["value"], wrong["low"]) == (0, 0)
    assert wrong["high"] == pytest.approx(1 - found["low"])


def test_accuracy_has_the_error_of_choices_that_share_a_task():
    """Summed pair by pair of choices, as the formula stands in Aronow et al.: sum of e e' over all that share a task."""
    rng = np.random.default_rng(0)
    n, m = 400, 1500
    scores, a = rng.normal(size=n), rng.integers(n, size=m)
    b = (a + rng.integers(1, n, size=m)) % n
    p = np.where(rng.random(m) < stats.norm.cdf(scores[a] - scores[b] + rng.normal(size=n)[a]), 1.0, 0.0)
    error = ((scores[a] > scores[b]) == (p > 0.5)) - (value := np.mean((scores[a] > scores[b]) == (p > 0.5)))
    share = (a[:, None] == a) | (a[:, None] == b) | (b[:, None] == a) | (b[:, None] == b)
    found = known(accuracy_interval(scores, a, b, p))
    assert found["value"] == pytest.approx(value)
    assert found["se"] == pytest.approx(np.sqrt(error @ share @ error) / m, rel=0.02)
    assert known(accuracy_interval(scores, b, a, 1 - p)) == pytest.approx(found)
    twice = known(accuracy_interval(scores, np.tile(a, 2), np.tile(b, 2), np.tile(p, 2)))
    assert twice["se"] == pytest.approx(found["se"], rel=0.02)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 9).flatmap(lambda n: arrays(np.float64, (4, n, 2), elements=st.integers(-4, 4).map(float))))
def test_columns_correlate_as_single_ones(values):
    x, y = values[0], values[1:]
    found = correlations(x, y)
    for k in range(3):
        for t in range(2):
            r = pearson(x[:, t], y[k][:, t])
            assert np.isnan(found[k, t]) if r is None else found[k, t] == pytest.approx(r, abs=1e-12)


def test_intervals_cover_the_truth():
    """Also of values with heavy tails, for which 1 / sqrt(n - 3) covers 83 % at r = .9."""
    for rho, tails in ((0.6, 200), (0.9, 5)):
        hits = 0
        for seed in range(400):
            rng = np.random.default_rng(seed)
            x, noise = rng.standard_t(tails, size=(2, 60))
            interval = known(r_interval(x, rho * x + np.sqrt(1 - rho**2) * noise))
            hits += interval["low"] <= rho <= interval["high"]
        assert 0.92 <= hits / 400 <= 0.98


def test_paired_difference_is_of_the_same_tasks():
    rng = np.random.default_rng(0)
    y = rng.normal(size=80)
    first = y + rng.normal(size=80)
    second = first + 0.3 * rng.normal(size=80)
    difference = known(paired_difference(y, first, second))
    one, two = (known(r_interval(y, x)) for x in (first, second))
    assert difference["value"] == pytest.approx(one["value"] - two["value"])
    se = jackknife([np.corrcoef(y[i], first[i])[0, 1] - np.corrcoef(y[i], second[i])[0, 1] for i in left_out(80)])
    assert (difference["se"], difference["df"]) == (pytest.approx(se), 79)
    assert difference["high"] - difference["value"] == pytest.approx(stats.t.ppf(0.975, 79) * se)
    unpaired = np.hypot(one["high"] - one["low"], two["high"] - two["low"])
    assert difference["high"] - difference["low"] < 0.6 * unpaired
    same = known(paired_difference(y, first, first))
    assert [same[k] for k in ("value", "low", "high")] == [0, 0, 0]


def test_best_takes_the_first_of_the_largest():
    assert best([0.1, 0.7, None, 0.7]) == 1
    assert best([None, -0.4, -0.2]) == 2
    assert best([None, None, None]) == 2


def halves(n):
    return np.arange(n) % 2 + 1


@settings(max_examples=40, deadline=None)
@given(st.integers(10, 30), st.integers(0, 999), st.floats(0.1, 3.0), st.floats(1e-3, 1e3), st.floats(-9, 9))
def test_within_halves_the_scale_and_the_level_of_each_probe_count_for_nothing(n, seed, noise, scale, level):
    x, y = correlated(n, seed, noise)
    half = halves(n)
    moved = np.where(half == 1, y, scale * y + level)
    assert r_within(x, moved, half) == pytest.approx(r_within(x, y, half), abs=1e-7)
    assert known(r_interval(x, moved, half)) == pytest.approx(known(r_interval(x, y, half)), rel=1e-4)
    assert known(paired_difference(x, moved, y, half))["value"] == pytest.approx(0, abs=1e-7)
    assert r_within(x, y, np.zeros(n, np.int64)) == pearson(x, y)


def test_r_within_halves_and_its_jackknife_by_hand():
    x, y = correlated(25, 3, 0.8)
    half = halves(25)

    def z(kept):
        parts = [kept[half[kept] == h] for h in (1, 2)]
        return (
            sum(
                (half == h).sum() * np.arctanh(np.corrcoef(x[i], y[i])[0, 1])
                for h, i in zip((1, 2), parts, strict=True)
            )
            / 25
        )

    found = known(r_interval(x, y, half))
    assert found["value"] == pytest.approx(np.tanh(z(np.arange(25))))
    assert (found["se"], found["df"]) == (pytest.approx(jackknife([z(i) for i in left_out(25)])), 23)


def test_a_half_without_variance_leaves_no_estimate():
    x, y = correlated(20, 0, 0.5)
    half = halves(20)
    still = np.where(half == 1, 1.0, y)
    assert r_within(x, still, half) is None
    assert r_interval(x, still, half) is None
    assert paired_difference(x, y, still, half) is None
