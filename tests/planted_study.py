"""A whole study without torch and without a network: every step as it is, on a model and an engine that are planted.

The model's activations hold a known utility of every text along one direction; how it chooses is up to the engine.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from prefprobe.choices.engine import Answer, Question, Reading
from prefprobe.config import load_config
from prefprobe.features.controls import random_features
from prefprobe.features.stored import as_stored
from prefprobe.progress import Progress
from prefprobe.settings.activations import Dtype, named
from prefprobe.store.formats import npz_bytes
from prefprobe.store.keys import sha256
from prefprobe.store.steps import Output, StepStore, read_output
from prefprobe.study.run import Run
from tests.encoders import write_bert

TOPICS = ("math", "fiction", "travel", "clerical")
WIDTH, DEPTH = 12, 10

Says = Callable[[Question], float | str]
"""What an engine answers: a logit, or the outcome of a sampled answer."""
Mass = Callable[[Question], float]
"""The label mass of a logit."""
PROMPT = {"chat": True, "template": {}, "merged": False, "folded": False, "closing": None}
"""How prompts would be made."""
PART = 64
"""Answers between two saves."""


class PlantedEngine:
    """Answers what it is told to."""

    def __init__(self, says: Says, *, exact: bool, mass: Mass) -> None:
        self.says, self.exact, self.mass = says, exact, mass
        self.name = "exact-planted" if exact else "sampled-planted"
        self.about: dict[str, Any] = {"prompt": PROMPT}
        self.identity: dict[str, Any] = {"engine": self.name}

    def answer(self, questions: Sequence[Question], save: Callable[[Sequence[Answer]], None]) -> None:
        for start in range(0, len(questions), PART):
            save([self._answer(q) for q in questions[start : start + PART]])

    def _answer(self, question: Question) -> Answer:
        said = self.says(question)
        raw = [said, self.mass(question)] if isinstance(said, float) else said
        return Answer(question.id, json.dumps(raw), prompt_tokens=40, completion_tokens=1)

    def read(self, answer: Answer) -> Reading:
        raw = json.loads(answer.raw)
        return Reading("exact", *raw) if isinstance(raw, list) else Reading(raw)


def utility(text: str) -> float:
    """The planted utility of a text: its topic's and its own."""
    own = np.random.default_rng(int(sha256(text.encode())[:8], 16)).normal()
    return float(own + next((0.5 * i for i, topic in enumerate(TOPICS) if topic in text), 0.0))


def shown(system: str | None, text: str) -> float:
    """What a system prompt makes of it."""
    for i, verb in enumerate(("hate", "love")):
        if system and verb in system and system.split()[-1] in text:
            return utility(text) + (2 * i - 1) * 1.5
    return utility(text)


def prefers(question: Question) -> float:
    """An engine that chooses by utility, with a position bias."""
    return shown(question.system, question.first) - shown(question.system, question.second) + 0.5


def planted_study(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    says: Says,
    *,
    exact: bool = True,
    mass: Mass = lambda _: 0.97,
    blocks: Mapping[str, Any] = MappingProxyType({}),
) -> Run:
    """A run in `folder` whose every step can be executed; `blocks` replace those of its preset."""
    rows = [
        {"id": f"{topic}-{i:02d}", "text": f"Do some {topic}, number {i}.", "topic": topic}
        for topic in TOPICS
        for i in range(16)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "weights.safetensors").write_bytes(b"")
    experiment = {
        "experiment": "category",
        "prompts": [
            {"id": f"{verb}-{topic}", "text": f"You {verb} {topic}", "targets": {topic: sign}}
            for topic in TOPICS
            for verb, sign in (("love", 1), ("hate", -1))
        ],
        "task_sets": {
            "category": [
                {"id": f"s-{topic}-{i}", "text": f"Try {topic} once more: {i}.", "topic": topic, "labels": [topic]}
                for topic in TOPICS
                for i in range(2)
            ]
        },
    }
    (folder / "category.yaml").write_text(yaml.safe_dump(experiment))
    learning = {"initial_degree": 4, "batch": 20, "max_rounds": 3}
    preset = {
        "name": "planted",
        "model": {"source": str(folder), "name": "Planted"},
        "encoders": {"words": write_bert(folder / "words")},
        "tasks": {"sources": [str(folder / "tasks.jsonl")], "n_train": 36, "n_eval": 24},
        "train": learning,
        "eval": learning,
        "shift": {"comparisons": 3, "experiments": [str(folder / "category.yaml")]},
    }
    (folder / "planted.yaml").write_text(yaml.safe_dump(preset | dict(blocks)))
    _plant(monkeypatch, PlantedEngine(says, exact=exact, mass=mass))
    return Run.create(str(folder / "store"), load_config(folder / "planted.yaml"))


