import itertools

import numpy as np
import pytest
import scipy.stats

from prefprobe.shift.resampling import Draws, interval, permutation_p


def grid(prompts=6, tasks=9, seed=0, slope=1.0):
    """x and y with effects of prompts and of tasks, and the cells of which a third is on target."""
    rng = np.random.default_rng(seed)
    x, y = (
        rng.normal(size=(prompts, 1)) + rng.normal(size=(1, tasks)) + rng.normal(size=(prompts, tasks)) for _ in "xy"
    )
    return x, slope * x + y, (np.arange(prompts)[:, None] - np.arange(tasks)) % 3 == 0


@pytest.mark.parametrize("which", ["on_target", "pooled", "centred"])
def test_is_a_bootstrap_of_whole_prompts_and_tasks(which):
    """Against explicit resamples: every cell repeated as often as it is drawn."""
    given_x, given_y, on = grid()
    cells = on if which == "on_target" else np.ones_like(on)
    draws = Draws.of(cells, 300, 1, 5)
    values = []
    for w, v in zip(draws.prompt_counts.astype(int), draws.task_counts.astype(int), strict=True):
        copies = np.where(cells, np.outer(w, v), 0)
        if (copies > 0).sum() < 3:
            continue
        x, y = given_x, given_y
        if which == "centred":
            total = np.maximum(copies.sum(axis=1, keepdims=True), 1)
            x, y = (m - (m * copies).sum(axis=1, keepdims=True) / total for m in (x, y))
        values.append(np.corrcoef(np.repeat(x, copies.ravel()), np.repeat(y, copies.ravel()))[0, 1])
    found = interval(0.5, given_x, given_y, cells, draws, centred=which == "centred")
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist(), abs=1e-9)
    assert found["value"] == 0.5


def test_draws_are_of_full_size_and_independent():
    draws = Draws.of(np.ones((7, 11), dtype=bool), 2000, 50, 3)
    assert (draws.prompt_counts.sum(axis=1) == 7).all()
    assert (draws.task_counts.sum(axis=1) == 11).all()
    assert draws.prompt_counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)
    assert abs(np.corrcoef(draws.prompt_counts[:, 0], draws.task_counts[:, 0])[0, 1]) < 0.08
    assert (np.sort(draws.prompt_orders, axis=1) == np.arange(7)).all()
    assert (np.sort(draws.task_orders, axis=1) == np.arange(11)).all()


@pytest.mark.parametrize(("prompt_part", "rho"), [(0.7, 0.0), (0.7, 0.8), (0.0, 0.8)])
def test_covers_the_truth_where_prompts_differ(prompt_part, rho):
    """Resampling cells as if independent covers in 59 % and 54 % of the first two worlds, in 97 % of the third."""
    rng = np.random.default_rng(0)
    mixing = np.linalg.cholesky([[1, rho], [rho, 1]])
    cells, hits = np.ones((10, 12), dtype=bool), []
    for seed in range(150):
        prompt, cell = (np.einsum("ij,jpt->ipt", mixing, rng.normal(size=(2, 10, n))) for n in (1, 12))
        x, y = np.sqrt(prompt_part) * prompt + np.sqrt(1 - prompt_part) * cell
        found = interval(0.0, x, y, cells, Draws.of(cells, 300, 1, seed))
        hits.append(found["low"] <= rho <= found["high"])
    assert np.mean(hits) >= 0.88


def test_agrees_with_all_permutations_of_a_small_grid():
    x, y, on = grid(3, 4, seed=1, slope=0.3)
    for cells in (on, np.ones_like(on)):
        r = np.corrcoef(x[cells], y[cells])[0, 1]
        orders = itertools.product(itertools.permutations(range(3)), itertools.permutations(range(4)))
        every = [np.corrcoef(x[cells], y[np.ix_(a, b)][cells])[0, 1] >= r - 1e-12 for a, b in orders]
        assert 0.05 < np.mean(every) < 0.6
        p = permutation_p(r, x, y, cells, Draws.of(cells, 1, 20000, 0))
        assert p == pytest.approx(np.mean(every), abs=0.015)


def test_effects_of_prompts_alone_and_tasks_alone_are_no_evidence():
    """Both Δp and Δs have such effects, unrelated. p is uniform; with cells permuted it would not be."""
    p, naive = [], []
    cells = np.ones((8, 12), dtype=bool)
    for seed in range(300):
        x, y, _ = grid(8, 12, seed, slope=0.0)
        r = float(np.corrcoef(x.ravel(), y.ravel())[0, 1])
        p.append(permutation_p(r, x, y, cells, Draws.of(cells, 1, 99, seed)))
        naive.append(scipy.stats.pearsonr(x.ravel(), y.ravel(), alternative="greater")[1])
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) < 0.09
    assert np.mean(np.array(naive) <= 0.05) > 0.12


def test_on_target_p_is_uniform_when_nothing_is_related():
    p = []
    on = np.kron(np.eye(4), np.ones((2, 3))) > 0
    for seed in range(1000, 1300):
        x, y, _ = grid(8, 12, seed, slope=0.0)
        r = float(np.corrcoef(x[on], y[on])[0, 1])
        p.append(permutation_p(r, x, y, on, Draws.of(on, 1, 99, seed)))
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_permutations_that_leave_nothing_to_correlate_count_against():
    """Δs is 0 off target, so most permutations put constants there."""
    on = np.eye(6, dtype=bool)
    x = np.where(on, np.arange(6.0) - 2.5, 0.0)
    assert permutation_p(1.0, x, x, on, Draws.of(on, 1, 500, 0)) > 0.3
