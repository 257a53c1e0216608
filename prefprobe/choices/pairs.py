"""Which pairs of tasks to compare: a random regular graph first, then the pairs that would tell most.

Pairs are (m, 2) int64 arrays of task numbers 0 .. n-1, the smaller one first, rows sorted, no pair twice. Everything
random comes from the generator that is handed in.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from prefprobe.errors import BadConfig

Pairs = npt.NDArray[np.int64]
Keys = npt.NDArray[np.int64]
"""A pair as one number, smaller * n + larger; sorted and distinct wherever it is returned."""

_ENUMERATED_PAIRS = 2_000_000
"""Every pair of up to 2,000 tasks is looked at; beyond that a random sample of pairs stands for all of them."""

_SAMPLED_PAIRS = 500_000


def initial_pairs(n: int, degree: int, rng: np.random.Generator) -> Pairs:
    """Random graph on `n` tasks in which each has `degree` comparisons: the configuration model, in linear time.

    With n * degree odd one random task has degree + 1. With n <= degree + 1 all pairs are returned. There are no pairs
    of a task with itself and no duplicates, and the graph is connected whenever degree >= 2.
    Raises BadConfig for n < 0 or degree < 1.
    """
    if n < 0 or degree < 1:
        raise BadConfig(f"Initial pairs need n >= 0 and degree >= 1, got n = {n} and degree = {degree}; change them.")
    if n <= degree + 1:
        return _unpack(_all_keys(n), n)
    missing = n - 1 - degree
    if missing < degree:
        # In a dense graph nearly every swap hits an existing pair, so draw the few pairs to leave out instead. The odd
        # one out lacks a missing pair and so has degree + 1 too. With degree >= n / 2 the graph is connected (Dirac).
        left_out = _regular_keys(n, missing, -1, rng)
        return _unpack(np.setdiff1d(_all_keys(n), left_out, assume_unique=True), n)
    keys = _regular_keys(n, degree, 1, rng)
    return _unpack(_connect(keys, n) if degree >= 2 else keys, n)


def few_pairs(ids: Iterable[str], n: int, seed: int) -> list[tuple[str, str]]:
    """`n` pairs of ids, or all there are, the same ones whatever order the ids come in.

    As in a tournament no id is in a second pair before every other one was in a first (but one, of an odd number), and so on.
    """
    drawn = np.random.default_rng([seed, 7]).permutation(np.array(sorted(ids))).tolist()
    return list(islice(_tournament(drawn), n))


def _tournament(names: list[str]) -> Iterator[tuple[str, str]]:
    """Every pair of names, in rounds in which each has one opponent: neighbours first; one stays, the others go round."""
    one_side: list[str | None] = [*names[::2]]
    other_side: list[str | None] = [*names[1::2], *([None] if len(names) % 2 else [])]
    places = one_side + other_side[::-1]
    for _ in range(len(places) - 1):
        for one, two in zip(places[: len(places) // 2], reversed(places), strict=False):
            if one is not None and two is not None:
                yield one, two
        places.insert(1, places.pop())


def select_pairs(
    mu: npt.ArrayLike,
    seen: npt.ArrayLike,
    n_pairs: int,
    rng: np.random.Generator,
    *,
    percentile: float = 0.3,
    relax: float = 1.5,
) -> Pairs:
    """Unseen pairs whose outcome is open and whose tasks were compared little: the next batch of active learning.

    A pair qualifies if both its |mu_i - mu_j| and its joint degree (comparisons of i plus those of j in `seen`) are at
    most the `percentile` quantile of the same quantity over all unseen pairs. While fewer than `n_pairs` qualify, the
    percentile is multiplied by `relax`, up to all unseen pairs. `n_pairs` of the qualifying ones are drawn uniformly;
    fewer come back only when fewer are unseen.

    `mu` is (n,), `seen` (k, 2) in any order. Up to 2,000 tasks this is exact. Above, quantiles and candidates come from
    a uniform random sample of the unseen pairs, at least 500,000 and 20 times `n_pairs`, so that memory does not grow
    with n^2. Raises BadConfig for utilities that are not finite, task numbers out of range or parameters out of range.
    """
    value = np.asarray(mu, dtype=np.float64)
    n = len(value)
    old = np.asarray(seen, dtype=np.int64).reshape(-1, 2)
    if not np.isfinite(value).all():
        raise BadConfig(
            f"Utility {int(np.argmin(np.isfinite(value)))} (from 0) is not finite; fit the utilities again."
        )
    if old.size and (old.min() < 0 or old.max() >= n or (old[:, 0] == old[:, 1]).any()):
        raise BadConfig(f"Seen pairs must join two different tasks numbered 0 to {n - 1}; use the order of mu.")
    if n_pairs < 0 or not 0.0 < percentile <= 1.0 or not relax > 1.0:
        raise BadConfig(
            f"Pair selection needs n_pairs >= 0, 0 < percentile <= 1 and relax > 1, "
            f"got {n_pairs}, {percentile} and {relax}; change them."
        )
    known = _distinct(_pack(old[:, 0], old[:, 1], n))
    pool = _unseen_keys(n, known, max(_SAMPLED_PAIRS, 20 * n_pairs), rng)
    if len(pool) <= n_pairs:
        return _unpack(pool, n)
    distance = np.abs(value[pool // n] - value[pool % n])
    degree = np.bincount(_unpack(known, n).ravel(), minlength=n)
    joint = degree[pool // n] + degree[pool % n]
    while True:
        close, rare = np.quantile(distance, percentile), np.quantile(joint, percentile)
        eligible = np.flatnonzero((distance <= close) & (joint <= rare))
        if len(eligible) >= n_pairs:
            return _unpack(np.sort(pool[rng.choice(eligible, n_pairs, replace=False)]), n)
        percentile = min(1.0, percentile * relax)


def _pack(first: Pairs, second: Pairs, n: int) -> Keys:
    return np.minimum(first, second) * n + np.maximum(first, second)


def _unpack(keys: Keys, n: int) -> Pairs:
    return np.stack([keys // n, keys % n], axis=1) if n else np.zeros((0, 2), dtype=np.int64)


def _distinct(keys: Keys) -> Keys:
    """Sorted without repeats; several times faster on these sizes than the hash table of np.unique."""
    ordered = np.sort(keys)
    first = np.ones(len(ordered), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return np.asarray(ordered[first])


def _all_keys(n: int) -> Keys:
    first, second = np.triu_indices(n, 1)
    return np.asarray(first * n + second, dtype=np.int64)


def _regular_keys(n: int, degree: int, odd: int, rng: np.random.Generator) -> Keys:
    """Configuration model with repair: (about) n * degree / 2 pairs; for an odd sum one task's degree changes by `odd`.

    Each task has as many stubs as comparisons, and a random matching of stubs makes the pairs. Loops and duplicates,
    O(degree^2) of them whatever n is, are mixed with as many random other pairs and matched anew until none is left.
    """
    stubs = np.full(n, degree)
    if n * degree % 2:
        stubs[rng.integers(n)] += odd
    while True:
        pairs = rng.permutation(np.repeat(np.arange(n), stubs)).reshape(-1, 2)
        bad = _unusable(pairs, n)
        for _ in range(100):
            if not len(bad):
                return np.sort(_pack(pairs[:, 0], pairs[:, 1], n))
            mixed = np.union1d(bad, rng.integers(len(pairs), size=len(bad) + 1))
            trial = pairs.copy()
            trial[mixed] = rng.permutation(pairs[mixed].ravel()).reshape(-1, 2)
            bad_after = _unusable(trial, n)
            if len(bad_after) <= len(bad):
                pairs, bad = trial, bad_after
        # A small dense graph can have no way out by single swaps; then another matching does.


def _unusable(pairs: Pairs, n: int) -> npt.NDArray[np.int64]:
    """Rows that pair a task with itself or repeat an earlier row."""
    repeated = np.ones(len(pairs), dtype=bool)
    repeated[np.unique(_pack(pairs[:, 0], pairs[:, 1], n), return_index=True)[1]] = False
    return np.flatnonzero(repeated | (pairs[:, 0] == pairs[:, 1]))


def _connect(keys: Keys, n: int) -> Keys:
    """Join the components of a graph whose degrees are all >= 2, keeping every degree.

    Each component has a cycle, so a pair (a_k, b_k) outside its spanning tree can go without splitting it. Replacing
    these by (b_k, a_k+1), the last one wrapping round, strings the components on a ring.
    """
    graph = coo_array((np.ones(len(keys)), (keys // n, keys % n)), shape=(n, n)).tocsr()
    components, label = connected_components(graph, directed=False)
    if components == 1:
        return keys
    tree = minimum_spanning_tree(graph).tocoo()
    spare = np.setdiff1d(keys, _pack(tree.row.astype(np.int64), tree.col.astype(np.int64), n), assume_unique=True)
    spare = spare[np.unique(label[spare // n], return_index=True)[1]]
    added = _pack(spare % n, np.roll(spare // n, -1), n)
    return np.union1d(np.setdiff1d(keys, spare, assume_unique=True), added)


def _unseen_keys(n: int, known: Keys, size: int, rng: np.random.Generator) -> Keys:
    """All unseen pairs where they are few, else at least `size` distinct ones drawn uniformly."""
    total = n * (n - 1) // 2
    if total <= max(_ENUMERATED_PAIRS, 2 * size):
        return np.setdiff1d(_all_keys(n), known, assume_unique=True)
    pool = np.zeros(0, dtype=np.int64)
    while len(pool) < min(size, total - len(known)):
        first, second = rng.integers(n, size=(2, size + size // 8))
        pool = _distinct(np.concatenate([pool, _pack(first, second, n)[first != second]]))
        pool = pool[~np.isin(pool, known, assume_unique=True)]
    return pool
