import json
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.features.controls import random_features
from prefprobe.probes.heldout import heldout_probe
from prefprobe.probes.ridge import ALPHAS

PLANTED = 2


def study(n_train=150, n_eval=90, d=40, seed=0):
    """Utilities are a direction of layer 2, plus topic means, plus noise; other layers know nothing."""
    rng = np.random.default_rng(seed)
    n = n_train + n_eval
    ids = rng.permutation([f"task-{i:03d}" for i in range(n)])
    layers = {layer: (1e3 * rng.normal(size=d) + rng.normal(size=(n, d))).astype(np.float32) for layer in (0, 1, 2)}
    topic = rng.integers(6, size=n)
    direction = rng.normal(size=d) / np.sqrt(d)
    mu = (layers[PLANTED] - layers[PLANTED].mean(axis=0)) @ direction * 2 + topic * 0.3 + 0.3 * rng.normal(size=n)
    utilities = dict(zip(ids.tolist(), mu.tolist(), strict=True))
    names = ids.tolist()
    train, eval_ = names[:n_train], names[n_train:]
    task_a, task_b = (rng.choice(names[n_train:], size=3000) for _ in range(2))
    difference = np.array([utilities[a] - utilities[b] for a, b in zip(task_a, task_b, strict=True)])
    return SimpleNamespace(
        layers=layers,
        ids=ids,
        train={i: utilities[i] for i in train},
        eval={i: utilities[i] for i in eval_},
        topics={i: f"topic {t}" for i, t in zip(names, topic, strict=True)},
        choices=(task_a, task_b, 1 / (1 + np.exp(-2 * difference))),
    )


def probe(s, **options):
    return heldout_probe(s.layers, s.ids, s.train, s.eval, s.topics, s.choices, **options)


def rows(s, ids):
    at = {i: k for k, i in enumerate(s.ids)}
    return [at[i] for i in ids]


def values(table, target, column):
    keep = np.array(table["target"].to_pylist()) == target
    return np.array(table[column].to_pylist())[keep]


@pytest.fixture(scope="module")
def planted():
    s = study()
    return s, probe(s)


