"""A part of an experiment through every step, with whole utilities fitted under some of its prompts."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from prefprobe.errors import BadConfig
from prefprobe.store.formats import read_json, read_parquet
from prefprobe.study.run import Run
from tests.planted_study import execute, planted_study, prefers


def planted(folder: Path, monkeypatch: pytest.MonkeyPatch, **shift: object) -> Run:
    given = {"comparisons": 3, "experiments": [str(folder / "category.yaml")], **shift}
    return planted_study(folder, monkeypatch, prefers, blocks={"shift": given})


def test_a_part_is_measured_scored_and_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = {"prompts": 4, "tasks": 4}
    whole = planted(tmp_path, monkeypatch).nodes["shift"].params
    with pytest.raises(BadConfig, match=r"^shift\.refitted: 'hate-nothing' is neither a prompt nor an experiment"):
        execute(planted(tmp_path, monkeypatch, refitted=["hate-nothing"]))
    run = planted(tmp_path, monkeypatch, subset=part)
    assert "subset" not in whole
    assert run.nodes["shift"].params["subset"] == part
    outputs = execute(run)
    found = read_json(outputs["shift"]["shift.json"])["experiments"]["category"]
    assert found["part"].startswith("4 of ")
    assert (found["n_prompts"], found["n_tasks"]) == (4, 4)
    assert "refitted" not in found
    points = read_parquet(outputs["shift"]["points.parquet"])
    assert "dmu" not in points.column_names
    prompts = set(points.column("prompt_id").to_pylist())
    assert prompts < set(read_parquet(outputs["shift-score.0"]["scores.parquet"]).column("prompt_id").to_pylist())


def test_utilities_under_a_prompt_stand_beside_what_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planted(tmp_path, monkeypatch, refitted=["category"])
    assert "measure.train" in run.nodes["shift"].reads
    outputs = execute(run)
    points = read_parquet(outputs["shift"]["points.parquet"])
    points = points.filter(pc.invert(points.column("neutral")))  # of the experiment's own prompts alone
    dp, dmu = (points.column(name).to_numpy() for name in ("dp", "dmu"))
    assert np.isfinite(dmu).all()
    moved = np.abs(dp) > 0.02
    assert (np.sign(dmu) == np.sign(dp))[moved].all()
    assert np.corrcoef(dp, dmu)[0, 1] > 0.8
    found = read_json(outputs["shift"]["shift.json"])["experiments"]["category"]["refitted"]
    assert found["n"] == sum(points.column("on_target").to_pylist())
