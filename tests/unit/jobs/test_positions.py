"""A study that reads its model at several positions: each is a feature of its own, out of the same parts."""

import json
from pathlib import Path

import numpy as np
import pytest

from prefprobe.errors import BadConfig
from prefprobe.features.feature_files import position_in
from prefprobe.features.stored import select
from prefprobe.own.scoring import score_features
from prefprobe.store.formats import read_npz
from prefprobe.study.export import copy_outputs, export_features
from tests.planted_study import execute, planted_study, prefers

ACTIVATIONS = {"positions": ["last", "mean", "turn:-3"], "dtype": "bfloat16", "shards": 2, "fractions": [0.2, 0.5]}


def test_every_position_is_probed_crossed_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planted_study(tmp_path, monkeypatch, prefers, blocks={"activations": ACTIVATIONS})
    found = execute(run)
    names = ["model", "model-mean", "model-turn-3"]
    assert {name for name in found if name.startswith("extract.")} == {
        f"extract.{features}.{k}" for features in ("model", "untrained") for k in (0, 1)
    }
    sizes = {k: len(read_npz(found[f"extract.model.{k}"]["part-00000.npz"])["task_ids"]) for k in (0, 1)}
    assert sum(sizes.values()) == 60
    assert min(sizes.values()) > 0
    about = json.loads(found["extract.model.0"]["features.json"])
    assert (about["positions"], about["dtype"]) == (ACTIVATIONS["positions"], "bfloat16")
    assert "positions" not in json.loads(found["extract.untrained.0"]["features.json"])
    r = {
        n: json.loads(found[f"probe.{n}"]["probe.json"])["targets"]["raw"]["r"]["value"] for n in [*names, "untrained"]
    }
    assert all(r[name] > 0.5 > abs(r["untrained"]) for name in names)
    assert len({r[name] for name in names}) == 3
    assert all(json.loads(found[f"hoo.{name}"]["hoo.json"])["mean"]["value"] > 0 for name in names)
    overview = found["report"]["overview.csv"].decode()
    assert "model at mean" in overview
    assert "model at turn:-3" in overview
    assert "averaged over the tokens of the task" in found["report"]["index.html"].decode()

    cards = {name: json.loads(found[f"probe.{name}"]["card.json"]) for name in [*names, "untrained", "words"]}
    told = {name: card["position"] for name, card in cards.items() if "position" in card}
    assert told == {"model-mean": "mean", "model-turn-3": "turn:-3"}  # the others are of the last token, or of none

    for name in ("model", "words"):
        export_features(run, name, tmp_path / name)
        copy_outputs(run, [run.nodes[f"probe.{name}"]], tmp_path / f"probe.{name}")
    export_features(run, "model-mean", tmp_path / "mean")
    files = {name: tmp_path / name / "activations.npz" for name in ("model", "mean", "words")}
    assert position_in(files["words"]) is None
    assert score_features(tmp_path / "probe.model", files["model"], None, "raw", 2).startswith('"task_id","score"')
    with pytest.raises(
        BadConfig, match=r"read at the position mean, and those that the probe in .* was trained on at last;"
    ):
        score_features(tmp_path / "probe.model", files["mean"], None, "raw", 2)
    with np.load(tmp_path / "mean" / "activations.npz") as arrays:
        assert sorted(arrays.files) == ["about", "layer_2", "layer_5", "task_ids"]
        assert json.loads(str(arrays["about"])) == {"features": "model-mean", "position": "mean"}
        assert arrays["layer_2"].dtype == np.float32
        rows = dict(zip(arrays["task_ids"].tolist(), arrays["layer_2"], strict=True))
    part = select(read_npz(found["extract.model.1"]["part-00000.npz"]), [2], "mean")
    for id_, vector in zip(part["task_ids"], part["layer_2"], strict=True):
        assert np.array_equal(rows[str(id_)], vector)
