"""Labels of many tasks by an endpoint, in a step that is killed again and again, against one that is left in peace.

Two stores hold the same tasks; a server in a process of its own says planted topics, confuses some, declines some, and
loses some attempts. One step is killed with SIGKILL at random moments until it has been so `--kills` times. Printed is
whether both tables are the same bytes, how often questions were asked, and whether what came in vain is accounted for.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from prefprobe.progress import Progress
from prefprobe.store.formats import read_json
from prefprobe.store.objects import ObjectStore
from prefprobe.study.run import Run, run_nodes
from prefprobe.topics.agreement import agreement_of
from prefprobe.topics.taxonomy import load_taxonomy

ROOT = Path(__file__).parents[1]
BEHAVIOUR = {"confuses": 0.1, "refusals": 0.02, "invents": 0.005}
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def prepare(folder: Path, url: str, n: int, kinds: list[str]) -> Path:
    """A preset of `n` planted tasks, of which all are classified."""
    folder.mkdir()
    rows = (
        {"id": f"t{i:06d}", "text": f"Task {i}. kind={kinds[i % len(kinds)]}", "topic": kinds[i % len(kinds)]}
        for i in range(n)
    )
    (folder / "tasks.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "model").mkdir()
    (folder / "model" / "weights.safetensors").write_bytes(b"none")
    transport = {"concurrency": 64, "attempt_timeout": 60.0}
    judge = {"by": "api", "api": {"base_url": url, "model": "planted", "key": "", "transport": transport}}
    learning = {"batch": 10}
    values: dict[str, Any] = {
        "name": "labels",
        "model": {"source": str(folder / "model")},
        "tasks": {"sources": [str(folder / "tasks.jsonl")], "n_train": n - n // 4, "n_eval": n // 4},
        "topics": {"judge": judge, "second": {"by": "given"}},
        "train": learning,
        "eval": learning,
        "shift": {"comparisons": 2, "experiments": ["category"]},
    }
    (folder / "labels.yaml").write_text(yaml.safe_dump(values))
    return folder / "labels.yaml"


def begin(folder: Path) -> Run:
    """The run with its first step done."""
    from prefprobe.config import load_config

    run = Run.create(str(folder / "store"), load_config(folder / "labels.yaml"), "r")
    run_nodes(run, [run.nodes["tasks"]], Progress.silent())
    return run


def classify(folder: Path) -> subprocess.Popen[bytes]:
    """The step in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "prefprobe",
        "step",
        "classify.first",
        "--run",
        "r",
        "--store",
        str(folder / "store"),
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)


def killed(folder: Path, kills: int, rng: random.Random, stats: Any, n: int) -> list[int]:
    """Run the step, killed `kills` times when it has come so far; how many were in flight at each."""
    base = stats()["answered"]
    flights, goals = [], sorted(rng.uniform(0.03, 0.9) for _ in range(kills))
    for goal in goals:
        process = classify(folder)
        while process.poll() is None and stats()["answered"] - base < goal * n:
            time.sleep(0.02)
        flights.append(stats()["in_flight"])
        process.kill()
        process.communicate()
        assert process.returncode == -9, "the step was done before it was killed"
    process = classify(folder)
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()
    return flights


def output(folder: Path, name: str) -> bytes:
    """An output of the step."""
    run = Run.open(str(folder / "store"), "r")
    return run.read("classify.first", name)


def compare(n: int, kills: int, seed: int) -> dict[str, Any]:
    """Both steps; what came out."""
    behaviour = {**BEHAVIOUR, "fault_rate": 0.02, "faults": ["429", "500", "503", "cut"], "retry_after": "0.05"}
    found: dict[str, Any] = {"tasks": n, "kills": kills}
    with tempfile.TemporaryDirectory() as scratch:
        kinds = [name for name in load_taxonomy("study", ObjectStore.open(scratch)).names if name != "other"]
        tables: dict[str, bytes] = {}
        for side in ("peace", "killed"):
            server = subprocess.Popen(
                [sys.executable, "-m", "tests.fault_server", json.dumps(behaviour)],
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            assert server.stdout is not None
            url = server.stdout.readline().strip()

            def stats(url: str = url) -> dict[str, Any]:
                with _direct.open(f"{url.removesuffix('/v1')}/stats", timeout=30) as reply:
                    return dict(json.load(reply))

            folder = Path(scratch) / side
            prepare(folder, url, n, kinds)
            begin(folder)
            began = time.monotonic()
            flights = killed(folder, kills if side == "killed" else 0, random.Random(seed), stats, n)
            seconds = time.monotonic() - began
            tables[side] = output(folder, "labels.parquet")
            about = read_json(output(folder, "classify.json"))
            seen = stats()
            found[side] = {
                "seconds": round(seconds, 1),
                "answered": seen["answered"],
                "questions": seen["bodies_answered"],
                "answered again": seen["answered"] - seen["bodies_answered"],
                "in flight at kills": sum(flights),
                "counted as repeated": about["repeated"]["requests"],
                "counted in all": about["spend"]["requests"],
                "refusals": about["refusals"],
                "fallbacks": about["fallbacks"],
            }
            server.kill()
            server.communicate()
        found["same bytes"] = tables["peace"] == tables["killed"]
        from prefprobe.store.formats import read_parquet

        table = read_parquet(tables["killed"])
        said = dict(zip(table.column("id").to_pylist(), table.column("primary").to_pylist(), strict=True))
        truth: dict[str, str | None] = {f"t{i:06d}": kinds[i % len(kinds)] for i in range(n)}
        kappa = agreement_of(said, truth)["kappa"]
        found["accuracy"], found["kappa"] = kappa["agreed"], [kappa[name] for name in ("value", "low", "high")]
        found["planted"] = {
            "accuracy": 1 - BEHAVIOUR["confuses"],
            "kappa": 1 - BEHAVIOUR["confuses"] / (1 - 1 / len(kinds)),
        }
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=30_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        os.environ.pop(name, None)
    print(json.dumps(compare(args.n, args.kills, args.seed), indent=1))
