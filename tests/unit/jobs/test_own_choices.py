"""An endpoint and own weights of one study: asked the same pairs, and held against each other before anything is paid for."""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from prefprobe.choices.agreement import SAMPLES
from prefprobe.choices.engine import Question
from prefprobe.config import load_config
from prefprobe.errors import BadConfig
from prefprobe.progress import Progress
from prefprobe.study.run import Run
from tests.fault_server import Behaviour, FaultServer
from tests.planted_study import PlantedEngine

PAIRS = 12
NOWHERE = "http://127.0.0.1:1/v1"


def worth(text: str) -> float:
    return float(text.rpartition("u=")[2].rstrip("."))


def served(question: Question) -> float:
    """The logit with which the server chooses."""
    return worth(question.first) - worth(question.second) + Behaviour.bias


def other_way(question: Question) -> float:
    return worth(question.second) - worth(question.first) + Behaviour.bias


class Study:
    """A store with tasks and topics, own weights that choose as they are told, and an endpoint."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, own: Callable[[Question], float], mass: float = 0.9
    ):
        self.folder = folder
        rng = random.Random(3)
        rows = [
            {"id": f"t{i}", "text": f"Task {i}, u={rng.gauss(0, 1.5):+.2f}.", "topic": f"k{i % 3}"} for i in range(48)
        ]
        (folder / "tasks.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (folder / "model").mkdir()
        (folder / "model" / "weights.safetensors").write_bytes(b"none")
        self.engine = PlantedEngine(own, exact=True, mass=lambda _: mass)
        self.loaded: list[dict[str, Any]] = []
        local, loading = ModuleType("local"), ModuleType("loading")

        def load_model(*_: Any, **how: Any) -> object:
            self.loaded.append(how)
            return object()

        vars(local).update(LocalEngine=lambda *_, **__: self.engine)
        vars(loading).update(load_model=load_model)
        monkeypatch.setitem(sys.modules, "prefprobe.choices.local", local)
        monkeypatch.setitem(sys.modules, "prefprobe.activations.loading", loading)

    def run(self, url: str, **api: Any) -> Run:
        learning = {"initial_degree": 3, "batch": 10, "max_rounds": 2}
        endpoint = {"base_url": url, "model": "m", "key": "", "compare": PAIRS, **api}
        preset = {
            "name": "both",
            "model": {"source": str(self.folder / "model")},
            "tasks": {"sources": [str(self.folder / "tasks.jsonl")], "n_train": 30, "n_eval": 12},
            "choices": {"engine": "api", "api": endpoint},
            "train": learning,
            "eval": learning,
            "shift": {"comparisons": 2},
        }
        (self.folder / "both.yaml").write_text(yaml.safe_dump(preset))
        run = Run.create(str(self.folder / "store"), load_config(self.folder / "both.yaml"))
        for name in ("tasks", "topics"):
            run.execute(run.nodes[name], Progress())
        return run


def execute(run: Run, *names: str) -> None:
    for name in names:
        run.execute(run.nodes[name], Progress())


def stopped(run: Run, name: str = "measure.train") -> str:
    with pytest.raises(BadConfig) as caught:
        execute(run, name)
    return str(caught.value)


@pytest.mark.parametrize("lists", [True, False])
def test_one_model_goes_on_and_both_sets_say_how_well_it_agrees(
    lists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(Behaviour(lists=lists)) as server:
        study = Study(tmp_path, monkeypatch, served)
        run = study.run(server.url)
        execute(run, "own-choices", "measure.train", "measure.eval")
    own = run.table("own-choices", "choices.parquet")
    assert own.num_rows == 2 * PAIRS
    assert set(own.column("outcome").to_pylist()) == {"exact"}
    tasks = {row["id"]: row["set"] for row in run.table("tasks", "tasks.parquet").to_pylist()}
    assert {tasks[id_] for id_ in own.column("task_a").to_pylist()} == {"train"}
    for name in ("measure.train", "measure.eval"):
        about, choices = run.json(name, "measure.json"), run.table(name, "choices.parquet")
        found = about["agreement"]
        assert (found["pairs"], found["choices"]) == (PAIRS, 2 * PAIRS)
        assert found["answers"] == 2 * PAIRS * (1 if lists else SAMPLES)
        assert found["r"] > (0.9999 if lists else 0.9)
        assert found["difference"] < (0.001 if lists else 0.1)
        assert found["verdict"] == "same" if lists else found["verdict"] != "different"
        # no choice and no answer of the comparison is among the study's, but it was paid for
        assert run.table(name, "answers.parquet").num_rows == choices.num_rows == about["n_choices"]
        assert about["spend"]["requests"] > choices.num_rows
        ids = {id_ for column in ("task_a", "task_b") for id_ in choices.column(column).to_pylist()}
        assert {tasks[id_] for id_ in ids} == {name.removeprefix("measure.")}


@pytest.mark.parametrize("lists", [True, False])
def test_another_model_stops_both_sets_before_anything_else_is_asked(
    lists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(Behaviour(lists=lists)) as server:
        study = Study(tmp_path, monkeypatch, other_way)
        run = study.run(server.url)
        execute(run, "own-choices")
        assert server.stats()["attempts"] == 0
        sentence = stopped(run)
        asked = server.stats()["attempts"]
        assert 0 <= asked - 2 * PAIRS * (1 if lists else SAMPLES) <= 16  # and the interview
        assert stopped(run) == sentence
        assert server.stats()["attempts"] == asked + 2 * PAIRS * (1 if lists else SAMPLES)  # it might have been mended
        for word in ("measure.train: m at http://", "r = -", "choices.api.compare to 0", "system prompt"):
            assert word in sentence
        looser = study.run(server.url, min_agreement=-1, max_difference=1)
        loaded = len(study.loaded)
        execute(looser, "own-choices", "measure.train")
        assert len(study.loaded) == loaded  # cached
        assert "is not the model of own weights" in stopped(run, "measure.eval")
    assert looser.json("measure.train", "measure.json")["agreement"]["verdict"] == "same"  # by bounds that all meet


def test_an_endpoint_that_was_mended_is_asked_anew_and_all_of_it_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the same address under the same name: a server that was started again without what stood before its prompts."""
    study = Study(tmp_path, monkeypatch, served)
    with FaultServer(Behaviour(bias=-2.0)) as server:
        run = study.run(server.url)
        execute(run, "own-choices")
        assert "is not the model of own weights" in stopped(run)
        wrong = server.tokens
        server.behaviour = Behaviour()
        execute(run, "measure.train")
        about = run.json("measure.train", "measure.json")
        assert about["agreement"]["verdict"] != "different"
        spend = about["spend"]
        assert spend["prompt_tokens"] + spend["completion_tokens"] == server.tokens > wrong


