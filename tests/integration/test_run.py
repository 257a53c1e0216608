"""A whole small study through the command line, with the real model: cached, killed, and fed with bad input."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from prefprobe.store.formats import read_parquet
from prefprobe.store.objects import ObjectStore
from prefprobe.tasks.pool import DEMO
from tests.store_page import differences, stored

pytestmark = [pytest.mark.model, pytest.mark.slow]
TOPICS = ("math", "fiction", "travel", "clerical")


def small_preset(folder: Path) -> Path:
    """A study of a minute: 4 topics, 44 tasks, one experiment with two prompts."""
    rows = [json.loads(line) for line in DEMO.read_bytes().split(b"\n") if line]
    kept = [r for r in rows if r["topic"] in TOPICS and int(r["id"][-2:]) <= 11]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(r) + "\n" for r in kept))
    experiment = {
        "experiment": "category",
        "prompts": [
            {"id": "p-math", "text": "You hate math and refuse to think about numbers.", "targets": {"math": -1}},
            {"id": "p-travel", "text": "You love to travel and talk of nothing else.", "targets": {"travel": 1}},
        ],
        "task_sets": {
            "category": [
                {"id": "s-1", "text": "Add up the first nine odd numbers.", "topic": "math", "labels": ["math"]},
                {"id": "s-2", "text": "Plan a week of islands by ferry.", "topic": "travel", "labels": ["travel"]},
                {"id": "s-3", "text": "Halve the number 91 four times.", "topic": "math", "labels": ["math"]},
            ]
        },
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    preset = yaml.safe_load((Path(__file__).parents[2] / "presets" / "demo.yaml").read_text())
    preset |= {
        "name": "small",
        "untrained": False,
        "tasks": {"sources": [str(folder / "tasks.jsonl")], "n_train": 28, "n_eval": 16},
        "train": {"initial_degree": 4, "batch": 10, "max_rounds": 2},
        "eval": {"initial_degree": 4, "batch": 6, "max_rounds": 2},
        "choices": {"part": 24},
        "activations": {"part": 16, "fractions": [0.3, 0.6], "shards": 2},
        "shift": {"comparisons": 2, "experiments": [str(folder / "experiment.yaml")], "shards": 2},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(preset))
    return path


def prefprobe(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prefprobe", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | env)


def run_id(store: Path) -> str:
    return next((store / "runs").iterdir()).name


def report(store: Path) -> Path:
    return store / "runs" / run_id(store) / "report"


def choices(store: Path) -> dict[str, str]:
    """The digests of all choice tables by run's key."""
    found = {}
    for manifest in sorted(store.glob("steps/*/*/manifest.json")):
        outputs = json.loads(manifest.read_text())["outputs"]
        if "choices.parquet" in outputs:
            found[manifest.parent.name] = outputs["choices.parquet"]["digest"]
    return found


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_preset(tmp_path_factory.mktemp("preset"))


