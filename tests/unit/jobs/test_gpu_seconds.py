"""GPU seconds stand in the record of steps that run where a GPU is, if one was held."""

from pathlib import Path

import pytest

from prefprobe.progress import Progress
from prefprobe.study import run as study_run
from prefprobe.study.summary import show_status
from prefprobe.study.versions import gpus
from tests.planted_study import planted_study, prefers


def test_gpu_seconds_are_seconds_by_gpus_of_gpu_steps_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpus() == 0  # none here, whether torch was loaded or not
    run = planted_study(tmp_path, monkeypatch, prefers)
    held = 36_000  # so many that the seconds of a planted step are hours
    monkeypatch.setattr(study_run, "gpus", lambda: held)
    for name in ("tasks", "topics", "measure.train"):
        run.execute(run.nodes[name], Progress.silent())
    meta = {name: run.finished(name).meta for name in ("tasks", "topics", "measure.train")}
    spent = meta["measure.train"]["gpu_seconds"]
    assert spent == pytest.approx(held * meta["measure.train"]["seconds"], abs=0.005 * held + 0.01)
    assert all("gpu_seconds" not in meta[name] for name in ("tasks", "topics"))
    show_status(run)
    assert f"3 of {len(run.nodes)} steps are done, in {spent / 3600:,.2f} GPU hours" in capsys.readouterr().out
