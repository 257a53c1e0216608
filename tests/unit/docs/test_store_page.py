"""The page on the store against what a study writes. All of its steps are real but for the forward passes: no torch."""

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from prefprobe.config import load_config
from prefprobe.errors import BadConfig
from prefprobe.features.stored import as_stored
from prefprobe.own.extracting import Asked, extract_prompts
from prefprobe.own.inputs import OwnFiles
from prefprobe.own.probing import hoo_files, probe_files
from prefprobe.own.scoring import score_features
from prefprobe.own.shifts import shift_stats
from prefprobe.progress import Progress
from prefprobe.settings import ProbeSettings
from prefprobe.settings.activations import Dtype, named
from prefprobe.store.formats import npz_bytes
from prefprobe.study.export import copy_outputs, export_features
from prefprobe.study.run import Run, run_nodes
from prefprobe.thurstonian.fit_files import fit_choices
from tests.encoders import write_bert
from tests.fault_server import Behaviour, FaultServer
from tests.planted_study import PROMPT, PlantedEngine
from tests.store_page import PAGE, described, differences, stored

WIDTH, LAYERS = 8, (1, 2)


def worth(text: str) -> float:
    return float(text.rpartition("u=")[2].rstrip("."))


def extract(
    model: Any,
    rows: Sequence[tuple[str, str, str | None]],
    layers: Sequence[int],
    store: Any,
    part: int,
    progress: Any,
    *,
    positions: Sequence[str],
    dtype: Dtype,
) -> dict[str, Any]:
    """Parts like those of `activations.extraction.extract`: what a task is worth along one direction, and noise."""
    parts = {}
    for k in range(0, len(rows), part):
        some = rows[k : k + part]
        rng = np.random.default_rng(k)
        values = np.array([[worth(text)] for _, text, _ in some]) + rng.normal(size=(len(some), WIDTH))
        kinds = ["layer", *map(named, positions[1:])]
        arrays: dict[str, np.ndarray] = {}
        for name in [f"{kind}_{layer}" for kind in kinds for layer in layers]:
            arrays |= as_stored(name, values.astype(np.float32), dtype)
        name = f"part-{k // part:05d}.npz"
        parts[name] = store.write_part(name, npz_bytes({"task_ids": np.array([id_ for id_, _, _ in some]), **arrays}))
    return parts