def execute(run: Run) -> dict[str, dict[str, bytes]]:
    """Run every step. Returns the bytes of all outputs by node and name."""
    for node in run.nodes.values():
        run.execute(node, Progress())
    found = {}
    for node in run.nodes.values():
        manifest = run.manifest(node)
        assert manifest is not None
        found[node.id] = {name: read_output(run.objects, manifest, name) for name in manifest.outputs}
    return found


class _Model:
    n_layers, width, family = DEPTH, WIDTH, "planted"

    def __init__(self, trained: bool) -> None:
        self.trained = trained
        self.prompts = SimpleNamespace(describe=lambda: PROMPT)


def _activations(model: _Model, rows: Sequence[tuple[str, str, str | None]], layer: int) -> np.ndarray:
    noise = random_features(np.array([f"{layer} {text} {system}" for _, text, system in rows]), WIDTH, 0)
    planted = np.array([[shown(system, text)] for _, text, system in rows]) * np.linspace(1, 0.2, WIDTH)
    return (noise + (2 * model.trained) * planted).astype(np.float32)


def _plant(monkeypatch: pytest.MonkeyPatch, engine: PlantedEngine) -> None:
    """Puts planted modules in the place of those that need torch, and a planted encoder in that of a real one."""
    loading, extraction, local = (ModuleType(name) for name in ("loading", "extraction", "local"))
    LOADED.clear()

    def load_model(
        source: str, *, revision: str, adapter_revision: str | None, untrained_seed: int | None, **_: Any
    ) -> _Model:
        LOADED.append((source, revision, adapter_revision))
        return _Model(untrained_seed is None)

    def extract(
        model: _Model,
        rows: Any,
        layers: Sequence[int],
        store: StepStore,
        part: int,
        progress: Any,
        *,
        positions: Sequence[str],
        dtype: Dtype,
    ) -> dict[str, Output]:
        if not rows:
            return {}
        arrays: dict[str, np.ndarray] = {}
        for k, position in enumerate(positions):  # of further ones each has noise of its own
            for layer in layers:
                name = f"{named(position) if k else 'layer'}_{layer}"
                arrays |= as_stored(name, _activations(model, rows, layer + DEPTH * k), dtype)
        data = npz_bytes({"task_ids": np.array([id_ for id_, _, _ in rows]), **arrays})
        return {"part-00000.npz": store.write_part("part-00000.npz", data)}

    def embed(source: str, texts: Sequence[str], **_: Any) -> np.ndarray:
        return random_features(np.array(texts), 8, 1)

    vars(loading).update(load_model=load_model)
    vars(extraction).update(
        ALONE="alone.json", extract=extract, layer_numbers=lambda fractions, n: sorted({int(f * n) for f in fractions})
    )
    vars(local).update(LocalEngine=lambda *_, **__: engine)
    for name, module in (
        ("activations.loading", loading),
        ("activations.extraction", extraction),
        ("choices.local", local),
    ):
        monkeypatch.setitem(sys.modules, f"prefprobe.{name}", module)
    monkeypatch.setattr("prefprobe.features.encoder.embed", embed)


LOADED: list[tuple[str, str, str | None]] = []
"""Source, revision and adapter's revision of every model that the last planted study has loaded."""
