import numpy as np
from scipy import stats

from prefprobe.features.controls import random_features

IDS = np.array([f"task-{i}" for i in range(200)])


def test_a_row_depends_on_its_id_and_the_seed_alone():
    X = random_features(IDS, 50, seed=3)
    order = np.random.default_rng(0).permutation(200)[:70]
    assert (random_features(IDS[order], 50, seed=3) == X[order]).all()
    assert not (random_features(IDS, 50, seed=4) == X).any()


def test_rows_are_standard_normal_and_unrelated():
    X = random_features(IDS, 500, seed=0)
    assert X.dtype == np.float32
    assert X.shape == (200, 500)
    assert stats.kstest(X.ravel(), "norm").pvalue > 1e-3
    between = np.asarray(np.corrcoef(X))[np.triu_indices(200, 1)]
    assert abs(between.std() * np.sqrt(500) - 1) < 0.05
    assert np.abs(between).max() < 0.3
