"""Worlds of held-out topics: do intervals over folds hold the truth, and is something claimed where there is nothing?

240 train and 120 eval tasks in 12 topics, with random ones in every draw: topics differ in their mean utility and in where
their tasks lie among the features, which tells nothing of what is preferred within a topic. What a world keeps is how features
hold the latent traits, and which direction utilities follow on average; every topic has one of its own beside it, and a noise
of its own. The truth is a statistic's mean over draws, which TRUTH has: `python benchmarks/worlds/folds.py` draws it.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1]))

from calibration import World

from prefprobe.probes.crosstopic import cross_topic
from prefprobe.probes.foldintervals import difference_of_folds

TOPICS, TRAIN, EVAL, TRAITS = 12, 20, 10, 8
SMALLEST_R, SMALLEST_DIFFERENCE = 0.2, 0.05
"""Smallest effects that count, as in findings/rules.py."""
Claims = dict[tuple[str, str], bool | None]


def hoo(
    seed: int, width: int, noise: float | None, own: float, kinds: int, permutations: int = 0
) -> list[dict[str, Any]]:
    """`hoo.json` of each kind of features in one draw; noise None: utilities follow no trait."""
    rng, kept = np.random.default_rng([seed, width]), np.random.default_rng(width)
    n = TOPICS * (TRAIN + EVAL)
    topic = np.repeat(np.arange(TOPICS), TRAIN + EVAL)
    traits = rng.normal(size=(n, TRAITS)) + 0.5 * rng.normal(size=(TOPICS, TRAITS))[topic]
    direction = kept.normal(size=TRAITS) + own * rng.normal(size=(TOPICS, TRAITS))
    y = rng.normal(size=TOPICS)[topic]
    if noise is None:
        y = y + rng.normal(size=n)
    else:
        spread = noise * np.exp(0.4 * rng.normal(size=TOPICS))[topic]
        y = y + (traits * direction[topic]).sum(axis=1) / np.sqrt(TRAITS) + spread * rng.normal(size=n)
    ids = np.array([f"{i:03}" for i in range(n)])
    train = np.tile(np.arange(TRAIN + EVAL) < TRAIN, TOPICS)
    sets = [dict(zip(ids[rows].tolist(), y[rows].tolist(), strict=True)) for rows in (train, ~train)]
    topics = {id_: f"{t:02}" for id_, t in zip(ids.tolist(), topic, strict=True)}
    found, held = [], kept.normal(size=(TRAITS, width)) / np.sqrt(TRAITS)
    for _ in range(kinds):
        X = traits @ held + rng.normal(size=(n, width)) + 1.5 * rng.normal(size=(TOPICS, width))[topic]
        found.append(cross_topic({0: X}, ids, *sets, topics, permutations=permutations).summary)
    return found


def nothing(seed: int, width: int) -> Claims:
    """Utilities have nothing to do with features, within topics."""
    (found,) = hoo(seed, width, None, 0.0, 1)
    claims = covered(found, f"nothing, {width}")
    for key in ("mean", "weighted_mean", "pooled"):
        claims[f"{key} > 0", "false"] = found[key]["low"] > 0
        # p < .05 is asked of what is above the smallest effect only, and can but take claims away
        claims[key, "false"] = found[key]["low"] > SMALLEST_R
    if seed % 4 == 0:
        (permuted,) = hoo(seed, width, None, 0.0, 1, permutations=39)
        claims["p < .05", "false"] = permuted["p"]["value"] <= 0.05
    return claims


def something(seed: int, width: int, name: str, noise: float, own: float) -> Claims:
    """One direction in all topics, beside their own."""
    (found,) = hoo(seed, width, noise, own, 1)
    return {**covered(found, name), ("mean", "power"): found["mean"]["low"] > SMALLEST_R}


def covered(found: dict[str, Any], name: str) -> Claims:
    """Whether intervals hold the truth of a world."""
    return {(key, "covers"): found[key]["low"] <= truth <= found[key]["high"] for key, truth in TRUTH[name].items()}


def two_kinds(seed: int, width: int) -> Claims:
    """Two kinds of features that hold the same traits in the same way, each with its own noise: no difference."""
    found = difference_of_folds(*hoo(seed, width, 0.8, 0.4, 2))
    assert found is not None
    assert found["low"] is not None
    assert found["high"] is not None
    return {
        ("difference", "covers"): found["low"] <= 0 <= found["high"],
        ("difference > 0", "false"): found["low"] > 0,
        ("difference", "false"): found["low"] > SMALLEST_DIFFERENCE,
    }


SIGNAL: dict[str, dict[str, Any]] = {
    "r of .4": {"width": 64, "noise": 1.2, "own": 0.5},
    "r of .8": {"width": 64, "noise": 0.2, "own": 0.15},
}
TRUTH = {
    "nothing, 64": {"mean": 0.0, "weighted_mean": 0.0},
    "nothing, 576": {"mean": 0.0, "weighted_mean": 0.0},
    "r of .4": {"mean": 0.402, "pooled": 0.242},
    "r of .8": {"mean": 0.776, "pooled": 0.426},
}
"""Without a signal the means are 0, since what is tested is independent of what trains; the others are what `main` prints."""

WORLDS = [
    *(World(f"folds: nothing, {width}", partial(nothing, width=width)) for width in (64, 576)),
    *(World(f"folds: {name}", partial(something, name=name, **of)) for name, of in SIGNAL.items()),
    *(World(f"folds: two kinds alike, {width}", partial(two_kinds, width=width)) for width in (64, 576)),
]


def main() -> None:
    """Print what TRUTH holds, from draws that the benchmark does not use."""
    draws, first = 300, 1_000_000
    with ProcessPoolExecutor(2, initializer=threadpool_limits, initargs=(1,)) as pool:
        for name, of in SIGNAL.items():
            found = [one for (one,) in pool.map(partial(hoo, **of, kinds=1), range(first, first + draws), chunksize=10)]
            for key in ("mean", "pooled"):
                values = np.array([one[key]["value"] for one in found])
                print(f"{name:16} {key:7} {values.mean():.4f} ± {values.std(ddof=1) / np.sqrt(draws):.4f}", flush=True)


if __name__ == "__main__":
    main()