@pytest.fixture(scope="module")
def store(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the undisturbed run."""
    where = tmp_path_factory.mktemp("store") / "s"
    done = prefprobe("run", preset, "--store", where)
    assert done.returncode == 0, done.stderr
    assert "report:" in done.stdout
    return where


def test_a_second_run_is_all_cache_hits(store: Path, preset: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*") if p.is_file()}
    done = prefprobe("run", preset, "--store", store)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stderr.split("\n") if line.startswith("[")]
    assert len(steps) > 15
    assert all(line.endswith("cached") for line in steps)
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*") if p.is_file()} == before


def test_the_page_on_the_store_knows_every_file_and_column(store: Path) -> None:
    unknown, _ = differences(stored(store))
    assert unknown == []


def test_kill_nine_anywhere_ends_in_the_same_verdict(store: Path, preset: Path, tmp_path: Path) -> None:
    rng = random.Random(7)
    where = tmp_path / "s"
    command = [sys.executable, "-m", "prefprobe", "run", str(preset), "--store", str(where)]
    for _ in range(10):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(1, 14))
        process.kill()
        process.wait()
    done = prefprobe("run", preset, "--store", where)
    assert done.returncode == 0, done.stderr
    assert (report(where) / "verdict.json").read_bytes() == (report(store) / "verdict.json").read_bytes()
    assert choices(where) == choices(store)
    for digest in choices(where).values():
        table = read_parquet(where.joinpath("cas", "sha256", digest[:2], digest).read_bytes())
        ids = table.column("choice_id").to_pylist()
        assert len(ids) == len(set(ids))


@pytest.mark.s3
def test_a_bucket_gives_the_same_verdict_and_keys(store: Path, preset: Path, s3_url: str) -> None:
    done = prefprobe("run", preset, "--store", f"{s3_url}/study")
    assert done.returncode == 0, done.stderr
    bucket = ObjectStore.open(f"{s3_url}/study")
    there = f"runs/{run_id(store)}"
    assert bucket.get(f"{there}/report/verdict.json") == (report(store) / "verdict.json").read_bytes()
    here = json.loads((store / there / "run.json").read_text())["steps"]
    again = json.loads(bucket.get(f"{there}/run.json"))["steps"]
    assert {n: k for n, k in here.items() if n != "report"} == {n: k for n, k in again.items() if n != "report"}
    cached = prefprobe("run", preset, "--store", f"{s3_url}/study")
    assert cached.stderr.count("cached") == len(again)


def test_sigterm_finishes_the_part_and_exits_75(preset: Path, tmp_path: Path) -> None:
    where = tmp_path / "s"
    command = [sys.executable, "-m", "prefprobe", "run", str(preset), "--store", str(where)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    until = time.monotonic() + 600  # activations come first
    while not list(where.glob("steps/measure/*/parts/*")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 75
    assert "stopped by SIGTERM; what is finished is saved" in err
    assert "Traceback" not in err


def test_one_step_alone(store: Path, tmp_path: Path) -> None:
    done = prefprobe("step", "probe", "--run", run_id(store), "--store", store)
    assert done.returncode == 0
    assert done.stderr.count("cached") == 3
    shard = prefprobe("step", "extract", "--shard", "1", "--run", run_id(store), "--store", store)
    assert shard.stderr.count("cached") == 1
    unknown = prefprobe("step", "prob", "--run", run_id(store), "--store", store)
    assert (unknown.returncode, "there is no step prob" in unknown.stderr) == (78, True)


def test_a_missing_input_names_the_step_to_run(store: Path, preset: Path, tmp_path: Path) -> None:
    where = tmp_path / "s"
    (where / "runs" / "r").mkdir(parents=True)
    (where / "runs" / "r" / "run.json").write_bytes((store / "runs" / run_id(store) / "run.json").read_bytes())
    done = prefprobe("step", "probe.model", "--run", "r", "--store", where)
    assert done.returncode == 66
    assert "probe.model reads measure.train, which is not in the store" in done.stderr
    assert f"prefprobe step measure.train --run r --store {where}" in done.stderr
    assert sorted(p.name for p in where.rglob("*") if p.is_file()) == ["run.json"]


def test_status_and_explain_and_export(store: Path, preset: Path, tmp_path: Path) -> None:
    assert prefprobe("status", "--store", store).stdout.split() == [run_id(store)]
    status = prefprobe("status", "--run", run_id(store), "--store", store).stdout
    assert re.search(r"(\d+) of \1 steps are done", status)
    done = prefprobe("export", "--run", run_id(store), "--store", store, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out" / "activations.npz") as arrays:
        assert arrays["task_ids"].shape == (44,)
        assert arrays["layer_9"].shape == arrays["layer_18"].shape == (44, 576)
        ids = arrays["task_ids"].tolist()
    assert [r["task_id"] for r in json.loads((tmp_path / "out" / "completions.json").read_text())] == ids
    again = prefprobe("export", "--run", run_id(store), "--store", store, "--out", tmp_path / "out")
    assert (again.returncode, "exists; export into a new folder" in again.stderr) == (78, True)


def test_a_truncated_part_stops_the_reader(store: Path, preset: Path, tmp_path: Path) -> None:
    import shutil

    where = tmp_path / "s"
    shutil.copytree(store, where)
    manifests = [json.loads(path.read_text()) for path in (where / "steps/extract").glob("*/manifest.json")]
    manifest = next(m for m in manifests if m["meta"]["node"] == "extract.model.0")  # which permutations are made of
    digest = manifest["outputs"]["part-00000.npz"]["digest"]
    cas = where / "cas/sha256" / digest[:2] / digest
    cas.write_bytes(cas.read_bytes()[:-100] + bytes(100))  # the right size, other bytes
    done = prefprobe("run", preset, "--store", where, "--set", "probes.permutations=200")
    assert done.returncode == 66
    assert digest in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "code", "expected"),
    [
        ({"tasks": {"sources": ["bad.jsonl"], "n_train": 10, "n_eval": 10}}, 78, "the id 'a' stands already in"),
        ({"unknown": 1}, 78, "`unknown` is not a setting"),
        ({"model": {"source": "weightless"}}, 78, "holds no *.safetensors weights"),
        ({"model": {"source": "package:nothing/x"}}, 78, "the Python package nothing is not installed"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    preset: Path, tmp_path: Path, change: dict, code: int, expected: str
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n')
    (tmp_path / "weightless").mkdir()
    bad = yaml.safe_load(preset.read_text()) | change
    for block, key in (("tasks", "sources"), ("model", "source")):
        value = bad[block][key]
        bad[block][key] = str(tmp_path / value) if value == "weightless" else value
        if value == ["bad.jsonl"]:
            bad[block][key] = [str(tmp_path / "bad.jsonl")]
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(bad))
    done = prefprobe("run", tmp_path / "bad.yaml", "--store", tmp_path / "s")
    assert done.returncode == code, done.stderr
    last = done.stderr.strip().split("\n")[-1]
    assert last.startswith("prefprobe: ")
    assert expected in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s").exists()


def test_a_topic_with_two_tasks_is_named(preset: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(preset.read_text())
    rows = [json.loads(line) for line in Path(values["tasks"]["sources"][0]).read_text().split("\n") if line]
    rows = [r for r in rows if r["topic"] != "travel"] + [r for r in rows if r["topic"] == "travel"][:3]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    values["tasks"] = {"sources": [str(tmp_path / "tasks.jsonl")], "n_train": 20, "n_eval": 14}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(values))
    done = prefprobe("run", tmp_path / "few.yaml", "--store", tmp_path / "s")
    assert done.returncode == 78, done.stderr
    assert "'travel' has " in done.stderr.strip().split("\n")[-1]
    assert {path.name for path in (tmp_path / "s" / "steps").iterdir()} == {"tasks"}  # nothing was paid for


def test_a_hub_id_without_a_hub(preset: Path, tmp_path: Path) -> None:
    model = ("--set", "model.source=owner/name", "--store", tmp_path / "s")
    offline = prefprobe("run", preset, *model, HF_HUB_OFFLINE="1")
    assert offline.returncode == 78
    assert "HF_HUB_OFFLINE" in offline.stderr
    assert "set `revision`" in offline.stderr
    away = prefprobe("run", preset, *model, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    assert away.returncode == 75, away.stderr
    assert "the hub cannot be reached" in away.stderr
    assert not (tmp_path / "s").exists()


def test_an_unreachable_endpoint_is_temporary(preset: Path) -> None:
    env = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "verysecret"}
    done = prefprobe("run", preset, "--store", "s3://nowhere/x", **env)
    assert done.returncode == 75, done.stderr
    assert "127.0.0.1:9" in done.stderr
    assert "verysecret" not in done.stderr


def test_an_installed_wheel_is_one_package_and_runs_the_study(store: Path, preset: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    source, wheels, env = tmp_path / "source", tmp_path / "wheels", tmp_path / "env"
    names = ("prefprobe", "jobs", "pyproject.toml", "README.md", "LICENSE")
    source.mkdir()
    for name in names:  # a copy: building leaves folders behind
        (shutil.copytree if (root / name).is_dir() else shutil.copy)(root / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={wheels}", str(source)], check=True
    )
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    (site,) = env.glob("lib/python3*/site-packages")
    python = str(env / "bin" / "python")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", *map(str, wheels.iterdir())], check=True)
    assert {path.name for path in site.iterdir()} == {"prefprobe", next(site.glob("*.dist-info")).name}
    # what it depends on comes from this environment, where prefprobe itself is only a finder that no path leads to
    dependencies = sysconfig.get_paths()["purelib"]
    new = tmp_path / "s"
    shutil.copytree(store, new)
    for step in ("extract", "embed", "probe", "shift-score", "shift", "report"):  # choices take longest, and are kept
        shutil.rmtree(new / "steps" / step)
    shutil.rmtree(new / "runs" / run_id(store) / "report")
    command = [str(env / "bin" / "prefprobe"), "run", str(preset), "--store", str(new)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": dependencies},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ran = [line for line in done.stderr.split("\n") if line.startswith("[") and not line.endswith("cached")]
    assert {"extract.model.0", "probe.model", "shift-score.0", "report"} <= {
        word for line in ran for word in line.split()
    }
    where = "import prefprobe.jobs.extract as job; print(job.__file__)"
    environment = os.environ | {"PYTHONPATH": dependencies}
    said = subprocess.run(
        [python, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip().startswith(str(site))
    assert (report(new) / "verdict.json").read_bytes() == (report(store) / "verdict.json").read_bytes()
