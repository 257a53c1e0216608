import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import r2_score

from prefprobe.probes import metrics
from prefprobe.probes.metrics import (
    RESAMPLES,
    accuracy_interval,
    best,
    determination,
    fold_mean_interval,
    paired_difference,
    pairwise_accuracy,
    pearson,
    pearson_interval,
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


def draws(n, seed):
    """Index arrays of the resamples that `seed` stands for."""
    return [np.repeat(np.arange(n), c.astype(int)) for c in metrics._resample_counts(n, seed)]


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
        assert pearson_interval(a, b, seed=0) is None
        assert paired_difference(a, b, b, seed=0) is None
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
    assert accuracy_interval(scores, a, b, np.full(5, 0.5), seed=0) is None


def test_accuracy_does_not_depend_on_which_task_is_shown_first():
    rng = np.random.default_rng(0)
    scores, a, b, p = rng.normal(size=20), rng.integers(20, size=90), rng.integers(20, size=90), rng.random(90)
    assert pairwise_accuracy(scores, a, b, p) == pairwise_accuracy(scores, b, a, 1 - p)


def test_interval_bounds_are_percentiles_of_resampled_tasks():
    x, y = correlated(25)
    values = [stats.pearsonr(x[i], y[i]).statistic for i in draws(25, 7)]
    interval = known(pearson_interval(x, y, seed=7))
    assert interval["value"] == pearson(x, y)
    assert (interval["low"], interval["high"]) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-9)


def test_accuracy_bounds_are_percentiles_of_resampled_tasks():
    rng = np.random.default_rng(0)
    scores, a, b, p = rng.normal(size=12), rng.integers(12, size=60), rng.integers(12, size=60), rng.random(60)
    right = np.where(a == b, 0.5, (scores[a] > scores[b]) == (p > 0.5))
    values = []
    for i in draws(12, 3):
        copies = np.bincount(i, minlength=12)
        rows = np.repeat(np.arange(60), copies[a] * copies[b])
        if len(rows):
            values.append(right[rows].mean())
    interval = known(accuracy_interval(scores, a, b, p, seed=3))
    assert (interval["low"], interval["high"]) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-9)


def test_intervals_cover_the_truth():
    rho, hits = 0.6, 0
    for seed in range(200):
        x, y = correlated(60, seed, noise=np.sqrt(1 / rho**2 - 1))
        interval = known(pearson_interval(x, y, seed=seed))
        hits += interval["low"] <= rho <= interval["high"]
    assert 0.89 <= hits / 200 <= 0.99


def test_rows_of_one_task_are_drawn_together():
    x, y = correlated(30)
    tasks = np.array([f"t{i:02d}" for i in range(30)])
    plain = known(pearson_interval(x, y, seed=1))
    assert pearson_interval(x, y, seed=1, tasks=tasks) == pytest.approx(plain)
    assert pearson_interval(np.tile(x, 3), np.tile(y, 3), seed=1, tasks=np.tile(tasks, 3)) == pytest.approx(plain)
    as_if_independent = known(pearson_interval(np.tile(x, 3), np.tile(y, 3), seed=1))
    assert as_if_independent["high"] - as_if_independent["low"] < 0.8 * (plain["high"] - plain["low"])


def test_paired_difference_uses_the_same_resamples_for_both():
    rng = np.random.default_rng(0)
    y = rng.normal(size=80)
    first = y + rng.normal(size=80)
    second = first + 0.3 * rng.normal(size=80)
    difference = known(paired_difference(y, first, second, seed=0))
    one, two = known(pearson_interval(y, first, seed=0)), known(pearson_interval(y, second, seed=1))
    assert difference["value"] == pytest.approx(one["value"] - two["value"])
    unpaired = np.hypot(one["high"] - one["low"], two["high"] - two["low"])
    assert difference["high"] - difference["low"] < 0.6 * unpaired
    assert paired_difference(y, first, first, seed=0) == {"value": 0, "low": 0, "high": 0}


def test_fold_means_resample_folds():
    r, n = np.random.default_rng(0).uniform(0.2, 0.9, size=8), np.arange(1.0, 9)
    folds = np.arange(8)[:, None]
    plain = known(fold_mean_interval(list(r), folds, seed=5))
    weighted = known(fold_mean_interval(list(r), folds, seed=5, weights=n))
    assert plain["value"] == pytest.approx(r.mean())
    assert weighted["value"] == pytest.approx(np.average(r, weights=n))
    for interval, w in ((plain, np.ones(8)), (weighted, n)):
        means = [np.average(r[i], weights=w[i]) for i in draws(8, 5)]
        assert [interval["low"], interval["high"]] == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist())


def test_folds_that_share_topics_are_not_independent():
    """r of a fold of two is the mean of two topics' values: 28 folds hold no more than 8 topics' information."""
    of_topic = np.random.default_rng(0).uniform(0.2, 0.9, size=8)
    pairs = np.array([(i, j) for i in range(8) for j in range(i)])
    r = of_topic[pairs].mean(axis=1)
    interval = known(fold_mean_interval(list(r), pairs, seed=5))
    as_if_independent = known(fold_mean_interval(list(r), np.arange(28)[:, None], seed=5))
    topics = known(fold_mean_interval(list(of_topic), np.arange(8)[:, None], seed=5))
    width = {
        k: i["high"] - i["low"] for k, i in (("pairs", interval), ("naive", as_if_independent), ("topics", topics))
    }
    assert interval["value"] == pytest.approx(topics["value"])
    assert width["naive"] < 0.75 * width["topics"] < width["pairs"] < 1.3 * width["topics"]


def test_folds_without_an_estimate_are_left_out():
    folds = np.arange(5)[:, None]
    with_gap = known(fold_mean_interval([0.1, None, 0.3, 0.5, 0.4], folds, seed=0, weights=np.array([1.0, 9, 1, 1, 1])))
    assert with_gap["value"] == pytest.approx(0.325)
    assert with_gap["low"] is not None
    assert fold_mean_interval([None] * 5, folds, seed=0) is None
    of_two = known(fold_mean_interval([0.1, 0.2], folds[:2], seed=0))
    assert of_two == {"value": pytest.approx(0.15), "low": None, "high": None}


def test_resamples_are_seeded_and_of_full_size():
    counts = metrics._resample_counts(9, 4)
    assert counts.shape == (RESAMPLES, 9)
    assert (counts.sum(axis=1) == 9).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(9), abs=0.1)
    assert (counts == metrics._resample_counts(9, 4)).all()
    assert (counts != metrics._resample_counts(9, 5)).any()


def test_best_takes_the_first_of_the_largest():
    assert best([0.1, 0.7, None, 0.7]) == 1
    assert best([None, -0.4, -0.2]) == 2
    assert best([None, None, None]) == 2
