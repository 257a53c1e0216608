from itertools import combinations

import numpy as np
import pytest

from prefprobe.probes import foldintervals
from prefprobe.probes.crosstopic import CrossTopic
from tests.unit.probes.test_crosstopic import run, study

T_975 = {5: 2.570582, 7: 2.364624}


def mean_of_folds(folds, **options):
    return foldintervals.mean_of_folds(folds, **options)


def difference_of_folds(first, second):
    return foldintervals.difference_of_folds(first, second)


def hoo(n_topics=8, k=1, seed=0, sharing=0.0, spread=0.1, level=0.4):
    """Folds whose r moves by `sharing` of a random amount if one more topic is left out."""
    rng = np.random.default_rng(seed)
    names = [f"t{i}" for i in range(n_topics)]
    folds = []
    for held_out in combinations(names, k):
        r = float(np.clip(level + spread * rng.normal(), -0.95, 0.95))
        without = {t: r + sharing * rng.normal() for t in names if t not in held_out}
        folds.append({"held_out": list(held_out), "n": int(rng.integers(5, 50)), "r": r, "r_without": without})
    return {"folds": folds}


def variances(r, without, fisher=False):
    """By hand, of one topic a fold: the jackknife without refits and with them."""
    n = len(r)
    plain = np.array([np.delete(r, t).mean() for t in range(n)])
    refitted = np.array([np.nanmean(without[:, t]) for t in range(n)])
    if fisher:
        plain, refitted = np.arctanh(plain), np.arctanh(refitted)
    return [(n - 1) / n * ((x - x.mean()) ** 2).sum() for x in (plain, refitted)]


def arrays(found):
    names = [fold["held_out"][0] for fold in found["folds"]]
    r = np.array([fold["r"] for fold in found["folds"]])
    return r, np.array([[fold["r_without"].get(t, np.nan) for t in names] for fold in found["folds"]])


def blended(value, least, whole, df):
    """The smaller variance inside of the interval that it gives, the jackknife's from twice its bound on."""
    least = min(least, whole)
    share = np.clip(abs(value) / (T_975[df] * np.sqrt(least)) - 1, 0, 1)
    return np.sqrt(least + share * (whole - least)), share


@pytest.mark.parametrize(
    ("level", "sharing", "spread", "shares"),
    [(0.0, 0.5, 0.1, [0, 0]), (0.17, 0.5, 0.1, [0.2, 0.8]), (0.6, 0.5, 0.1, [1, 1]), (0.6, 0.01, 0.1, [1, 1])],
)
def test_the_mean_of_folds_by_hand(level, sharing, spread, shares):
    found = hoo(level=level, sharing=sharing, spread=spread)
    r, without = arrays(found)
    plain, refitted = variances(r, without, fisher=True)
    value = r.mean()
    se, share = blended(np.arctanh(value), plain * (1 + 8 / 7), refitted, 7)
    assert shares[0] <= share <= shares[1]
    bounds = np.tanh(np.arctanh(value) + np.array([-1, 1]) * T_975[7] * se)
    expected = {"value": value, "low": bounds[0], "high": bounds[1], "se": se, "df": 7}
    assert mean_of_folds(found["folds"]) == pytest.approx(expected, rel=1e-6)


def test_folds_that_share_nothing_are_independent():
    """With nothing learnt from other topics, the standard error is that of a mean of independent folds."""
    found = hoo(level=0.0, spread=0.01)
    r, _ = arrays(found)
    assert mean_of_folds(found["folds"])["se"] == pytest.approx(r.std(ddof=1) / np.sqrt(8), rel=1e-3)


def test_weights_are_test_tasks():
    found = hoo()
    n, (r, _) = np.array([fold["n"] for fold in found["folds"]]), arrays(found)
    assert mean_of_folds(found["folds"], weighted=True)["value"] == pytest.approx(np.average(r, weights=n))
    for fold in found["folds"]:
        fold["n"] = 7
    assert mean_of_folds(found["folds"], weighted=True) == pytest.approx(mean_of_folds(found["folds"]))


