"""All claims on held-out tasks and topics of one study together, judged by the verdict's own rules, where none of them holds.

240 train and 120 eval tasks in 12 topics with means of their own; features of the model and of an encoder know nothing.
Features that know as much as each other, and a good part of the utilities, tell whether a difference is claimed beside what
does hold.
"""

from typing import Any

import numpy as np
from calibration import World
from scipy.special import ndtr

from prefprobe.findings import rules
from prefprobe.probes.crosstopic import cross_topic
from prefprobe.probes.foldintervals import difference_of_folds
from prefprobe.probes.heldout import heldout_probe
from prefprobe.probes.metrics import paired_difference

N_TRAIN, N_EVAL, TOPICS, WIDTH = 240, 120, 12, 64


def draw(seed: int, share: float) -> dict[tuple[str, str], bool | None]:
    """One study, whose features hold `share` of the utilities' variance within topics."""
    rng = np.random.default_rng([seed, 5])
    n = N_TRAIN + N_EVAL
    topic = rng.permutation(np.arange(n) % TOPICS)
    signal = rng.normal(size=n)
    mu = 0.7 * rng.normal(size=TOPICS)[topic] + np.sqrt(share) * signal + np.sqrt(1 - share) * rng.normal(size=n)
    ids = [f"t{i:04}" for i in range(n)]
    topics = {id_: f"k{t:02}" for id_, t in zip(ids, topic.tolist(), strict=True)}
    utility = dict(zip(ids, mu.tolist(), strict=True))
    train, eval_ = ({i: utility[i] for i in part} for part in (ids[:N_TRAIN], ids[N_TRAIN:]))
    names = np.array(ids[N_TRAIN:])
    a, b = (np.concatenate([rng.permutation(names) for _ in range(6)]) for _ in range(2))
    a, b = a[a != b], b[a != b]
    gap = np.array([utility[x] - utility[y] for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    choices = (a, b, (rng.random(len(a)) < ndtr(gap)).astype(float))
    probes, folds = [], []
    for kind in range(2):
        X = rng.normal(size=(n, WIDTH)) + (share > 0) * signal[:, None] * rng.normal(size=WIDTH)
        permutations = 199 if kind == 0 else 0
        probes.append(heldout_probe({0: X}, np.array(ids), train, eval_, topics, choices, permutations=permutations))
        folds.append(cross_topic({0: X}, np.array(ids), train, eval_, topics, permutations=permutations).summary)
    judged = judge(probes, folds)
    holm = rules.holm([found.p for found in judged.values()])
    found = {}
    for (name, claim), adjusted in zip(judged.items(), holm, strict=True):
        kind = "power" if share and "above" not in name else "false"
        found[name, kind] = claim.label in rules.HOLDS
        found[f"{name}, Holm", kind] = found[name, kind] and adjusted is not None and adjusted < rules.SIGNIFICANT
    for suffix in ("", ", Holm"):
        claimed = [
            made for (name, kind), made in found.items() if kind == "false" and name.endswith(", Holm") == bool(suffix)
        ]
        found[f"any false claim{suffix}", "false"] = any(claimed)
    return found


def judge(probes: list[Any], folds: list[Any]) -> dict[str, rules.Judged]:
    """The claims as findings/verdict.py judges them, nothing being published."""
    of = probes[0].targets
    rows = [[row for row in found.predictions.to_pylist() if row["target"] == "raw"] for found in probes]
    observed, half = (np.array([row[name] for row in rows[0]]) for name in ("observed", "half"))
    predicted = [np.array([row["predicted"] for row in some]) for some in rows]
    return {
        **{f"heldout_{t}": rules.judge(of[t]["r"], "r", None, permuted=of[t]["p"]) for t in of},
        "heldout_accuracy": rules.judge(of["raw"]["accuracy"], "accuracy", None),
        "heldout_above": rules.judge(paired_difference(observed, *predicted, half), "difference", None),
        "cross_topic": rules.judge(folds[0]["mean"], "r", None, permuted=folds[0]["p"]),
        "cross_topic_above": rules.judge(difference_of_folds(*folds), "difference", None),
    }


def _nothing(seed: int) -> dict[tuple[str, str], bool | None]:
    return draw(seed, 0.0)


def _as_good(seed: int) -> dict[tuple[str, str], bool | None]:
    return draw(seed, 0.6)


WORLDS = [
    World("all claims: features know nothing", _nothing, share=0.5),
    World("all claims: two kinds as good", _as_good, share=0.5),
]
