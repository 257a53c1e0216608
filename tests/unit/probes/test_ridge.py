import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from prefprobe.errors import BadConfig
from prefprobe.probes import ridge
from prefprobe.probes.leaveout import group_out_predictions
from prefprobe.probes.ridge import ALPHAS, Decomposition, fit, predict

SHAPES = [(120, 20), (25, 80), (40, 40)]


def activations(n, d, seed=0):
    """float32 of mean about 1e3 and sd about 1, strongly correlated, one column constant and one huge."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) * np.geomspace(1, 1e-2, d)[:, None])
    X = X / X.std() + 1e3 * rng.normal(size=d)
    X[:, 3] = 1234.567
    X[:, 5] = 3e4 + 500 * rng.normal(size=n)
    return X.astype(np.float32)


def reference(X, y, alpha, X_new):
    scaler = StandardScaler().fit(X.astype(np.float64))
    model = Ridge(alpha=alpha, solver="svd").fit(scaler.transform(X.astype(np.float64)), y)
    return model.predict(scaler.transform(X_new.astype(np.float64)))


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_predictions_are_those_of_scikit_learn(n, d):
    X, X_new = np.split(activations(n + 30, d), [n])
    Y = np.random.default_rng(1).normal(size=(n, 3)) * [1, 7, 0.1] + [0, 50, -3]
    got = predict(X_new, *fit(Decomposition.of(X), Y))
    for a, alpha in enumerate(ALPHAS):
        worst = np.abs(got[a] - reference(X, Y, alpha, X_new)).max(axis=0) / Y.std(axis=0)
        assert worst.max() < 1e-6


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_small_blocks_give_the_same_weights(n, d, monkeypatch):
    X, y = activations(n, d), np.random.default_rng(1).normal(size=n)
    W, b = fit(Decomposition.of(X), y)
    monkeypatch.setattr(ridge, "_BLOCK", 3 * max(n, d))
    W_blocks, b_blocks = fit(Decomposition.of(X), y)
    # a weak penalty on fewer rows than columns leaves some 1e-10 of the order of summation
    np.testing.assert_allclose(W_blocks, W, rtol=1e-6, atol=1e-9 * np.abs(W).max())
    np.testing.assert_allclose(b_blocks, b, rtol=1e-8)


def test_long_matrices_are_never_float64_as_a_whole(monkeypatch):
    X, y = activations(40_000, 25), np.zeros(40_000)
    monkeypatch.setattr(ridge, "_BLOCK", 1 << 14)
    tracemalloc.start()
    try:
        fit(Decomposition.of(X), y)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.25 * X.size * 8


def test_a_constant_column_gets_no_weight():
    W, _ = fit(Decomposition.of(activations(50, 10)), np.random.default_rng(0).normal(size=50))
    assert np.abs(W[:, 3]).max() == 0
    assert np.abs(W[:, 4]).min() > 0


def test_a_column_that_only_rounding_varies_is_constant():
    X = np.random.default_rng(0).normal(size=(50, 4))
    X[:, 1] = np.where(np.arange(50) % 2, 0.3, 0.1 + 0.2)
    W, _ = fit(Decomposition.of(X), X[:, 1] * 1e16)
    assert np.isinf(Decomposition.of(X).scale).tolist() == [False, True, False, False]
    assert np.abs(W[:, 1] * (X[:, 1].max() - X[:, 1].min())).max() < 1e-10


def test_a_weak_penalty_recovers_a_planted_direction():
    rng = np.random.default_rng(3)
    X, w = rng.normal(size=(500, 8)) * np.arange(1, 9), rng.normal(size=8)
    W, b = fit(Decomposition.of(X), X @ w + 4, 1e-9)
    np.testing.assert_allclose(W[0, :, 0], w, rtol=1e-9)
    assert b[0, 0] == pytest.approx(4, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    shift=st.floats(-1e4, 1e4),
    stretch=st.floats(1e-3, 1e3),
    shape=st.sampled_from([(30, 6), (6, 30)]),
    seed=st.integers(0, 99),
)
def test_units_of_the_features_do_not_matter(shift, stretch, shape, seed):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=shape), rng.normal(size=shape[0])
    units = stretch ** rng.uniform(-1, 1, size=shape[1])
    one = predict(X, *fit(Decomposition.of(X), y))
    other = predict(X * units + shift, *fit(Decomposition.of(X * units + shift), y))
    np.testing.assert_allclose(other, one, atol=1e-6)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_group_out_predictions_are_those_of_refitting(n, d):
    X, rng = activations(n, d), np.random.default_rng(2)
    y = rng.normal(size=n) + 5
    groups = np.array(list("aabbbcddddd"))[rng.integers(11, size=n)]
    got = group_out_predictions(Decomposition.of(X), y, groups)
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    for a, alpha in enumerate(ALPHAS):
        for group in np.unique(groups):
            out = groups == group
            expected = Ridge(alpha=alpha, solver="svd").fit(Z[~out], y[~out]).predict(Z[out])
            np.testing.assert_allclose(got[a, out], expected, atol=1e-6 * y.std())


def test_group_out_predictions_do_not_see_the_group():
    X, rng = activations(60, 20), np.random.default_rng(2)
    y, groups = rng.normal(size=60), np.repeat(np.arange(6), 10)
    changed = np.where(groups == 2, y + 1e3 * rng.normal(size=60), y)
    before, after = (group_out_predictions(Decomposition.of(X), t, groups) for t in (y, changed))
    np.testing.assert_allclose(after[:, groups == 2], before[:, groups == 2], atol=1e-6)
    assert np.abs(after[:, groups != 2] - before[:, groups != 2]).min() > 1e-3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_row(value):
    X, y = activations(30, 10), np.zeros(30)
    X[17, 4] = y[11] = value
    names = [f"task-{i}" for i in range(30)]
    with pytest.raises(BadConfig, match=r"row 17 \(task task-17\)"):
        Decomposition.of(X, names)
    with pytest.raises(BadConfig, match="row 11"):
        fit(Decomposition.of(activations(30, 10)), y)
    with pytest.raises(BadConfig, match="row 11"):
        group_out_predictions(Decomposition.of(activations(30, 10)), y, np.arange(30))


def test_impossible_requests_are_refused():
    decomposition, y = Decomposition.of(activations(30, 10)), np.arange(30.0)
    with pytest.raises(BadConfig, match="positive"):
        fit(decomposition, y, [1.0, 0.0])
    with pytest.raises(BadConfig, match="at least two"):
        group_out_predictions(decomposition, y, np.zeros(30))
    with pytest.raises(BadConfig, match="shape"):
        Decomposition.of(np.zeros((0, 3)))
