import json
from itertools import combinations
from math import comb
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from prefprobe.errors import BadConfig
from prefprobe.features.controls import random_features
from prefprobe.probes.crosstopic import CrossTopic, cross_topic
from prefprobe.probes.folds import LayerFolds, labels
from prefprobe.probes.heldout import heldout_probe
from prefprobe.probes.ridge import ALPHAS


def study(n=160, d=30, n_topics=5, seed=0, signal=(0.5, 1.0), noise=0.5):
    """Layer L holds a direction of strength signal[L], the same in all topics, and where its topic is."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation([f"task-{i:03d}" for i in range(n)])
    topic = rng.integers(n_topics, size=n)
    wanted = rng.normal(size=n)
    layers = {}
    for layer, strength in enumerate(signal):
        where = 2 * rng.normal(size=(n_topics, d))[topic]
        X = rng.normal(size=(n, d)) + where + strength * np.outer(wanted, rng.normal(size=d))
        layers[layer] = (X + 1e3 * rng.normal(size=d)).astype(np.float32)
    mu = dict(zip(ids.tolist(), (wanted + noise * rng.normal(size=n)).tolist(), strict=True))
    names = ids.tolist()
    return SimpleNamespace(
        layers=layers,
        ids=ids,
        train={i: mu[i] for i in names[: n * 5 // 8]},
        eval={i: mu[i] for i in names[n * 5 // 8 :]},
        topics={i: f"topic {t}" for i, t in zip(names, topic, strict=True)},
    )


def run(s, permutations=9, **options):
    return cross_topic(s.layers, s.ids, s.train, s.eval, s.topics, permutations=permutations, **options)


def arrays(s, which):
    at = {i: k for k, i in enumerate(s.ids)}
    ids = sorted(getattr(s, which))
    y = np.array([getattr(s, which)[i] for i in ids])
    X = {layer: X[[at[i] for i in ids]].astype(float) for layer, X in s.layers.items()}
    return X, y, np.array([s.topics[i] for i in ids])


def ridge(alpha, X, y, X_new):
    return Ridge(alpha=alpha, solver="svd").fit(X, y).predict(X_new)


def refitted(s, held_out, layer, alphas):
    """(r nested, alpha, predictions of train-run tests, of eval-run tests) with a refit for every inner topic; features are
    standardised as all train tasks' are."""
    X, y, topics = arrays(s, "train")
    X_eval, _, topics_eval = arrays(s, "eval")
    out = np.isin(topics, held_out)
    scaler = StandardScaler().fit(X[layer])
    Z, y_in, inner = scaler.transform(X[layer][~out]), y[~out], topics[~out]
    sweep = []
    for alpha in alphas:
        predicted = np.empty(len(y_in))
        for topic in set(inner):
            predicted[inner == topic] = ridge(alpha, Z[inner != topic], y_in[inner != topic], Z[inner == topic])
        sweep.append(np.corrcoef(predicted, y_in)[0, 1])
    a = int(np.argmax(sweep))
    tests = X[layer][out], X_eval[layer][np.isin(topics_eval, held_out)]
    return sweep[a], alphas[a], *(ridge(alphas[a], Z, y_in, scaler.transform(test)) for test in tests)


def r_without(s, held_out, topic, layer, alpha):
    """r within the held-out topics of a refit without one more."""
    X, y, topics = arrays(s, "train")
    Z, out = StandardScaler().fit_transform(X[layer]), np.isin(topics, held_out)
    inside = ~out & (topics != topic)
    return np.corrcoef(ridge(alpha, Z[inside], y[inside], Z[out]), y[out])[0, 1]


