"""Layers of held-out topics over several steps: the result is that of one, to the last bit."""

from pathlib import Path

import pytest

from tests.planted_study import execute, planted_study, prefers


def test_any_number_of_shards_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for shards in (1, 3):
        run = planted_study(tmp_path, monkeypatch, prefers, blocks={"probes": {"shards": shards}})
        found[shards] = execute(run)
        of_model = [name for name in found[shards] if name.startswith("hoo-layers.model.")]
        assert len(of_model) == min(shards, len(run.config.activations.fractions))
        files = sorted(file for name in of_model for file in found[shards][name])
        assert len(files) > 2
        assert len(set(files)) == len(files)
        assert [name for name in found[shards] if name.startswith("hoo-layers.words.")] == ["hoo-layers.words.0"]
    for features in ("model", "words"):
        one, *others = (found[shards][f"hoo.{features}"] for shards in found)
        assert others == [one]