@pytest.mark.parametrize(("sharing", "level"), [(0.0, 0.1), (0.5, 0.1), (0.5, 0.4), (0.2, 0.4)])
def test_a_difference_by_hand(sharing, level):
    one, other = hoo(seed=1, sharing=sharing), hoo(seed=2, sharing=sharing, level=level)
    (r, without), (s, other_without) = arrays(one), arrays(other)
    plain, refitted = variances(r - s, without - other_without)
    changed = np.nan_to_num((r - s)[:, None] - (without - other_without))
    pairs = sum((changed[t, u] + changed[u, t]) ** 2 for t, u in combinations(range(8), 2)) / 64
    value = (r - s).mean()
    se, _ = blended(value, max(plain, refitted - pairs), refitted, 7)
    expected = {"value": value, "low": value - T_975[7] * se, "high": value + T_975[7] * se, "se": se, "df": 7}
    assert difference_of_folds(one, other) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("k", [1, 2])
def test_a_difference_turned_round_changes_sign(k):
    one, other = hoo(seed=1, k=k, sharing=0.1), hoo(seed=2, k=k, sharing=0.1)
    there, back = difference_of_folds(one, other), difference_of_folds(other, one)
    assert [there[key] for key in ("value", "low", "high", "se")] == pytest.approx(
        [-back["value"], -back["high"], -back["low"], back["se"]]
    )
    assert difference_of_folds(one, one) == {"value": 0.0, "low": 0.0, "high": 0.0, "se": 0.0, "df": 7}


def test_folds_without_r_are_left_out():
    one, other = hoo(seed=1), hoo(seed=2)
    one["folds"][3]["r"] = None
    known = [fold for fold in one["folds"] if fold["r"] is not None]
    assert mean_of_folds(one["folds"])["value"] == pytest.approx(np.mean([fold["r"] for fold in known]))
    difference = difference_of_folds(one, other)
    assert difference == pytest.approx(difference_of_folds({"folds": known}, other), rel=0.2)
    for fold in one["folds"]:
        fold["r"] = None
    assert mean_of_folds(one["folds"]) is None
    assert difference_of_folds(one, other) is None
    assert difference_of_folds({"folds": []}, other) is None


def test_two_topics_allow_no_interval():
    two = hoo(n_topics=2)
    for found in (mean_of_folds(two["folds"]), difference_of_folds(two, hoo(n_topics=2, seed=1))):
        assert found["value"] is not None
        assert [found[key] for key in ("low", "high", "se", "df")] == [None] * 4


@pytest.mark.parametrize("k", [1, 2])
def test_pooled_predictions_have_the_interval_of_their_refits(k):
    s = study(n=300, n_topics=6)
    options = {"holdout": k, "permutations": 0}
    found = run(s, **options)
    pooled = found.summary["pooled"]
    rows = [row for row in found.predictions.to_pylist() if row["set"] == "eval"]
    values = []
    for topic in sorted(set(s.topics.values())):
        rest = [row for row in rows if topic not in found.summary["folds"][row["fold"]]["held_out"]]
        values.append(np.arctanh(np.corrcoef([r["observed"] for r in rest], [r["predicted"] for r in rest])[0, 1]))
    plain = 5 / 6 * ((values - np.mean(values)) ** 2).sum()
    study_of = CrossTopic.of(s.ids, s.train, s.eval, s.topics, **options)
    refitted = refits(s, study_of, found, k)
    se, share = blended(np.arctanh(pooled["value"]), plain * (1 + 6 / (6 - k)), refitted, 5)
    assert share > 0
    assert pooled["se"] == pytest.approx(se, rel=1e-6)
    assert pooled["df"] == 5
    assert pooled["low"] < pooled["value"] < pooled["high"]


def refits(s, study_of, found, k):
    """The jackknife's variance of pooled r, from studies in which a topic does not exist, at the folds' layers and penalties."""
    from tests.unit.probes.test_crosstopic import arrays as of_set
    from tests.unit.probes.test_crosstopic import ridge

    X, y, topics = of_set(s, "train")
    X_eval, y_eval, topics_eval = of_set(s, "eval")
    values = []
    for out in study_of.folds.topics:
        observed, predicted = [], []
        for fold in found.summary["folds"]:
            if out in fold["held_out"]:
                continue
            Z = X[fold["layer"]]
            mean, scale = Z.mean(axis=0), Z.std(axis=0)
            inside, tested = ~np.isin(topics, [out, *fold["held_out"]]), np.isin(topics_eval, fold["held_out"])
            test = (X_eval[fold["layer"]][tested] - mean) / scale
            predicted.append(ridge(fold["alpha"], (Z[inside] - mean) / scale, y[inside], test))
            observed.append(y_eval[tested])
        values.append(np.arctanh(np.corrcoef(np.concatenate(observed), np.concatenate(predicted))[0, 1]))
    n = len(values)
    return (n - 1) / n * ((np.array(values) - np.mean(values)) ** 2).sum()
