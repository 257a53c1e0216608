"""Planted worlds of held-out probes and content controls: 240 train tasks, and 120 or 60 eval tasks of 12 topics.

The truth of a trained probe's r, of its accuracy and of a difference between two is that on 10,000 tasks of the same world
that it has not met, each half of the eval set by its own choice of penalty. A claim is made as in the verdict: the lower
bound above the smallest effect, and the permutation p below .05 where there is one.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from calibration import World
from scipy.special import ndtr

from prefprobe.probes.content import content_controls
from prefprobe.probes.heldout import heldout_probe
from prefprobe.probes.metrics import paired_difference, pearson
from prefprobe.probes.ridge import Decomposition, fit

N_TRAIN, N_BIG, TOPICS = 240, 10_000, 12
SMALLEST = {"r": 0.2, "difference": 0.05, "accuracy": 0.55}

Found = dict[tuple[str, str], bool | None]


def linear(rng: np.random.Generator, n: int, *, share: float, d: int, tails: float = 0.0, topics: float = 0.0) -> Any:
    """Tasks of n: topic (n,), features (n, d), utilities (n,), of which the features hold `share` of the variance.

    tails are the degrees of freedom of Student's t for utilities and their noise (0: normal); topics is the standard
    deviation of the topics' means, which the features know too, in units of the rest.
    """
    world = np.random.default_rng(1)  # what is true of the world, the same in every draw
    w, of_topic = world.normal(size=d) / np.sqrt(d), topics * world.normal(size=(TOPICS, 1))
    topic = rng.integers(TOPICS, size=n)
    scale = rng.standard_t(tails, size=(n, 1)) if tails else rng.normal(size=(n, 1))
    signal = scale + of_topic[topic]
    noise = rng.standard_t(tails, size=n) if tails else rng.normal(size=n)
    spread = np.sqrt((tails / (tails - 2) if tails else 1.0) + of_topic.var())
    X = signal * w * np.sqrt(d) + rng.normal(size=(n, d)) * 0.5
    return topic, X, np.sqrt(share) * signal[:, 0] / spread + np.sqrt(1 - share) * noise


def many(rng: np.random.Generator, n: int, *, share: float, d: int) -> Any:
    """The same where all d features count, so that a probe of 240 tasks is far from the best one."""
    w = np.random.default_rng(1).normal(size=d) / np.sqrt(d)
    X = rng.normal(size=(n, d))
    return rng.integers(TOPICS, size=n), X, np.sqrt(share) * X @ w + np.sqrt(1 - share) * rng.normal(size=n)


_CACHE: dict[Any, Any] = {}


def new_tasks(draw: Any) -> Any:
    """N_BIG tasks that no draw has, the same for all of them."""
    key = (draw.func, *sorted(draw.keywords.items()))
    if key not in _CACHE:
        _CACHE[key] = draw(np.random.default_rng(10**6), N_BIG)
    return _CACHE[key]


def study(seed: int, draw: Any, n_eval: int) -> Any:
    """One draw: features, ids, both sets, and what the truth is taken from."""
    rng = np.random.default_rng(seed)
    topic, X, mu = draw(rng, N_TRAIN + n_eval)
    ids = np.array([f"t{i:04d}" for i in range(len(mu))])
    utilities = dict(zip(ids.tolist(), mu.tolist(), strict=True))
    names = ids.tolist()
    return SimpleNamespace(
        ids=ids, X=X, mu=mu, rng=rng, topics={i: f"k{t}" for i, t in zip(names, topic, strict=True)},
        train={i: utilities[i] for i in names[:N_TRAIN]}, eval={i: utilities[i] for i in names[N_TRAIN:]},
    )  # fmt: skip


def probed(s: Any, layers: dict[int, np.ndarray], choices: Any = None, permutations: int = 0) -> Any:
    """What `heldout_probe` says of it."""
    empty = (np.empty(0, np.str_), np.empty(0, np.str_), np.empty(0))
    return heldout_probe(layers, s.ids, s.train, s.eval, s.topics, choices or empty, permutations=permutations)


def on_others(s: Any, layers: dict[int, np.ndarray], target: dict[str, Any], big: dict[int, np.ndarray]) -> Any:
    """(2, N_BIG) predictions of new tasks by the probes that were chosen for both halves."""
    out = []
    for half in ("1", "2"):
        layer, alpha = (target["selected"][half][key] for key in ("layer", "alpha"))
        W, b = fit(Decomposition.of(layers[layer][:N_TRAIN]), s.mu[:N_TRAIN], [alpha])
        out.append(big[layer] @ W[0, :, 0] + b[0, 0])
    return np.array(out)


def of_both(observed: np.ndarray, scores: np.ndarray) -> float:
    """What `r_within` halves is an estimate of: one r for the probes of both halves, scores (2, n)."""
    return float(np.tanh(np.mean([np.arctanh(pearson(observed, one) or 0.0) for one in scores])))


def covers(interval: Any, truth: float) -> bool | None:
    """Whether the interval holds the truth; None if it has no bounds."""
    return None if interval is None or interval["low"] is None else interval["low"] <= truth <= interval["high"]


def null(seed: int, *, d: int, n_layers: int) -> Found:
    """Features know nothing; topics have means of their own."""
    s = study(seed, partial(linear, share=1.0, d=1, topics=0.7), 120)
    layers = {layer: s.rng.normal(size=(len(s.ids), d)) for layer in range(n_layers)}
    pairs = [s.rng.permutation(s.ids[N_TRAIN:]) for _ in range(12)]
    a, b = np.concatenate(pairs[:6]), np.concatenate(pairs[6:])
    mu = dict(zip(s.ids, s.mu, strict=True))
    better = s.rng.random(len(a)) < ndtr(np.array([mu[x] - mu[y] for x, y in zip(a, b, strict=True)]))
    result = probed(s, layers, (a[a != b], b[a != b], better[a != b].astype(float)), 199)
    found: Found = {}
    for name, of in result.targets.items():
        significant = of["p"]["value"] < 0.05
        found[f"heldout_{name}", "false"] = bool(of["r"]["low"] > SMALLEST["r"] and significant)
        found[f"heldout_{name} > 0", "false"] = of["r"]["low"] > 0
        found[f"heldout_{name} p < .05", "false"] = significant
        found[f"heldout_{name}", "covers"] = covers(of["r"], 0.0)
    accuracy = result.targets["raw"]["accuracy"]
    found["heldout_accuracy", "false"] = accuracy["low"] > SMALLEST["accuracy"]
    found["heldout_accuracy > .5", "false"] = accuracy["low"] > 0.5
    found["heldout_accuracy", "covers"] = covers(accuracy, 0.5)
    return found


def known(seed: int, *, draw: Any, n_eval: int, sampled: bool) -> Found:
    """The truth is that of the probes that were trained; choices by a Thurstonian model, or by utility alone."""
    s, big = study(seed, draw, n_eval), new_tasks(draw)
    ids = s.ids[N_TRAIN:]
    mu = dict(zip(s.ids, s.mu, strict=True))
    a, b = (np.concatenate([s.rng.permutation(ids) for _ in range(10)]) for _ in range(2))
    keep = a < b
    a, b = a[keep], b[keep]
    difference = np.array([mu[x] - mu[y] for x, y in zip(a, b, strict=True)])
    p = (s.rng.random(len(a)) < ndtr(difference * 1.5)).astype(float) if sampled else ndtr(difference * 1.5)
    target = probed(s, {0: s.X}, (a, b, p)).targets["raw"]
    scores, mu_big = on_others(s, {0: s.X}, target, {0: big[1]}), big[2]
    truth = of_both(mu_big, scores)
    first, second = np.arange(0, N_BIG, 2), np.arange(1, N_BIG, 2)
    gap = mu_big[first] - mu_big[second]
    right = np.sign(scores[:, first] - scores[:, second]) * np.sign(gap) > 0
    sure = ndtr(np.abs(gap) * 1.5) if sampled else np.ones(len(gap))
    accuracy = float(np.where(right, sure, 1 - sure).mean())
    return {
        ("heldout_raw", "covers"): covers(target["r"], truth),
        ("heldout_accuracy", "covers"): covers(target["accuracy"], accuracy),
        ("heldout_raw", "power"): target["r"]["low"] > SMALLEST["r"],
        ("heldout_accuracy", "power"): target["accuracy"]["low"] > SMALLEST["accuracy"],
    }


def compared(seed: int, *, worse: float, n_eval: int) -> Found:
    """Two kinds of features that see the same utilities, each through noise of its own, the second through `worse` of it."""
    draw = partial(linear, share=0.8, d=16)
    s, big = study(seed, draw, n_eval), new_tasks(draw)
    kinds, others = [], []
    for noise, at in ((1.0, 2), (worse, 3)):
        for X, out, rng in ((s.X, kinds, s.rng), (big[1], others, np.random.default_rng([seed, at]))):
            out.append({0: X + noise * rng.normal(size=(len(X), 1)) * 2 + noise * rng.normal(size=X.shape)})
    results = [probed(s, of).targets["raw"] for of in kinds], [probed(s, of).predictions for of in kinds]
    columns = [[row for row in table.to_pylist() if row["target"] == "raw"] for table in results[1]]
    observed, half, first, second = (
        np.array([row[name] for row in rows])
        for rows, name in ((columns[0], "observed"), (columns[0], "half"), *((c, "predicted") for c in columns))
    )
    interval = paired_difference(observed, first, second, half)
    truths = [
        of_both(big[2], on_others(s, X, target, X_big))
        for X, target, X_big in zip(kinds, results[0], others, strict=True)
    ]
    truth = float(np.subtract(*truths))
    claimed = interval is not None and interval["low"] is not None and interval["low"] > SMALLEST["difference"]
    return {
        ("heldout_above", "covers"): covers(interval, truth),
        ("heldout_above", "false" if truth <= SMALLEST["difference"] else "power"): claimed,
    }


def content(seed: int, *, own: float, d: int, noise: float) -> Found:
    """An encoder knows .6 of the utilities; the model sees it through noise, and knows `own` of them alone."""
    rng = np.random.default_rng(seed)
    n = N_TRAIN + 120
    encoder, secret = rng.normal(size=(n, 64)), rng.normal(size=(n, 1))
    about = encoder @ rng.normal(size=64) / 8
    mu = 0.6 * about / about.std() + own * secret[:, 0] + np.sqrt(0.64 - own**2) * rng.normal(size=n)
    model = encoder @ rng.normal(size=(64, d)) / 8 + noise * rng.normal(size=(n, d))
    model += (own > 0) * secret @ rng.normal(size=(1, d))
    ids = np.array([f"t{i:04d}" for i in range(n)])
    of = dict(zip(ids.tolist(), mu.tolist(), strict=True))
    train, eval_ = ({i: of[i] for i in part.tolist()} for part in (ids[:N_TRAIN], ids[N_TRAIN:]))
    found = content_controls((ids, model), {"encoder": (ids, encoder)}, train, eval_)["encoder"]
    residual, gain = found["residual"], found["nested"]["gain"]
    r, p = residual["r"], residual["p"]["value"]
    kind = "power" if own else "false"
    claimed: Found = {
        ("content_residual", kind): bool(r["low"] > SMALLEST["r"] and p < 0.05),
        ("content_residual > 0", kind): r["low"] > 0,
        ("content_residual p < .05", kind): p < 0.05,
        ("content_gain", kind): gain["low"] > SMALLEST["difference"],
        ("content_gain > 0", kind): gain["low"] > 0,
    }
    return claimed


WORLDS = [
    World("null, d = 64, three layers", partial(null, d=64, n_layers=3), share=0.5),
    World("null, d = 576", partial(null, d=576, n_layers=1), share=0.2),
    *(
        World(f"r ~ {r}, {n} eval tasks", partial(known, draw=partial(many, share=share, d=64), n_eval=n, sampled=True))
        for r, share in ((0.4, 0.35), (0.7, 0.64), (0.9, 0.86))
        for n in (120, 60)
    ),
    *(
        World(
            f"{name}, {n} eval tasks",
            partial(known, draw=partial(linear, share=0.6, d=16, **how), n_eval=n, sampled=False),
        )
        for name, how in (("heavy tails (t5)", {"tails": 5.0}), ("topics apart", {"topics": 2.0}))
        for n in (120, 60)
    ),
    World("features as good, 120 eval tasks", partial(compared, worse=1.0, n_eval=120)),
    World("features as good, 60 eval tasks", partial(compared, worse=1.0, n_eval=60)),
    World("features worse, 120 eval tasks", partial(compared, worse=1.7, n_eval=120)),
    World("content: encoder's, d = 64", partial(content, own=0.0, d=64, noise=1.0), share=0.5),
    World("content: encoder's, little noise", partial(content, own=0.0, d=64, noise=0.1), share=0.5),
    World("content: encoder's, d = 576", partial(content, own=0.0, d=576, noise=0.3), share=0.1),
    World("content: own of .4", partial(content, own=0.4, d=64, noise=1.0), share=0.3),
]
