"""Presets: every value is checked, and every error names the file and the key."""

from pathlib import Path

import pytest
import yaml

from prefprobe.config import load_config
from prefprobe.errors import BadConfig
from prefprobe.settings import Config

PRESETS = Path(__file__).parents[2] / "presets"
DEMO = PRESETS / "demo.yaml"


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_preset_is_valid_and_named_like_its_file(preset: Path) -> None:
    assert load_config(preset).name == preset.stem


def test_gemma3_has_the_published_values() -> None:
    config = load_config(PRESETS / "gemma3.yaml")
    assert (config.tasks.n_train, config.tasks.n_eval) == (10_000, 3_000)
    assert [(s.batch, s.rank_threshold) for s in (config.train, config.eval)] == [(5000, 0.995), (2000, 0.99)]
    assert [int(f * 62) for f in config.activations.fractions] == [6, 12, 18, 24, 31, 37, 43, 49, 55]


def test_environment_lies_over_the_preset_and_set_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFPROBE_TRAIN__MAX_ROUNDS", "7")
    monkeypatch.setenv("PREFPROBE_EVAL__MAX_ROUNDS", "7")
    config = load_config(DEMO, ["eval.max_rounds=2", "base.source=owner/name"])
    assert (config.train.max_rounds, config.eval.max_rounds) == (7, 2)
    assert config.base is not None
    assert config.base.source == "owner/name"


def test_what_a_run_saves_is_a_preset_again(tmp_path: Path) -> None:
    config = load_config(DEMO)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(tmp_path / "again.yaml") == config
    assert Config(**config.model_dump()) == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.max_round=1", r"demo\.yaml: `train\.max_round` is not a setting \(did you mean `max_rounds`\?\)"),
        ("models=1", r"`models` is not a setting \(did you mean `model`\?\)"),
        ("base.sorce=x", r"`base\.sorce` is not a setting \(did you mean `source`\?\)"),
        ("tasks.n_train=many", r"`tasks\.n_train`: input should be a valid integer"),
        ("model.dtype=float8", r"`model\.dtype`: input should be 'float32'"),
        ("train.batch", "expected KEY=VALUE"),
    ],
)
def test_wrong_keys_and_values_are_named(override: str, expected: str) -> None:
    with pytest.raises(BadConfig, match=expected):
        load_config(DEMO, [override])


@pytest.mark.parametrize(
    ("text", "expected"), [("a: [", "line 1: not valid YAML"), ("- a", "expected a mapping"), (None, "no such preset")]
)
def test_files_that_are_no_preset(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "p.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadConfig, match=expected):
        load_config(path)
