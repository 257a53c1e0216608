import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import OneHotEncoder

from prefprobe.probes.demean import TopicMeans


def utilities(n=120, seed=0):
    rng = np.random.default_rng(seed)
    topic = rng.integers(5, size=n)
    return 2.0 * topic + rng.normal(size=n), np.array([f"topic {t}" for t in topic])


def test_residuals_are_those_of_least_squares_on_indicators():
    y, topics = utilities()
    indicators = OneHotEncoder().fit_transform(topics[:, None])
    expected = y - LinearRegression().fit(indicators, y).predict(indicators)
    np.testing.assert_allclose(TopicMeans.fit(y, topics).residual(y, topics), expected, atol=1e-9)


def test_demeaned_utilities_have_no_topic_means():
    y, topics = utilities()
    residual = TopicMeans.fit(y, topics).residual(y, topics)
    for topic in set(topics):
        assert abs(residual[topics == topic].mean()) < 1e-12
    assert residual.std() < 0.7 * y.std()


def test_other_tasks_lose_the_means_of_the_fit():
    means = TopicMeans.fit(np.array([1.0, 3.0, 8.0]), ["math", "math", "prose"])
    got = means.residual(np.array([5.0, 5.0, 5.0]), ["prose", "math", "never seen"])
    assert got.tolist() == pytest.approx([-3, 3, 1])
