"""Content controls in planted worlds: features that know what an encoder knows, and features that know more."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.probes.content import FOLDS, content_controls
from prefprobe.probes.ridge import ALPHAS

N_TRAIN, N_EVAL = 200, 100


def world(seed: int, own: float = 0.0, noise: float = 0.5, width: int = 30) -> Any:
    """Utilities are .6 of what the encoder knows and `own` of what the model alone does; it sees the encoder through noise."""
    rng = np.random.default_rng(seed)
    n = N_TRAIN + N_EVAL
    encoder, secret = rng.normal(size=(n, 20)), rng.normal(size=(n, 1))
    known = encoder @ rng.normal(size=20)
    mu = 0.6 * known / known.std() + own * secret[:, 0] + np.sqrt(0.64 - own**2) * rng.normal(size=n)
    model = encoder @ rng.normal(size=(20, width)) / np.sqrt(20) + noise * rng.normal(size=(n, width))
    model = model + (own > 0) * secret @ rng.normal(size=(1, width))
    ids = rng.permutation([f"task {i:03d}" for i in range(n)])
    utilities = dict(zip(ids.tolist(), mu.tolist(), strict=True))
    names = ids.tolist()
    return SimpleNamespace(
        ids=ids, model=model.astype(np.float32), encoder=encoder.astype(np.float32),
        train={i: utilities[i] for i in names[:N_TRAIN]}, eval={i: utilities[i] for i in names[N_TRAIN:]},
    )  # fmt: skip


def controls(w: Any, **options: Any) -> Any:
    return content_controls((w.ids, w.model), {"words": (w.ids, w.encoder)}, w.train, w.eval, **options)["words"]


def test_what_the_encoder_knows_is_no_more_than_it_knows() -> None:
    found = [controls(world(seed), permutations=0) for seed in range(40)]
    r, gain = ([f["residual"]["r"] for f in found], [f["nested"]["gain"] for f in found])
    for estimates in (r, gain):
        assert abs(np.mean([e["value"] for e in estimates])) < 0.03
        assert np.mean([e["low"] > 0 for e in estimates]) <= 0.1


def test_a_wide_model_that_fits_any_train_set_takes_no_weight_from_the_encoder() -> None:
    """Predictions of tasks that a probe was fitted to would be nearly perfect, and stacked alone."""
    gains = [controls(world(seed, noise=5.0, width=400), permutations=0)["nested"]["gain"] for seed in range(6)]
    assert abs(np.mean([gain["value"] for gain in gains])) < 0.02


def test_what_the_model_alone_knows_is_found() -> None:
    found = controls(world(0, own=0.6))
    assert found["residual"]["r"]["low"] > 0.3
    assert found["residual"]["p"] == {"value": 1 / 200, "permutations": 199}
    assert found["nested"]["gain"]["low"] > 0.05
    assert found["nested"]["both"]["r"] > found["nested"]["encoder"]["r"] + 0.1
    assert found["nested"]["gain"]["value"] == pytest.approx(
        found["nested"]["both"]["r"] - found["nested"]["encoder"]["r"]
    )


def test_the_reverse_says_what_the_encoder_adds() -> None:
    w = world(1, own=0.6)
    w.model, w.encoder = w.encoder, w.model
    found = controls(w, permutations=0)["nested"]
    assert found["gain_of_encoder"]["low"] > 0.05
    assert found["gain"]["low"] < 0.02


def test_features_that_are_a_function_of_the_encoders_leave_nothing_to_probe() -> None:
    found = controls(world(2, noise=0.0), permutations=0)
    assert found["residual"] == {"r": None, "p": None, "alpha": {"1": ALPHAS[-1], "2": ALPHAS[-1]}}
    assert abs(found["nested"]["gain"]["value"]) < 0.05


def test_stacked_predictions_are_those_of_scikit_learn() -> None:
    w = world(3, own=0.4)
    found = controls(w, permutations=0)["nested"]
    train, evaluation = sorted(w.train), sorted(w.eval)
    y, y_eval = (np.array([of[i] for i in ids]) for of, ids in ((w.train, train), (w.eval, evaluation)))
    at = {i: k for k, i in enumerate(w.ids)}
    fold = np.random.default_rng(0).permutation(N_TRAIN) % FOLDS
    stacked: list[list[np.ndarray]] = [[], []]
    for X in (w.encoder.astype(float), w.model.astype(float)):
        Xt, Xe = X[[at[i] for i in train]], X[[at[i] for i in evaluation]]
        left_out = np.empty((len(ALPHAS), N_TRAIN))
        for a, alpha in enumerate(ALPHAS):
            for k in range(FOLDS):
                part = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(Xt[fold != k], y[fold != k])
                left_out[a, fold == k] = part.predict(Xt[fold == k])
        a = int(((left_out - y) ** 2).sum(axis=1).argmin())
        stacked[0].append(left_out[a])
        stacked[1].append(make_pipeline(StandardScaler(), Ridge(alpha=ALPHAS[a])).fit(Xt, y).predict(Xe))
    for name, of in (("encoder", [0]), ("model", [1]), ("both", [0, 1])):
        over = LinearRegression().fit(np.array(stacked[0])[of].T, y)
        predicted = over.predict(np.array(stacked[1])[of].T)
        assert found[name]["r"] == pytest.approx(np.corrcoef(predicted, y_eval)[0, 1], abs=1e-6)
        assert found[name]["R2"] == pytest.approx(over.score(np.array(stacked[1])[of].T, y_eval), abs=1e-6)


def test_order_does_not_matter_and_constants_are_not_estimable() -> None:
    w = world(4, own=0.3)
    order = np.random.default_rng(0).permutation(len(w.ids))
    mixed = content_controls(
        (w.ids[order], w.model[order]), {"words": (w.ids, w.encoder)}, dict(reversed(w.train.items())), w.eval,
        permutations=5,
    )  # fmt: skip
    assert mixed["words"] == controls(w, permutations=5)
    w.train = dict.fromkeys(w.train, 1.0)
    found = controls(w, permutations=5)
    json.dumps(found, allow_nan=False)
    assert found["residual"]["r"] is None
    assert found["nested"]["gain"] is None


def test_what_is_missing_is_named() -> None:
    w = world(5)
    with pytest.raises(InputMissing, match="has no features"):
        content_controls((w.ids[1:], w.model[1:]), {}, w.train, w.eval)
    w.encoder[7, 3] = np.nan
    with pytest.raises(BadConfig, match=w.ids[7]):
        controls(w)
    with pytest.raises(BadConfig, match="train has 5 tasks"):
        content_controls((w.ids, w.model), {}, dict(list(w.train.items())[:5]), w.eval)
