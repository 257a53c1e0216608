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


def by_hand(s, select_and_final):
    """What scikit-learn makes of it: {target: {layer: (sweep on each selecting set, predictions at each alpha)}}."""
    train, evaluation = sorted(s.train), sorted(s.eval)
    y, y_eval = (np.array([of[i] for i in ids]) for of, ids in ((s.train, train), (s.eval, evaluation)))
    topic, topic_eval = (np.array([[s.topics[i]] for i in ids]) for ids in (train, evaluation))
    ols = make_pipeline(OneHotEncoder(), LinearRegression()).fit(topic, y)
    found = {}
    for target, own, of_eval in (
        ("raw", y, y_eval),
        ("demeaned", y - ols.predict(topic), y_eval - ols.predict(topic_eval)),
    ):
        for layer, X in s.layers.items():
            predicted = []
            for alpha in ALPHAS:
                model = make_pipeline(StandardScaler(), Ridge(alpha=alpha))
                model.fit(X[rows(s, train)].astype(float), own)
                predicted.append(model.predict(X[rows(s, evaluation)].astype(float)))
            sweeps = [
                [np.corrcoef(p[select], of_eval[select])[0, 1] for p in predicted] for select, _ in select_and_final
            ]
            found[target, layer] = of_eval, sweeps, predicted
    return found