def test_own_weights_are_asked_without_the_endpoint_and_read_at_any_label_mass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(tmp_path, monkeypatch, served, mass=0.001)
    run = study.run(NOWHERE, key="NO_SUCH_KEY")
    execute(run, "own-choices")
    assert len(study.loaded) == 1
    assert set(run.table("own-choices", "choices.parquet").column("label_mass").to_pylist()) == {0.001}


def test_an_endpoint_that_refuses_everything_is_no_model_of_such_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(Behaviour(refusals=1.0)) as server:
        run = Study(tmp_path, monkeypatch, served).run(server.url)
        execute(run, "own-choices")
        sentence = stopped(run)
    assert f"of {2 * PAIRS * SAMPLES} answers {2 * PAIRS * SAMPLES} refuse" in sentence
    assert "begin with a label with a probability of 0.90" in sentence


def test_a_model_that_thinks_first_is_not_asked_before_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(Behaviour(thinks="field", thought=10)) as server:
        study = Study(tmp_path, monkeypatch, served)
        run = study.run(server.url)
        execute(run, "own-choices")
        sentence = stopped(run)
        assert server.stats()["attempts"] < 2 * PAIRS
        assert "thinks before it answers" in sentence
        assert "set choices.api.compare to 0" in sentence
        alone = study.run(server.url, compare=0)
        assert "own-choices" not in alone.nodes
        execute(alone, "measure.train")
    assert "agreement" not in alone.json("measure.train", "measure.json")


def test_a_judge_reads_no_answer_of_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(Behaviour(unlabelled=0.3)) as server:
        run = Study(tmp_path, monkeypatch, served).run(server.url, judge={"model": "j"})
        execute(run, "own-choices", "measure.train")
        judged = sum(body["model"] == "j" for _, body in server.arrivals)
    about = run.json("measure.train", "measure.json")
    assert about["agreement"]["unparsed"] > 20
    assert judged <= about["judged"] + about["unparsed"] + 16
