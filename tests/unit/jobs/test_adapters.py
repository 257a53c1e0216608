"""Every step that loads a model asks for the commits that its run has pinned, those of adapters too."""

from pathlib import Path

import pytest

from tests.planted_study import LOADED, execute, planted_study, prefers


def folder(path: Path, weights: bytes) -> str:
    path.mkdir()
    (path / "adapter_model.safetensors").write_bytes(weights)
    return str(path)


def test_models_are_loaded_at_their_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("model", "model.adapter", "base", "base.adapter")
    paths = {name: folder(tmp_path / name, name.encode()) for name in names}
    blocks = {name: {"source": paths[name], "adapter": paths[f"{name}.adapter"]} for name in ("model", "base")}
    run = planted_study(tmp_path / "run", monkeypatch, prefers, blocks=blocks)
    execute(run)
    assert len({run.pins[name] for name in names}) == 4
    asked = {name: (paths[name], run.pins[name], run.pins[f"{name}.adapter"]) for name in ("model", "base")}
    # extract.model.0, extract.base.0, extract.untrained.0, measure.train, measure.eval, shift-measure.0, shift-score.0
    assert [asked[name] for name in ("model", "base", "model", "model", "model", "model", "model")] == LOADED