def test_the_whole_protocol_is_that_of_scikit_learn(planted):
    s, result = planted
    train, evaluation = sorted(s.train), sorted(s.eval)
    order = np.random.default_rng(42).permutation(len(evaluation))
    select, final = order[: len(order) // 2], np.sort(order[len(order) // 2 :])
    y, y_eval = (np.array([of[i] for i in ids]) for of, ids in ((s.train, train), (s.eval, evaluation)))
    topic, topic_eval = (np.array([[s.topics[i]] for i in ids]) for ids in (train, evaluation))
    ols = make_pipeline(OneHotEncoder(), LinearRegression()).fit(topic, y)
    targets = {"raw": (y, y_eval), "demeaned": (y - ols.predict(topic), y_eval - ols.predict(topic_eval))}
    for target, (y, y_eval) in targets.items():
        got = result.targets[target]
        for layer, X in s.layers.items():
            predicted = []
            for alpha in ALPHAS:
                model = make_pipeline(StandardScaler(), Ridge(alpha=alpha))
                model.fit(X[rows(s, train)].astype(float), y)
                predicted.append(model.predict(X[rows(s, evaluation)].astype(float)))
            sweep = [np.corrcoef(p[select], y_eval[select])[0, 1] for p in predicted]
            a = int(np.argmax(sweep))
            observed, p = y_eval[final], predicted[a][final]
            found = got["layers"][str(layer)]
            assert found["sweep"] == pytest.approx(sweep, abs=1e-7)
            assert found["alpha"] == ALPHAS[a]
            assert found["alpha_at_edge"] == (a in (0, 9))
            assert found["r_select"] == found["sweep"][a]
            assert found["r"] == pytest.approx(np.corrcoef(observed, p)[0, 1], abs=1e-7)
            assert found["r_squared"] == pytest.approx(found["r"] ** 2)
            assert found["R2"] == pytest.approx(
                1 - ((observed - p) ** 2).sum() / ((observed - observed.mean()) ** 2).sum()
            )
            score = dict(zip(np.array(evaluation)[final], p, strict=True))
            right = [
                (score[i] > score[j]) == (p_a > 0.5)
                for i, j, p_a in zip(*s.choices, strict=True)
                if i in score and j in score and p_a != 0.5
            ]
            assert found["n_choices"] == len(right)
            assert found["accuracy"] == pytest.approx(np.mean(right))
            if layer == got["best_layer"]:
                assert values(result.predictions, target, "task_id").tolist() == np.array(evaluation)[final].tolist()
                np.testing.assert_allclose(values(result.predictions, target, "observed"), observed, atol=1e-9)
                np.testing.assert_allclose(values(result.predictions, target, "predicted"), p, atol=1e-6)
        best = got["layers"][str(got["best_layer"])]
        assert best["r_select"] == max(found["r_select"] for found in got["layers"].values())
        assert (got["r"]["value"], got["R2"], got["alpha"]) == (best["r"], best["R2"], best["alpha"])
        assert got["accuracy"]["value"] == best["accuracy"]
    assert result.split == {"n_train": 150, "n_eval": 90, "n_select": 45, "n_final": 45}


def test_a_planted_direction_is_found_in_its_layer_only(planted):
    _, result = planted
    for target in ("raw", "demeaned"):
        found = result.targets[target]
        assert found["best_layer"] == PLANTED
        assert found["r"]["value"] > 0.9
        assert found["r"]["low"] > 0.8
        assert found["accuracy"]["low"] > 0.75
        assert found["layers"]["0"]["r"] < 0.4
    assert result.ceiling["accuracy"] == 1
    assert result.ceiling["n_choices"] == result.targets["raw"]["layers"]["0"]["n_choices"]


def test_the_final_half_has_no_say_in_the_layer():
    s = study()
    s.layers = {layer: random_features(s.ids, 40, seed=layer) for layer in range(6)}
    found = probe(s).targets["raw"]
    order = list(found["layers"])
    by_select, by_final = (int(np.argmax([found["layers"][layer][of] for layer in order])) for of in ("r_select", "r"))
    assert by_select != by_final
    assert found["best_layer"] == int(order[by_select])


def test_controls_are_at_chance(planted):
    s, result = planted
    for target in ("raw", "demeaned"):
        chance = result.shuffled[target]
        assert chance["permutations"] == 20
        assert chance["low"] < 0 < chance["high"] < result.targets[target]["r"]["low"]
        assert abs(chance["mean"]) < 0.2
    blind = study(n_train=200, n_eval=300)
    blind.layers = {0: random_features(blind.ids, 60, seed=1)}
    found = probe(blind).targets["raw"]
    assert abs(found["r"]["value"]) < 0.25
    assert abs(found["accuracy"]["value"] - 0.5) < 0.12
    assert s.layers.keys() == {0, 1, 2}


def test_shuffled_labels_are_solved_like_true_ones(planted):
    """The same permutation put in by hand as the train utilities gives one of the control's values."""
    s, _ = planted
    s = SimpleNamespace(**{**vars(s), "layers": {PLANTED: s.layers[PLANTED]}})
    ids = sorted(s.train)
    shuffled = [ids[i] for i in np.random.default_rng([7, 0]).permutation(len(ids))]
    by_hand = {i: s.train[j] for i, j in zip(ids, shuffled, strict=True)}
    expected = probe(SimpleNamespace(**{**vars(s), "train": by_hand})).targets["raw"]["r"]["value"]
    control = probe(s, seed=7, permutations=1).shuffled["raw"]
    assert control == {"mean": pytest.approx(expected), "low": pytest.approx(expected), "high": pytest.approx(expected),
                       "permutations": 1}  # fmt: skip


def test_saved_probes_make_the_reported_predictions(planted):
    s, result = planted
    assert set(result.probes) == {f"{t}_{layer}_{k}" for t in ("raw", "demeaned") for layer in s.layers for k in "wb"}
    for target in ("raw", "demeaned"):
        best = result.targets[target]["best_layer"]
        w, b = (result.probes[f"{target}_{best}_{k}"] for k in "wb")
        assert (w.dtype, w.shape, b.shape) == (np.float64, (40,), ())
        X = s.layers[best][rows(s, values(result.predictions, target, "task_id"))]
        np.testing.assert_allclose(X @ w + b, values(result.predictions, target, "predicted"), atol=1e-9)


def test_order_of_tasks_does_not_matter(planted):
    s, result = planted
    order = np.random.default_rng(9).permutation(len(s.ids))
    again = heldout_probe(
        {layer: s.layers[layer][order] for layer in (2, 0, 1)},
        s.ids[order],
        dict(reversed(s.train.items())),
        dict(reversed(s.eval.items())),
        dict(reversed(s.topics.items())),
        s.choices,
    )
    assert again.targets == result.targets
    assert again.shuffled == result.shuffled
    assert again.predictions.equals(result.predictions)
    assert all((again.probes[k] == v).all() for k, v in result.probes.items())


def test_features_of_other_tasks_do_not_matter(planted):
    s, result = planted
    layers = {layer: np.concatenate([X, np.full((1, 40), np.nan, np.float32)]) for layer, X in s.layers.items()}
    again = heldout_probe(layers, np.append(s.ids, "other"), s.train, s.eval, s.topics, s.choices)
    assert again.targets == result.targets


def test_compat_demeans_eval_by_its_own_means(planted):
    s, result = planted
    compat = probe(s, compat=True)
    assert compat.targets["raw"] == result.targets["raw"]
    ids = values(result.predictions, "demeaned", "task_id")
    topics = np.array([s.topics[i] for i in ids])
    ours, theirs = (values(x.predictions, "demeaned", "observed") for x in (result, compat))
    for topic in set(topics):
        of_train, of_eval = (np.mean([m for i, m in of.items() if s.topics[i] == topic]) for of in (s.train, s.eval))
        assert abs(of_train - of_eval) > 1e-3
        np.testing.assert_allclose((ours - theirs)[topics == topic], of_eval - of_train, atol=1e-12)


def test_what_cannot_be_estimated_is_null_in_json():
    s = study(n_train=30, n_eval=20)
    s.train = dict.fromkeys(s.train, 1.5)
    s.choices = tuple(column[:0] for column in s.choices)
    result = probe(s)
    text = json.dumps([result.targets, result.shuffled, result.ceiling, result.split], allow_nan=False)
    assert "null" in text
    found = result.targets["raw"]
    assert found["r"] is None
    assert found["accuracy"] is None
    assert found["alpha"] == ALPHAS[-1]
    assert result.shuffled["raw"]["mean"] is None
    assert all((result.probes[f"raw_{layer}_w"] == 0).all() for layer in s.layers)


def test_leaks_are_refused():
    s = study()
    leaked = sorted(s.eval)[4]
    s.train[leaked] = 0.0
    with pytest.raises(BadConfig, match=leaked):
        probe(s)


@pytest.mark.parametrize("which", ["train", "eval"])
def test_bad_inputs_are_named(which):
    s = study()
    task = sorted(getattr(s, which))[5]
    s.layers[1][rows(s, [task])[0], 7] = np.inf
    with pytest.raises(BadConfig, match=task):
        probe(s)
    s = study()
    getattr(s, which)["ghost"] = 1.0
    with pytest.raises(InputMissing, match="ghost"):
        probe(s)
    s = study()
    setattr(s, which, dict(list(getattr(s, which).items())[:5]))
    with pytest.raises(BadConfig, match=f"{which} has 5 tasks"):
        probe(s)


def test_choices_that_are_no_probabilities_are_named():
    s = study()
    s.choices[2][17] = np.nan
    with pytest.raises(BadConfig, match=f"{s.choices[0][17]} against {s.choices[1][17]}"):
        probe(s)