def write_study(folder: Path, url: str) -> Path:
    """A preset: 36 tasks with planted utilities and a pool of 4 more, chosen over an API with a judge, and one experiment."""
    rng = random.Random(3)
    tasks = [
        {"id": f"t{i:02d}", "text": f"Task {i}, kind=k{i % 3}, u={rng.gauss(0, 1.2):+.2f}.", "topic": f"k{i % 3}"}
        for i in range(40)
    ]
    labels = [
        {"name": name, "description": f"All {name}.", "boundary": "None."} for name in ("k0", "k1", "k2", "other")
    ]
    (folder / "taxonomy.yaml").write_text(yaml.safe_dump({"name": "own", "version": 1, "labels": labels}))
    judge = {"by": "api", "api": {"base_url": url, "model": "t", "key": "", "extra": {"tool_choice": "none"}}}
    (folder / "tasks.jsonl").write_text("".join(f"{json.dumps(task)}\n" for task in tasks))
    prompts = [{"id": f"p{i}", "text": f"Prompt {i}.", "targets": {f"k{i}": 1}} for i in range(2)]
    moved = [{"id": f"s{i}", "text": f"Shifted, u={i / 4}.", "topic": "k0", "labels": [f"k{i % 2}"]} for i in range(4)]
    experiment = {"experiment": "own", "prompts": prompts, "task_sets": {"own": moved}}
    (folder / "own.yaml").write_text(yaml.safe_dump(experiment))
    (folder / "model").mkdir()
    (folder / "model" / "weights.safetensors").write_bytes(b"none")
    learning = {"initial_degree": 4, "batch": 10, "max_rounds": 2}
    values = {
        "name": "small",
        "model": {"source": str(folder / "model")},
        "encoders": {"words": write_bert(folder / "words")},
        "tasks": {"sources": [str(folder / "tasks.jsonl")], "n_train": 24, "n_eval": 12, "n_pool": 4},
        "choices": {"engine": "api", "api": {"base_url": url, "model": "m", "key": "", "judge": {"model": "j"}}},
        "topics": {
            "judge": judge,
            "second": {"by": "given"},
            "taxonomy": str(folder / "taxonomy.yaml"),
            "max_unread": 1,
        },
        "train": learning,
        "eval": learning,
        "activations": {"part": 20, "positions": ["last", "mean"]},
        "shift": {"comparisons": 2, "experiments": [str(folder / "own.yaml")], "refitted": ["own"]},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(values))
    return folder / "small.yaml"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    """Every file that a study writes, and those of `export`, `fit` and the commands for files of one's own."""
    folder = tmp_path_factory.mktemp("study")
    loading, extraction, local = (ModuleType(name) for name in ("loading", "extraction", "local"))
    prompts = SimpleNamespace(describe=lambda: PROMPT)
    model = SimpleNamespace(n_layers=3, width=WIDTH, family="planted", prompts=prompts)
    loading.__dict__.update(load_model=lambda *_, **__: model)
    extraction.__dict__.update(ALONE="alone.json", extract=extract, layer_numbers=lambda *_: list(LAYERS))
    extraction.__dict__.update(known_layers=lambda *_: list(LAYERS))
    own = PlantedEngine(
        lambda q: worth(q.first) - worth(q.second) + Behaviour.bias, exact=True, mass=lambda _: Behaviour.label_mass
    )
    local.__dict__.update(LocalEngine=lambda *_, **__: own)
    with pytest.MonkeyPatch.context() as patch, FaultServer(Behaviour(unlabelled=0.1, calls_tools=0.25)) as server:
        patch.setitem(sys.modules, "prefprobe.activations.loading", loading)
        patch.setitem(sys.modules, "prefprobe.activations.extraction", extraction)
        patch.setitem(sys.modules, "prefprobe.choices.local", local)
        run = Run.create(str(folder / "store"), load_config(write_study(folder, server.url)))
        run_nodes(run, run.nodes.values(), Progress())
        asked = Asked(str(folder / "model"), position="mean")
        extract_prompts(asked, folder / "tasks.jsonl", folder / "extracted" / "activations.npz")
        server.behaviour = Behaviour(bias=-3.0)
        other = Run.create(str(folder / "store"), load_config(folder / "small.yaml", ["choices.api.model=another"]))
        with pytest.raises(BadConfig, match="is not the model of own weights"):
            run_nodes(other, other.nodes.values(), Progress())
    table = {"task_a": ["a", "b", "c"], "task_b": ["b", "c", "a"], "choice": ["a", "a", "refusal"]}
    pa.parquet.write_table(pa.table(table), folder / "choices.parquet")
    fit_choices(folder / "choices.parquet", folder / "fitted", compat=False, resamples=20)
    export_features(run, "model", folder / "exported")
    for node in ("measure.train", "measure.eval", "topics", "shift"):
        copy_outputs(run, [run.nodes[node]], folder / node)
    tables = {
        "utilities": "measure.train/utilities",
        "eval_utilities": "measure.eval/utilities",
        "topics": "topics/topics",
    }
    paths = {name: folder / f"{path}.parquet" for name, path in tables.items()}
    given = OwnFiles(folder / "exported/activations.npz", **paths, choices=folder / "measure.eval/choices.parquet")
    probe_files(given, folder / "probed", ProbeSettings(), 0)
    hoo_files(given, folder / "crossed", ProbeSettings(), 0)
    score_features(folder / "probed", given.features, folder / "own/scores.csv", "raw", None)
    shift_stats(folder / "shift/points.parquet", folder / "own/shifts.json", 0)
    outside = [
        p for name in ("fitted", "exported", "extracted", "probed", "crossed", "own") for p in folder.glob(f"{name}/*")
    ]
    named = {
        f"Files of commands/{p.parent.name}/{p.name}": p.read_bytes() for p in outside if p.name != "utilities.csv"
    }
    return [*stored(folder / "store"), *named.items()]


def test_every_file_and_column_is_described_and_every_described_one_is_there(files: list[tuple[str, bytes]]) -> None:
    assert len(described()) > 40
    of_other_encoders = [f"embed/features.json: {key}" for key in ("prompt", "reader")]
    assert differences(files) == ([], of_other_encoders)


@pytest.mark.parametrize(
    ("line", "instead", "unknown", "missing"),
    [
        ("| `se` float64 | Standard error of μ. |\n", "", "measure/utilities.parquet: se float64", ""),
        ("| `sigma` float64 | How", "| `sigma` float32 | How", "measure/utilities.parquet: sigma float64", "sigma"),
        ("| `claims[].why` |", "| `claims[].because` |", "report/verdict.json: claims[].why", "claims[].because"),
        ("| `<target>_<L>_b` float64 () |", "| `<target>_<L>_b` float64 (d) |", "_b float64 ()", "_b"),
        ("### tasks.json\n", "### job.json\n", "tasks/tasks.json", "tasks/job.json"),
        ("| `group` |", "| `groups` |", "report/overview.csv: group", "report/overview.csv: groups"),
    ],
)
def test_a_page_that_says_something_else_is_found_out(
    files: list[tuple[str, bytes]], line: str, instead: str, unknown: str, missing: str
) -> None:
    assert PAGE.count(line) >= 1
    found = differences(files, PAGE.replace(line, instead, 1))
    assert any(unknown in said for said in found[0])
    assert any(missing in said for said in found[1]) or not missing
