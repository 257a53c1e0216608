import itertools

import numpy as np
import pytest
import scipy.stats

from prefprobe.shift.cells import Cells
from prefprobe.shift.permutation import Orders, permutation_p


def grid(prompts=6, tasks=9, seed=0, slope=1.0):
    """x and y with effects of prompts and of tasks, and the cells of which a third is on target."""
    rng = np.random.default_rng(seed)
    x, y = (
        rng.normal(size=(prompts, 1)) + rng.normal(size=(1, tasks)) + rng.normal(size=(prompts, tasks)) for _ in "xy"
    )
    return x, slope * x + y, (np.arange(prompts)[:, None] - np.arange(tasks)) % 3 == 0


def kinds(on):
    everywhere = np.ones_like(on)
    return [Cells(on), Cells(everywhere), Cells(everywhere, everywhere), Cells(on, ~on), Cells(everywhere, ~on)]


def orders(cells, permutations, seed):
    return Orders.of(cells.of.shape, permutations, seed)


def test_orders_are_whole_and_independent():
    found = Orders.of((7, 11), 2000, 3)
    assert (np.sort(found.prompts, axis=1) == np.arange(7)).all()
    assert (np.sort(found.tasks, axis=1) == np.arange(11)).all()
    assert found.prompts.mean(axis=0) == pytest.approx(np.full(7, 3.0), abs=0.15)
    assert abs(np.corrcoef(found.prompts[:, 0], found.tasks[:, 0])[0, 1]) < 0.08


def test_agrees_with_all_permutations_of_a_small_grid():
    """Of every kind of cells: what is taken away is taken away anew from permuted scores."""
    x, y, on = grid(3, 4, seed=1, slope=0.3)
    for cells in kinds(on):
        r = cells.pearson(x, y)
        every = [
            cells.pearson(x, y[np.ix_(a, b)]) >= r - 1e-12
            for a, b in itertools.product(itertools.permutations(range(3)), itertools.permutations(range(4)))
        ]
        p = permutation_p(r, x, y, cells, orders(cells, 20000, 0))
        assert 0.01 < np.mean(every) < 0.9
        assert p == pytest.approx(np.mean(every), abs=0.015)


def test_effects_of_prompts_alone_and_tasks_alone_are_no_evidence():
    """Both Δp and Δs have such effects, unrelated. p is uniform; with cells permuted it would not be."""
    p, naive = [], []
    cells = Cells(np.ones((8, 12), dtype=bool))
    for seed in range(300):
        x, y, _ = grid(8, 12, seed, slope=0.0)
        p.append(permutation_p(cells.pearson(x, y) or 0.0, x, y, cells, orders(cells, 99, seed)))
        naive.append(scipy.stats.pearsonr(x.ravel(), y.ravel(), alternative="greater")[1])
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) < 0.09
    assert np.mean(np.array(naive) <= 0.05) > 0.12


@pytest.mark.parametrize("corrected", [False, True])
def test_on_target_p_is_uniform_when_nothing_is_related(corrected):
    p = []
    on = np.kron(np.eye(4), np.ones((2, 3))) > 0
    cells = Cells(on, ~on if corrected else None)
    for seed in range(1000, 1300):
        x, y, _ = grid(8, 12, seed, slope=0.0)
        p.append(permutation_p(cells.pearson(x, y) or 0.0, x, y, cells, orders(cells, 99, seed)))
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_permutations_that_leave_nothing_to_correlate_count_against():
    """Δs is 0 off target, so most permutations put constants there."""
    on = np.eye(6, dtype=bool)
    x = np.where(on, np.arange(6.0) - 2.5, 0.0)
    assert permutation_p(1.0, x, x, Cells(on), orders(Cells(on), 500, 0)) > 0.3


def test_chunks_change_nothing(monkeypatch):
    x, y, on = grid(slope=0.2)
    for cells in kinds(on):
        r, drawn = cells.pearson(x, y), orders(cells, 300, 0)
        whole = permutation_p(r, x, y, cells, drawn)
        with monkeypatch.context() as patch:
            patch.setattr("prefprobe.shift.permutation._AT_ONCE", 54 * 7)
            assert permutation_p(r, x, y, cells, drawn) == whole