@pytest.mark.parametrize("holdout", [1, 2])
def test_nested_selection_is_that_of_refitting(holdout):
    s = study(signal=(0.4, 0.5), noise=1.0)
    result = run(s, holdout=holdout)
    _, y, topics = arrays(s, "train")
    _, y_eval, topics_eval = arrays(s, "eval")
    r, n = [], []
    pooled: list[tuple[float, float]] = []
    layers: dict[int, list[float]] = {0: [], 1: []}
    for fold, held_out in enumerate(combinations(sorted(set(topics)), holdout)):
        by_layer = [refitted(s, held_out, layer, ALPHAS) for layer in (0, 1)]
        layer = int(by_layer[1][0] > by_layer[0][0])
        _, alpha, train, evaluation = by_layer[layer]
        out, out_eval = np.isin(topics, held_out), np.isin(topics_eval, held_out)
        r.append(np.corrcoef(y[out], train)[0, 1])
        n.append(out.sum())
        pooled += zip(y_eval[out_eval], evaluation, strict=True)
        for k, one in enumerate(by_layer):
            layers[k].append(np.corrcoef(y[out], one[2])[0, 1])
        assert result.summary["folds"][fold] == {
            "held_out": list(held_out),
            "n": out.sum(),
            "layer": layer,
            "alpha": alpha,
            "r": pytest.approx(r[-1], abs=1e-7),
            "r_eval": pytest.approx(np.corrcoef(y_eval[out_eval], evaluation)[0, 1], abs=1e-7),
            "n_eval": out_eval.sum(),
            "r_without": {
                t: pytest.approx(r_without(s, held_out, t, layer, alpha), abs=1e-7)
                for t in sorted(set(topics))
                if t not in held_out
            },
        }
        rows = result.predictions.to_pylist()
        for name, expected in (("train", train), ("eval", evaluation)):
            got = [row["predicted"] for row in rows if row["fold"] == fold and row["set"] == name]
            np.testing.assert_allclose(got, expected, atol=1e-6)
    summary = result.summary
    assert (summary["holdout"], summary["n_folds"]) == (holdout, comb(5, holdout)) == (holdout, len(r))
    assert summary["mean"]["value"] == pytest.approx(np.mean(r), abs=1e-7)
    assert summary["sd"] == pytest.approx(np.std(r, ddof=1), abs=1e-7)
    assert summary["weighted_mean"]["value"] == pytest.approx(np.average(r, weights=n), abs=1e-7)
    assert summary["pooled"]["value"] == pytest.approx(np.corrcoef(np.array(pooled).T)[0, 1], abs=1e-7)
    for layer, of_layer in layers.items():
        expected = {"mean": np.mean(of_layer), "sd": np.std(of_layer, ddof=1)}
        assert summary["layers"][str(layer)] == pytest.approx(expected, abs=1e-7)
    assert len({row["layer"] for row in summary["folds"]} | {row["alpha"] for row in summary["folds"]}) > 2


def test_a_direction_common_to_topics_is_found():
    summary = run(study(n=400)).summary
    assert {row["layer"] for row in summary["folds"]} == {1}
    assert summary["mean"]["low"] > 0.75
    assert summary["pooled"]["low"] > 0.4
    assert summary["layers"]["0"]["mean"] < summary["layers"]["1"]["mean"]


def test_knowing_the_topic_alone_does_not_cross_topics():
    """Features that say which topic a task is in predict held-out tasks, and nothing within a topic never seen."""
    rng = np.random.default_rng(0)
    s = study(n=600, signal=(0.0,))
    level = {f"topic {t}": 2.0 * t for t in range(5)}
    for of in (s.train, s.eval):
        of.update({i: level[s.topics[i]] + rng.normal() for i in of})
    none = (np.zeros(0, "<U8"), np.zeros(0, "<U8"), np.zeros(0))
    assert heldout_probe(s.layers, s.ids, s.train, s.eval, s.topics, none).targets["raw"]["r"]["low"] > 0.8
    summary = run(s).summary
    assert abs(summary["mean"]["value"]) < 0.15
    assert summary["mean"]["low"] < 0 < summary["mean"]["high"]


def test_random_features_are_at_chance():
    s = study(n=600)
    s.layers = {0: random_features(s.ids, 40, seed=0)}
    summary = run(s).summary
    assert abs(summary["mean"]["value"]) < 0.15
    assert abs(summary["weighted_mean"]["value"]) < 0.15


def test_held_out_utilities_change_nothing_but_their_score():
    s = study()
    before = run(s)
    rng = np.random.default_rng(1)
    s.train = {i: 100 * rng.normal() if s.topics[i] == "topic 2" else mu for i, mu in s.train.items()}
    after = run(s)
    first, second = before.summary["folds"][2], after.summary["folds"][2]
    assert first["held_out"] == ["topic 2"]
    assert (first["alpha"], first["layer"]) == (second["alpha"], second["layer"])
    assert first["r_eval"] == pytest.approx(second["r_eval"], abs=1e-9)
    assert first["r"] != second["r"]


def test_with_two_topics_out_every_task_is_predicted_by_all_folds_without_it():
    s = study()
    result = run(s, holdout=2)
    table = result.predictions
    assert table.schema.names == ["task_id", "topic", "set", "fold", "observed", "predicted"]
    folds = list(combinations([f"topic {t}" for t in range(5)], 2))
    seen: dict[str, list[int]] = {}
    for row in table.to_pylist():
        assert row["topic"] == s.topics[row["task_id"]] in folds[row["fold"]]
        assert row["observed"] == getattr(s, row["set"])[row["task_id"]]
        seen.setdefault(row["task_id"], []).append(row["fold"])
    assert seen.keys() == s.train.keys() | s.eval.keys()
    assert all(len(set(of)) == len(of) == 4 for of in seen.values())
    rows = [row for row in table.to_pylist() if row["set"] == "eval"]
    observed, predicted = (np.array([row[k] for row in rows]) for k in ("observed", "predicted"))
    assert result.summary["pooled"]["value"] == pytest.approx(np.corrcoef(observed, predicted)[0, 1], abs=1e-12)


