"""A single probe: trained, tested, saved and read again."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prefprobe.errors import BadConfig
from prefprobe.probes.metrics import pearson
from prefprobe.probes.probe import Probe
from prefprobe.store.formats import json_bytes, npz_bytes

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(60, 12)) * RNG.uniform(0.1, 5, 12) + RNG.normal(size=12)).astype(np.float32)
y = X @ RNG.normal(size=12) + RNG.normal(size=60)
topics = np.arange(60) % 5


def test_scores_are_those_of_scikit_learn() -> None:
    probe = Probe.train(X, y, alphas=3.0)
    reference = make_pipeline(StandardScaler(), Ridge(alpha=3.0)).fit(X.astype(np.float64), y)
    np.testing.assert_allclose(probe.score(X), reference.predict(X.astype(np.float64)), rtol=1e-9)
    assert probe.card["alpha"] == 3.0


@pytest.mark.parametrize("grouped", [False, True])
def test_the_penalty_is_that_of_the_best_left_out_predictions(grouped: bool) -> None:
    alphas = np.logspace(-1, 5, 7)
    noisy = y + np.random.default_rng(1).normal(size=60) * 8
    probe = Probe.train(X, noisy, groups=topics if grouped else None, alphas=alphas)
    split = LeaveOneGroupOut().split(X, noisy, topics) if grouped else LeaveOneOut().split(X)
    folds = list(split)
    # the scaling is that of all rows, which uses no target
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    left_out = {a: pearson(noisy, cross_val_predict(Ridge(alpha=a), Z, noisy, cv=folds)) for a in alphas.tolist()}
    assert probe.card["alpha"] == max(left_out, key=lambda a: left_out[a] or -1)
    assert probe.card["r_left_out"] == pytest.approx(left_out[probe.card["alpha"]])


def test_a_planted_direction_is_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(2)
    w = rng.normal(size=40)
    train, test = rng.normal(size=(300, 40)), rng.normal(size=(200, 40))
    probe = Probe.train(train, train @ w + rng.normal(size=300), layer=7)
    found = probe.test(test, test @ w)
    assert found.r is not None
    assert found.R2 is not None
    assert found.r["value"] > 0.95
    assert found.R2 > 0.9
    chance = Probe.train(train, rng.normal(size=300)).test(test, test @ w).r
    assert chance is not None
    assert chance["low"] is not None
    assert chance["high"] is not None
    assert chance["low"] < 0 < chance["high"]


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    probe = Probe.train(X, y, layer=9, groups=topics)
    probe.save(tmp_path / "mine")
    again = Probe.load(tmp_path / "mine")
    assert (again.layer, again.target, again.b) == (9, "raw", probe.b)
    np.testing.assert_array_equal(again.score(X), probe.score(X))
    assert again.card["alpha"] == probe.card["alpha"]
    again.save(tmp_path / "copy")
    for name in ("probes.npz", "card.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "mine" / name).read_bytes()
    with pytest.raises(BadConfig, match=r"probes\.npz exists; save into a new folder"):
        probe.save(tmp_path / "mine")


def folder_of_a_step(folder: Path) -> Path:
    """As the step `probe` writes it: both targets, several layers."""
    folder.mkdir()
    names = [f"{target}_{layer}" for target in ("raw", "demeaned") for layer in (3, 12)]
    weights = {f"{name}_w": np.ones(2) * int(name.rpartition("_")[2]) for name in names}
    weights |= {f"{name}_b": np.array(0.5) for name in names}
    (folder / "probes.npz").write_bytes(npz_bytes(weights))
    best = {"raw": {"best_layer": 12, "alpha": 1.0, "r": None}, "demeaned": {"best_layer": 3, "alpha": 1.0, "r": None}}
    (folder / "card.json").write_bytes(json_bytes({"features": "model", "source": "abc", "inputs": {}, "best": best}))
    return folder


def test_the_best_probe_of_a_step_is_loaded_or_the_one_asked_for(tmp_path: Path) -> None:
    folder = folder_of_a_step(tmp_path / "step")
    assert Probe.load(folder).w.tolist() == [12, 12]
    assert Probe.load(folder, target="demeaned").w.tolist() == [3, 3]
    assert Probe.load(folder, layer=3).card["source"] == "abc"
    with pytest.raises(
        BadConfig, match=r"holds no raw_5_w; its probes are demeaned_12, demeaned_3, raw_12, raw_3; name one"
    ):
        Probe.load(folder, layer=5)


@pytest.mark.parametrize("name", ["probes.npz", "card.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "other"])
def test_a_damaged_folder_is_refused_in_one_sentence(tmp_path: Path, name: str, damage: str) -> None:
    folder = folder_of_a_step(tmp_path / "step")
    file = folder / name
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        other = json_bytes([1]) if name == "card.json" else npz_bytes({"x": np.ones(1)})
        file.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "other": other}[damage])
    with pytest.raises(BadConfig, match=str(folder)):
        Probe.load(folder)


def test_a_pickled_file_is_never_opened(tmp_path: Path) -> None:
    folder = folder_of_a_step(tmp_path / "step")
    np.savez(folder / "probes.npz", raw_12_w=np.array([object()], dtype=object), raw_12_b=np.array(0.0))
    with pytest.raises(BadConfig, match="cannot be read"):
        Probe.load(folder)


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    probe = Probe.train(X, y)
    with pytest.raises(BadConfig, match=r"shape \(3, 4\), and the probe reads \(n, 12\)"):
        probe.score(np.ones((3, 4)))
    with pytest.raises(BadConfig, match="expected one value for each row"):
        probe.test(X, y[:-1])
    with pytest.raises(BadConfig, match=r"expected \(n, d\)"):
        Probe.train(X, y[:-1])
    bad = X.copy()
    bad[5, 2] = np.nan
    with pytest.raises(BadConfig, match="row 5"):
        probe.test(bad, y)
    with pytest.raises(BadConfig, match="row 5"):
        probe.score(bad)
    with pytest.raises(BadConfig, match="expected one penalty or a list"):
        Probe.train(X, y, alphas=[])
    with pytest.raises(BadConfig, match="neither raw nor demeaned"):
        Probe.train(X, y, target="other")  # type: ignore[arg-type]
    assert json.loads(json_bytes(dict(probe.card)))["n_train"] == 60


def test_another_layer_than_the_best_is_saved_as_the_one_that_it_is(tmp_path: Path) -> None:
    folder = folder_of_a_step(tmp_path / "step")
    Probe.load(folder, layer=3).save(tmp_path / "one")
    again = Probe.load(tmp_path / "one")
    assert (again.layer, again.w.tolist(), again.card["source"]) == (3, [3, 3], "abc")
    assert list(again.card["best"]) == ["raw"]


def test_a_card_may_say_anything_that_is_plain_and_nothing_is_left_of_one_that_is_not(tmp_path: Path) -> None:
    Probe(np.ones(2), 0.0, card={"layer": 3, "target": "x", "weights": 1}).save(tmp_path / "odd")
    assert Probe.load(tmp_path / "odd").card["layer"] == 3
    with pytest.raises(BadConfig, match="the card is not plain JSON"):
        Probe(np.ones(2), 0.0, card={"at": object()}).save(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    Probe.train(X, y, layer=np.int64(3)).save(tmp_path / "numpy")  # type: ignore[arg-type]
    assert Probe.load(tmp_path / "numpy").layer == 3
    with pytest.raises(BadConfig, match="is a file; save into a folder"):
        Probe.train(X, y).save(tmp_path / "odd" / "card.json")
