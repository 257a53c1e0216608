"""Shards of the system prompts: as many as there are or more, and of no prompt at all."""

import json
from pathlib import Path

import pytest

from tests.planted_study import execute, planted_study, prefers


def test_more_shards_than_prompts_and_no_experiment_are_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = str(tmp_path / "one" / "category.yaml")
    one, many, none = (
        execute(planted_study(tmp_path / name, monkeypatch, prefers, blocks={"shift": {"comparisons": 3, **changes}}))
        for name, changes in (
            ("one", {"experiments": [yaml]}),
            ("many", {"experiments": [yaml], "shards": 16}),
            ("none", {"experiments": []}),
        )
    )
    assert many["shift"]["points.parquet"] == one["shift"]["points.parquet"]
    assert (
        json.loads(many["shift"]["shift.json"])["experiments"] == json.loads(one["shift"]["shift.json"])["experiments"]
    )
    assert json.loads(none["shift"]["shift.json"])["experiments"] == {}
    answer = json.loads(none["report"]["verdict.json"])["summary"]["answer"]
    assert answer.endswith("whether it follows preferences that system prompts change was not tested.")