@pytest.mark.parametrize(("holdout", "compat"), [(1, False), (2, False), (1, True)])
def test_permutations_repeat_everything(holdout, compat):
    s = study(n=120, d=20, signal=(0.3, 0.3), noise=2.0, seed=2)
    options = {"holdout": holdout, "compat": compat}
    found = run(s, permutations=7, seed=4, **options).summary
    folds = CrossTopic.of(s.ids, s.train, s.eval, s.topics, **options).folds
    ids, means = folds.tasks.ids, []
    for permuted in labels(folds, 7, seed=4)[:, 1:].T:
        s.train = dict(zip(ids.tolist(), permuted.tolist(), strict=True))
        means.append(run(s, permutations=0, **options).summary["mean"]["value"])
    higher = sum(mean >= found["mean"]["value"] for mean in means)
    assert 0 < higher < 7
    assert found["p"] == {"value": (higher + 1) / 8, "permutations": 7}


def test_labels_are_permuted_within_topics():
    s = study()
    folds = CrossTopic.of(s.ids, s.train, s.eval, s.topics).folds
    true, *others = labels(folds, 5, seed=0).T
    assert true.tolist() == [s.train[i] for i in folds.tasks.ids]
    for permuted in others:
        assert (permuted != true).mean() > 0.8
        for rows in folds.train:
            assert sorted(permuted[rows]) == sorted(true[rows])


def test_order_of_tasks_does_not_matter():
    s = study()
    order = np.random.default_rng(9).permutation(len(s.ids))
    one = run(s)
    other = cross_topic(
        {layer: s.layers[layer][order] for layer in (1, 0)},
        s.ids[order],
        *(dict(reversed(of.items())) for of in (s.train, s.eval, s.topics)),
        permutations=9,
    )
    assert one.summary == other.summary
    assert one.predictions.equals(other.predictions)


def test_compat_uses_one_alpha_from_the_first_layer_and_the_whole_eval_set():
    s = study(signal=(0.4, 0.5), noise=1.0)
    X, y, _ = arrays(s, "train")
    X_eval, y_eval, _ = arrays(s, "eval")
    scaler = StandardScaler().fit(X[0])
    predicted = [ridge(alpha, scaler.transform(X[0]), y, scaler.transform(X_eval[0])) for alpha in ALPHAS]
    alpha = ALPHAS[np.argmax([np.corrcoef(p, y_eval)[0, 1] for p in predicted])]
    compat, ours = run(s, compat=True).summary, run(s).summary
    assert {row["alpha"] for row in compat["folds"]} == {alpha}
    assert {row["alpha"] for row in ours["folds"]} != {alpha}
    assert compat["mean"]["value"] != ours["mean"]["value"]
    layers = {row["held_out"][0]: row["layer"] for row in compat["folds"]}
    nested = {t: int(refitted(s, t, 1, [alpha])[0] > refitted(s, t, 0, [alpha])[0]) for t in layers}
    assert layers == nested


def test_what_cannot_be_estimated_is_null_in_json():
    s = study()
    s.eval = {i: m for i, m in s.eval.items() if s.topics[i] != "topic 0"}
    s.train.update({i: 1.0 for i in s.train if s.topics[i] == "topic 1"})
    summary = run(s).summary
    json.dumps(summary, allow_nan=False)
    assert (summary["folds"][0]["r_eval"], summary["folds"][0]["n_eval"]) == (None, 0)
    assert summary["folds"][1]["r"] is None
    known = [row["r"] for row in summary["folds"] if row["r"] is not None]
    assert len(known) == 4
    assert summary["mean"]["value"] == pytest.approx(np.mean(known))
    crossed = CrossTopic.of(s.ids, s.train, s.eval, s.topics, permutations=9)
    arrays = {layer: crossed.layer(X).arrays() for layer, X in s.layers.items()}
    assert all(np.isfinite(values).all() for of_layer in arrays.values() for values in of_layer.values())
    assert crossed.join({layer: LayerFolds.of(of_layer) for layer, of_layer in arrays.items()}).summary == summary


def test_a_topic_with_two_tasks_is_refused():
    s = study()
    small = [i for i in sorted(s.train) if s.topics[i] == "topic 3"]
    for i in small[2:]:
        del s.train[i]
    with pytest.raises(BadConfig, match=r"'topic 3' has 2 train tasks.* 3 or more.*merge"):
        run(s)


def test_too_few_topics_are_refused():
    s = study(n_topics=3)
    assert run(s, holdout=1).summary["n_folds"] == 3
    for holdout in (0, 2):
        with pytest.raises(BadConfig, match="holdout"):
            run(s, holdout=holdout)


def test_bad_inputs_are_named():
    s = study()
    leaked = sorted(s.eval)[4]
    s.train[leaked] = 0.0
    with pytest.raises(BadConfig, match=leaked):
        run(s)
    for which in ("train", "eval"):
        s = study()
        task = sorted(getattr(s, which))[5]
        s.layers[1][list(s.ids).index(task), 7] = np.nan
        with pytest.raises(BadConfig, match=task):
            run(s)