@pytest.mark.parametrize("compat", [False, True])
def test_the_whole_protocol_is_that_of_scikit_learn(compat):
    """Each half is predicted by what was chosen on the other; with `compat` the first half alone chooses."""
    s = study()
    if compat:  # without what topics explain differently in both sets
        s.topics = dict.fromkeys(s.topics, "one")
    result = probe(s, compat=compat, permutations=0)
    evaluation = sorted(s.eval)
    order = np.random.default_rng(42).permutation(len(evaluation))
    one, two = order[: len(order) // 2], order[len(order) // 2 :]
    in_turn = {"2": (one, two)} if compat else {"1": (two, one), "2": (one, two)}
    kept_on = one if compat else order
    refits = by_hand(s, [*in_turn.values(), (kept_on, kept_on)])
    half = {i: "1" if k in set(one.tolist()) else "2" for k, i in enumerate(evaluation)}
    final = sorted(k for _, tested in in_turn.values() for k in tested)
    for target in ("raw",) if compat else ("raw", "demeaned"):
        got = result.targets[target]
        whole, p = np.full(len(evaluation), np.nan), {layer: np.full(len(evaluation), np.nan) for layer in s.layers}
        for turn, (name, (_, tested)) in enumerate(in_turn.items()):
            tops = {layer: max(refits[target, layer][1][turn]) for layer in s.layers}
            layer = max(tops, key=lambda name: tops[name])
            a = int(np.argmax(refits[target, layer][1][turn]))
            assert got["selected"][name] == {"layer": layer, "alpha": ALPHAS[a]}
            whole[tested] = refits[target, layer][2][a][tested]
            for other in s.layers:
                sweep = refits[target, other][1][turn]
                p[other][tested] = refits[target, other][2][int(np.argmax(sweep))][tested]
        observed = refits[target, 0][0][final]
        names = np.array([half[evaluation[k]] for k in final])
        r = [np.corrcoef(observed[names == h], whole[final][names == h])[0, 1] for h in in_turn]
        sizes = [(names == h).sum() for h in in_turn]
        assert got["r"]["value"] == pytest.approx(np.tanh(np.average(np.arctanh(r), weights=sizes)), abs=1e-7)
        sse = ((observed - whole[final]) ** 2).sum()
        assert got["R2"] == pytest.approx(1 - sse / ((observed - observed.mean()) ** 2).sum())
        score = dict(zip(np.array(evaluation)[final], whole[final], strict=True))
        right = [
            (score[i] > score[j]) == (p_a > 0.5)
            for i, j, p_a in zip(*s.choices, strict=True)
            if i in score and j in score and half[i] == half[j] and p_a != 0.5
        ]
        assert got["accuracy"]["value"] == pytest.approx(np.mean(right))
        table = result.predictions
        assert values(table, target, "task_id").tolist() == np.array(evaluation)[final].tolist()
        assert [str(h) for h in values(table, target, "half")] == [half[evaluation[k]] for k in final]
        np.testing.assert_allclose(values(table, target, "observed"), observed, atol=1e-9)
        np.testing.assert_allclose(values(table, target, "predicted"), whole[final], atol=1e-6)
        for layer in s.layers:  # the layer alone, and its probe that is kept
            found, sweep = got["layers"][str(layer)], refits[target, layer][1][-1]
            assert found["sweep"] == pytest.approx(sweep, abs=1e-7)
            assert found["alpha"] == ALPHAS[int(np.argmax(sweep))]
            assert found["alpha_at_edge"] == (int(np.argmax(sweep)) in (0, 9))
            assert found["r_select"] == max(found["sweep"])
            alone = [np.corrcoef(observed[names == h], p[layer][final][names == h])[0, 1] for h in in_turn]
            assert found["r"] == pytest.approx(np.tanh(np.average(np.arctanh(alone), weights=sizes)), abs=1e-7)
            assert found["r_squared"] == pytest.approx(found["r"] ** 2)
            assert found["n_choices"] == len(right)
        best = got["layers"][str(got["best_layer"])]
        assert best["r_select"] == max(found["r_select"] for found in got["layers"].values())
        assert got["alpha"] == best["alpha"]
    n_select, n_final = (45, 45) if compat else (90, 90)
    assert result.split == {"n_train": 150, "n_eval": 90, "n_select": n_select, "n_final": n_final}
    assert result.candidates == 3


def test_a_planted_direction_is_found_in_its_layer_only(planted):
    _, result = planted
    for target in ("raw", "demeaned"):
        found = result.targets[target]
        assert found["best_layer"] == PLANTED
        assert found["r"]["value"] > 0.9
        assert found["r"]["low"] > 0.8
        assert found["accuracy"]["low"] > 0.75
        assert found["layers"]["0"]["r"] < 0.4
        assert found["p"] == {"value": 1 / 200, "permutations": 199}


def test_a_task_has_no_say_in_what_predicts_it():
    """Other utilities in one half change what the other half is predicted by, and not by what it is predicted itself."""
    s = study()
    s.layers = {layer: random_features(s.ids, 40, seed=layer) for layer in range(6)}
    before = probe(s, permutations=0)
    of = dict(zip(values(before.predictions, "raw", "task_id"), values(before.predictions, "raw", "half"), strict=True))
    rng = np.random.default_rng(0)
    s.eval = {i: mu if of[i] == 2 else rng.normal() for i, mu in s.eval.items()}
    after = probe(s, permutations=0)
    one = values(before.predictions, "raw", "half") == 1
    old, new = (values(x.predictions, "raw", "predicted") for x in (before, after))
    assert (old[one] == new[one]).all()
    assert (old[~one] != new[~one]).all()


def test_controls_are_at_chance(planted):
    s, result = planted
    for target in ("raw", "demeaned"):
        chance = result.shuffled[target]
        assert chance["permutations"] == 199
        assert chance["low"] < 0 < chance["high"] < result.targets[target]["r"]["low"]
        assert abs(chance["mean"]) < 0.05
    blind = study(n_train=200, n_eval=300)
    blind.layers = {0: random_features(blind.ids, 60, seed=1)}
    found = probe(blind).targets["raw"]
    assert abs(found["r"]["value"]) < 0.25
    assert found["p"]["value"] > 0.01
    assert abs(found["accuracy"]["value"] - 0.5) < 0.12
    assert s.layers.keys() == {0, 1, 2}


def test_shuffled_labels_are_solved_like_true_ones(planted):
    """The same permutations put in by hand as the utilities of both sets give one of the control's values."""
    s, _ = planted
    rng = np.random.default_rng([7, 0])
    ids = [sorted(of) for of in (s.train, s.eval)]
    train, eval_ = (
        {i: of[names[j]] for i, j in zip(names, rng.permutation(len(names)), strict=True)}
        for of, names in zip((s.train, s.eval), ids, strict=True)
    )
    expected = probe(SimpleNamespace(**{**vars(s), "train": train, "eval": eval_}), permutations=0).targets["raw"]["r"][
        "value"
    ]
    found = probe(s, seed=7, permutations=1)
    control = {"mean": pytest.approx(expected), "low": pytest.approx(expected), "high": pytest.approx(expected)}
    assert found.shuffled["raw"] == {**control, "permutations": 1}
    assert found.targets["raw"]["p"] == {"value": 0.5, "permutations": 1}


def test_one_large_component_does_not_hide_what_is_there():
    """Every probe falls on it, whatever its labels, so labels of train alone would not tell a real r from chance."""
    s = study(n_train=100, n_eval=80)
    mu = np.array([{**s.train, **s.eval}[i] for i in s.ids])
    noise = random_features(s.ids, 20, seed=3)
    s.layers = {0: noise + 10 * (mu + 2 * random_features(s.ids, 1, seed=4)[:, 0])[:, None]}
    found = probe(s)
    assert 0.25 < found.targets["raw"]["r"]["value"] < 0.75
    assert found.targets["raw"]["p"]["value"] == 1 / 200
    assert found.shuffled["raw"]["high"] < 0.3


def test_without_permutations_there_is_no_p(planted):
    s, result = planted
    found = probe(s, permutations=0)
    assert found.targets["raw"]["p"] is None
    assert found.shuffled["raw"] == {"mean": None, "low": None, "high": None, "permutations": 0}
    assert found.targets["raw"]["r"] == result.targets["raw"]["r"]


def test_saved_probes_make_the_reported_predictions(planted):
    s, result = planted
    assert set(result.probes) == {f"{t}_{layer}_{k}" for t in ("raw", "demeaned") for layer in s.layers for k in "wb"}
    for target in ("raw", "demeaned"):
        best = result.targets[target]["best_layer"]
        w, b = (result.probes[f"{target}_{best}_{k}"] for k in "wb")
        assert (w.dtype, w.shape, b.shape) == (np.float64, (40,), ())
        for half, chosen in result.targets[target]["selected"].items():
            inside = values(result.predictions, target, "half") == int(half)
            X = s.layers[best][rows(s, values(result.predictions, target, "task_id")[inside])]
            same = np.abs(X @ w + b - values(result.predictions, target, "predicted")[inside]).max() < 1e-9
            kept = {"layer": best, "alpha": result.targets[target]["alpha"]}
            assert same == (chosen == kept)
    assert any(t["selected"][h]["alpha"] == t["alpha"] for t in result.targets.values() for h in "12")


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
    compat = probe(s, compat=True, permutations=0)
    ids = values(compat.predictions, "demeaned", "task_id")
    assert (values(compat.predictions, "demeaned", "half") == 2).all()
    topics = np.array([s.topics[i] for i in ids])
    ours, theirs = (values(x.predictions, "demeaned", "observed") for x in (result, compat))
    ours = ours[values(result.predictions, "demeaned", "half") == 2]
    for topic in set(topics):
        of_train, of_eval = (np.mean([m for i, m in of.items() if s.topics[i] == topic]) for of in (s.train, s.eval))
        assert abs(of_train - of_eval) > 1e-3
        np.testing.assert_allclose((ours - theirs)[topics == topic], of_eval - of_train, atol=1e-12)


def test_what_cannot_be_estimated_is_null_in_json():
    s = study(n_train=30, n_eval=20)
    s.train = dict.fromkeys(s.train, 1.5)
    s.choices = tuple(column[:0] for column in s.choices)
    result = probe(s)
    text = json.dumps(result.summary, allow_nan=False)
    assert "null" in text
    found = result.targets["raw"]
    assert found["r"] is None
    assert found["p"] is None
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
