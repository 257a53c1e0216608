"""What pods ask for, against the arithmetic of a model's numbers."""

import json
import math
import struct
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from prefprobe.config import load_config
from prefprobe.plan.model import model_facts
from prefprobe.plan.pods import DEFAULTS, MOST, Request, pod_gpus, pod_requests
from prefprobe.settings import Config, ModelSettings

PRESETS = Path(__file__).parents[3] / "presets"


def model(folder: Path, parameters: int, d: int = 64, layers: int = 4) -> Path:
    """A folder that says this of its weights, in bfloat16; they are a hole in the file."""
    folder.mkdir(exist_ok=True)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [parameters], "data_offsets": [0, 2 * parameters]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(file.tell() + 2 * parameters)
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": layers, "hidden_size": d}))
    return folder


def study(*overrides: str) -> Config:
    preset = yaml.safe_load((PRESETS / "demo.yaml").read_text("utf-8"))
    del preset["encoders"]
    return load_config(PRESETS / "demo.yaml", overrides, yaml.safe_dump(preset))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@settings(deadline=None, max_examples=40)
@given(
    billions=st.floats(0.05, 200),
    base=st.floats(0.05, 200) | st.none(),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
)
def test_weights_fit_with_a_quarter_more_and_no_pod_asks_for_more_than_it_may_have(
    folder: Path, billions: float, base: float | None, dtype: str
) -> None:
    sizes = {"model": int(billions * 1e9)} | ({"base": int(base * 1e9)} if base else {})
    named = [f"{name}.source={model(folder / name, size)}" for name, size in sizes.items()]
    asked = pod_requests(study(*named, *(f"{name}.dtype={dtype}" for name in sizes)))["model"]
    gib = max(sizes.values()) * (4 if dtype == "float32" else 2) / 2**30
    assert asked.memory == min(math.ceil(2 + 1.25 * gib), MOST["model"])
    assert 1 <= asked.cpu <= DEFAULTS["model"].cpu
    assert asked.memory <= 8 * asked.cpu or asked.cpu == DEFAULTS["model"].cpu


def test_gpus_follow_from_bytes_at_the_quantisation_and_from_what_a_preset_says(folder: Path) -> None:
    large = f"model.source={model(folder / 'large', 70 * 10**9)}"
    for overrides, memory, expected in (
        ([], 80e9, 4),  # 280 GB in float32
        (["model.dtype=bfloat16"], 80e9, 2),
        (["model.dtype=bfloat16"], 192e9, 1),
        (["model.quantisation=8bit"], 80e9, 1),
        (["model.quantisation=8bit"], 48e9, 2),
        (["model.quantisation=4bit"], 48e9, 1),
        (["model.devices=3", "model.quantisation=4bit"], 80e9, 3),
        (["base.source=nobody/other-8b", "base.dtype=float32"], 24e9, 13),
        (["base.source=nobody/other-300b", "base.dtype=bfloat16"], 80e9, 9),
    ):
        assert pod_gpus(study(large, *overrides), memory) == expected, overrides
    assert pod_gpus(study("model.source=nobody/unknown"), 80e9) == 1


def test_a_quantised_model_keeps_embeddings_and_head_in_their_type(folder: Path) -> None:
    path = model(folder / "rows", 10**9, d=1000)
    for tied, rows in ((True, 1), (False, 2)):
        shape = {"num_hidden_layers": 4, "hidden_size": 1000, "vocab_size": 10**5, "tie_word_embeddings": tied}
        (path / "config.json").write_text(json.dumps(shape))
        for name, each in (("8bit", 1.0), ("4bit", 0.5625)):
            settings = ModelSettings(source=str(path), dtype="bfloat16", quantisation=name)
            assert model_facts(settings).held == 2 * rows * 1e8 + each * (1e9 - rows * 1e8)
        assert model_facts(ModelSettings(source=str(path), dtype="bfloat16")).held == 2e9


def test_the_models_of_the_published_study_by_their_names(folder: Path) -> None:
    asked = pod_requests(load_config(PRESETS / "gemma3.yaml"))
    assert asked["model"] == Request(8, math.ceil(2 + 1.25 * 27e9 * 2 / 2**30)) == Request(8, 65)
    assert asked["features"] == DEFAULTS["features"]  # no file here says how wide the model is
    here = [f"{name}.source={model(folder / name, 27 * 10**9, d=5376, layers=62)}" for name in ("model", "base")]
    rows, layers = 13_000, 9
    held = 4 * rows * layers * 5376 * 4 / 2**30
    folds = 8 * (2 * 10_000 * 5376 + 2 * 5376**2 + 10_000**2) / 2**30
    assert (
        pod_requests(load_config(PRESETS / "gemma3.yaml", here))["features"].memory == math.ceil(1 + held + folds) == 13
    )


def test_a_model_or_an_encoder_of_unknown_size_leaves_the_defaults(folder: Path) -> None:
    small = model(folder / "small", 10**8)
    assert pod_requests(study("model.source=nobody/unknown")) == DEFAULTS | {"encoder": Request(1, 2)}
    asked = pod_requests(study(f"model.source={small}", "base.source=nobody/unknown"))
    assert asked["model"] == DEFAULTS["model"]
    encoders = {"known": "nobody/encoder-0.6b", "unknown": "nobody/unknown"}
    asked = pod_requests(study(f"model.source={small}", f"encoders={json.dumps(encoders)}"))
    assert asked == {"model": Request(1, 3), "encoder": DEFAULTS["encoder"], "features": Request(1, 2)}
    del encoders["unknown"]
    asked = pod_requests(study(f"model.source={small}", f"encoders={json.dumps(encoders)}"))
    assert asked["encoder"] == Request(1, math.ceil(2 + 1.25 * 0.6e9 * 4 / 2**30))


@pytest.mark.model
def test_the_demo_asks_for_little() -> None:
    assert pod_requests(load_config(PRESETS / "demo.yaml")) == {
        "model": Request(1, 3),
        "encoder": Request(1, 3),
        "features": Request(1, 2),
    }
