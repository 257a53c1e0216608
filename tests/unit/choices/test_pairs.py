"""Pair selection: the promises of the first graph, and those of active learning against a literal enumeration."""

import tracemalloc
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from prefprobe.choices import pairs as module
from prefprobe.choices.pairs import few_pairs, initial_pairs, select_pairs
from prefprobe.errors import BadConfig


def components(n: int, pairs: np.ndarray) -> int:
    """Union-find, as written in every textbook."""
    root = list(range(n))

    def find(k: int) -> int:
        while root[k] != k:
            root[k] = k = root[root[k]]
        return k

    for a, b in pairs.tolist():
        root[find(a)] = find(b)
    return sum(find(k) == k for k in range(n))


def assert_canonical(n: int, pairs: np.ndarray) -> None:
    assert pairs.dtype == np.int64
    assert pairs.shape == (len(pairs), 2)
    rows = [tuple(row) for row in pairs.tolist()]
    assert rows == sorted(set(rows))
    assert all(0 <= a < b < n for a, b in rows)


@given(n=st.integers(0, 60), degree=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_first_graph_is_regular_simple_and_connected(n: int, degree: int, seed: int) -> None:
    pairs = initial_pairs(n, degree, np.random.default_rng(seed))
    assert_canonical(n, pairs)
    if n <= degree + 1:
        assert len(pairs) == n * (n - 1) // 2
        return
    degrees = sorted(np.bincount(pairs.ravel(), minlength=n).tolist())
    assert degrees[:-1] == [degree] * (n - 1)
    assert degrees[-1] == degree + n * degree % 2
    if degree >= 2:
        assert components(n, pairs) == 1


def test_a_ring_of_rings_is_joined() -> None:
    # Matchings of degree 2 are unions of about log n rings, so the repair is at work for nearly every seed.
    for seed in range(20):
        pairs = initial_pairs(200, 2, np.random.default_rng(seed))
        assert components(200, pairs) == 1
        assert set(np.bincount(pairs.ravel())) == {2}


def test_first_graph_is_random_but_reproducible() -> None:
    first, same, other = (initial_pairs(50, 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_the_odd_task_out_is_any_task() -> None:
    for n, degree in ((15, 3), (9, 7)):
        drawn = [initial_pairs(n, degree, np.random.default_rng(seed)) for seed in range(150)]
        assert {int(np.argmax(np.bincount(pairs.ravel()))) for pairs in drawn} == set(range(n))


def test_every_pair_is_equally_likely_in_the_first_graph() -> None:
    n, degree, draws = 12, 3, 600
    times = np.zeros((n, n))
    for seed in range(draws):
        pairs = initial_pairs(n, degree, np.random.default_rng(seed))
        times[pairs[:, 0], pairs[:, 1]] += 1
    share = degree / (n - 1)
    z = (times[np.triu_indices(n, 1)] / draws - share) / np.sqrt(share * (1 - share) / draws)
    assert np.abs(z).max() < 4.5


def test_ten_thousand_tasks_and_one() -> None:
    for n in (10_000, 10_001):
        pairs = initial_pairs(n, 5, np.random.default_rng(0))
        assert_canonical(n, pairs)
        assert sorted(np.bincount(pairs.ravel())) == [5] * (n - 1) + [5 + n % 2]
        assert components(n, pairs) == 1


@pytest.mark.parametrize(("n", "degree"), [(-1, 2), (5, 0)])
def test_impossible_first_graphs_are_refused(n: int, degree: int) -> None:
    with pytest.raises(BadConfig, match="degree"):
        initial_pairs(n, degree, np.random.default_rng(0))


def eligible(mu: np.ndarray, seen: np.ndarray, percentile: float) -> set[tuple[int, int]]:
    """The definition, by enumeration."""
    known = {tuple(sorted(row)) for row in seen.tolist()}
    degree = np.bincount(np.array(sorted(known), dtype=int).reshape(-1, 2).ravel(), minlength=len(mu))
    unseen = [pair for pair in combinations(range(len(mu)), 2) if pair not in known]
    distance = [abs(mu[a] - mu[b]) for a, b in unseen]
    joint = [degree[a] + degree[b] for a, b in unseen]
    close, rare = np.quantile(distance, percentile), np.quantile(joint, percentile)
    return {pair for pair, d, k in zip(unseen, distance, joint, strict=True) if d <= close and k <= rare}


def case(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Utilities, and seen pairs in either order, some of them twice."""
    rng = np.random.default_rng(seed)
    seen = initial_pairs(n, 4, rng)
    seen = np.concatenate([seen, rng.permuted(seen[: n // 2], axis=1)])
    extra = rng.integers(n // 2, size=(2 * n, 2))
    return rng.normal(size=n), np.concatenate([seen, extra[extra[:, 0] != extra[:, 1]]]), rng


@given(n=st.integers(8, 40), seed=st.integers(0, 2**32 - 1), percentile=st.floats(0.05, 1.0))
@settings(deadline=None)
def test_selected_pairs_are_eligible_and_new(n: int, seed: int, percentile: float) -> None:
    mu, seen, rng = case(n, seed)
    allowed = eligible(mu, seen, percentile)
    wanted = len(allowed) // 2
    pairs = select_pairs(mu, seen, wanted, rng, percentile=percentile)
    assert_canonical(n, pairs)
    assert len(pairs) == wanted
    assert {tuple(row) for row in pairs.tolist()} <= allowed


def test_all_eligible_pairs_can_be_drawn_and_no_more_before_relaxing() -> None:
    mu, seen, rng = case(60, 0)
    strict, relaxed = eligible(mu, seen, 0.3), eligible(mu, seen, 0.3 * 1.5)
    assert len(relaxed) > len(strict) + 5
    pairs = select_pairs(mu, seen, len(strict), rng)
    assert {tuple(row) for row in pairs.tolist()} == strict
    pairs = select_pairs(mu, seen, len(strict) + 5, rng)
    assert {tuple(row) for row in pairs.tolist()} <= relaxed
    assert not {tuple(row) for row in pairs.tolist()} <= strict
    assert len(pairs) == len(strict) + 5


def test_when_few_are_unseen_all_of_them_come_back() -> None:
    n = 10
    every = np.array(list(combinations(range(n), 2)))
    pairs = select_pairs(np.arange(n), every[5:, ::-1], 20, np.random.default_rng(0))
    np.testing.assert_array_equal(pairs, every[:5])
    assert select_pairs(np.arange(n), every, 20, np.random.default_rng(0)).shape == (0, 2)
    assert select_pairs([], np.zeros((0, 2)), 5, np.random.default_rng(0)).shape == (0, 2)


def test_draws_are_uniform_over_eligible_pairs() -> None:
    mu, seen, rng = case(30, 1)
    allowed = sorted(eligible(mu, seen, 0.3))
    draws = 3000
    times = dict.fromkeys(allowed, 0)
    for _ in range(draws):
        for row in select_pairs(mu, seen, 5, rng).tolist():
            times[tuple(row)] += 1
    share = 5 / len(allowed)
    z = (np.array(list(times.values())) / draws - share) / np.sqrt(share * (1 - share) / draws)
    assert np.abs(z).max() < 4.5


@pytest.mark.parametrize("n", [60, 2_500])
def test_selection_follows_from_the_generator_and_not_from_the_order_of_what_was_seen(n: int) -> None:
    mu, seen, rng = case(n, 3)
    first = select_pairs(mu, seen, 40, np.random.default_rng(1))
    shuffled = rng.permuted(rng.permutation(seen), axis=1)
    np.testing.assert_array_equal(first, select_pairs(mu, shuffled, 40, np.random.default_rng(1)))
    assert not np.array_equal(first, select_pairs(mu, seen, 40, np.random.default_rng(2)))


def test_sampled_pairs_are_spread_like_all_eligible_ones() -> None:
    n, percentile = 2_500, 0.3
    mu, seen, rng = case(n, 4)
    assert n * (n - 1) // 2 > module._ENUMERATED_PAIRS
    drawn = np.concatenate([select_pairs(mu, seen, 3_000, rng) for _ in range(3)])
    # The definition again, in arrays: 3 million pairs are too many for `eligible`.
    every = np.stack(np.triu_indices(n, 1), axis=1)
    known = np.unique(np.sort(seen, axis=1), axis=0)
    degree = np.bincount(known.ravel(), minlength=n)
    every = every[~np.isin(every @ [n, 1], known @ [n, 1])]
    distance, joint = np.abs(mu[every[:, 0]] - mu[every[:, 1]]), degree[every].sum(axis=1)
    every = every[(distance <= np.quantile(distance, percentile)) & (joint <= np.quantile(joint, percentile))]
    for of in (
        lambda pairs: np.abs(mu[pairs[:, 0]] - mu[pairs[:, 1]]),
        lambda pairs: mu[pairs].mean(axis=1),
        lambda pairs: pairs[:, 0],
        lambda pairs: pairs[:, 1] - pairs[:, 0],
        lambda pairs: degree[pairs].sum(axis=1),
    ):
        assert ks_2samp(of(drawn), of(every)).pvalue > 1e-4


def test_sampled_and_exact_selection_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    mu, seen, rng = case(400, 2)
    allowed = eligible(mu, seen, 0.33)
    monkeypatch.setattr(module, "_ENUMERATED_PAIRS", 0)
    monkeypatch.setattr(module, "_SAMPLED_PAIRS", 20_000)
    pairs = select_pairs(mu, seen, 300, rng)
    assert_canonical(400, pairs)
    assert len(pairs) == 300
    # The percentiles come from a sample of a quarter of the pairs: .30 by then lies well within .33.
    assert {tuple(row) for row in pairs.tolist()} <= allowed


def test_ten_thousand_tasks_take_little_memory() -> None:
    n = 10_000
    rng = np.random.default_rng(0)
    mu, seen = rng.normal(size=n), initial_pairs(n, 12, rng)
    tracemalloc.start()
    try:
        pairs = select_pairs(mu, seen, 5_000, rng)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200e6
    assert_canonical(n, pairs)
    assert len(pairs) == 5_000
    assert not {tuple(row) for row in pairs.tolist()} & {tuple(row) for row in seen.tolist()}
    # Of all pairs 30 % are closer than the .3 quantile of |difference of two normals|.
    assert np.abs(mu[pairs[:, 0]] - mu[pairs[:, 1]]).max() < np.sqrt(2.0) * 0.39


@pytest.mark.parametrize(
    ("mu", "seen", "options", "message"),
    [
        ([0.0, np.nan], [[0, 1]], {}, "Utility 1"),
        ([0.0, 1.0], [[0, 2]], {}, "Seen pairs"),
        ([0.0, 1.0], [[1, 1]], {}, "Seen pairs"),
        ([0.0, 1.0], [[0, 1]], {"percentile": 0.0}, "percentile"),
        ([0.0, 1.0], [[0, 1]], {"relax": 1.0}, "relax"),
    ],
)
def test_bad_input_is_refused(mu: list, seen: list, options: dict, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        select_pairs(mu, seen, 1, np.random.default_rng(0), **options)


@pytest.mark.parametrize("tasks", [2, 3, 7, 8, 60])
def test_pairs_are_spread_over_tasks_and_follow_from_ids_and_seed(tasks: int) -> None:
    ids = [f"task-{i}" for i in range(tasks)]
    every = few_pairs(ids, 10**6, 0)
    assert {frozenset(pair) for pair in every} == {frozenset(pair) for pair in combinations(ids, 2)}
    assert len(every) == tasks * (tasks - 1) // 2
    for n in range(1, len(every) + 1, max(1, len(every) // 50)):
        pairs = few_pairs(reversed(ids), n, 0)
        assert pairs == every[:n]
        counts = Counter(id_ for pair in pairs for id_ in pair)
        assert max(counts.values()) - min(counts.get(id_, 0) for id_ in ids) <= 1 + tasks % 2
    if tasks > 3:
        assert few_pairs(ids, 3, 1) != every[:3]
