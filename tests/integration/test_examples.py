"""The scripts in examples/, run as a reader runs them, on small inputs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from prefprobe.store.objects import ObjectStore
from prefprobe.study.run import run_ids
from tests.fault_server import Behaviour, FaultServer
from tests.integration.test_run import small_preset

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str, *args: str | int | Path, cwd: Path) -> str:
    """Its output."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, args)]
    environment = os.environ | {"OPENAI_API_KEY": "k"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    written = Path(__file__).read_text("utf-8")
    assert all(f'"{path.name}"' in written for path in EXAMPLES.glob("*.py"))


@pytest.mark.model
def test_a_probe_of_ones_own_and_its_scores_under_two_system_prompts(tmp_path: Path) -> None:
    said = example("probe_of_your_own.py", "--tasks", 16, "--out", "mine", cwd=tmp_path)
    assert "choices between 16 tasks" in said
    assert "r on 4 tasks that the probe never saw" in said
    card = json.loads((tmp_path / "mine" / "card.json").read_text())
    assert card["best"]["raw"]["best_layer"] == 15
    said = example("two_system_prompts.py", "mine", cwd=tmp_path)
    assert {line.partition(":")[0] for line in said.splitlines() if "mean shift" in line} == {"math", "travel"}
    assert said.count("→") == 6


def test_choices_over_an_endpoint_rank_tasks_by_what_they_are_worth(tmp_path: Path) -> None:
    worth = {f"t{i}": i / 2 - 1.5 for i in range(7)}
    rows = [{"id": id_, "text": f"Task {id_}, u={u:+.2f}"} for id_, u in worth.items()]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FaultServer(Behaviour(lists=True)) as server:
        args = ("--base-url", server.url, "--model", "planted", "--source", "mine.jsonl", "--tasks", 7)
        said = example("choices_over_an_endpoint.py", *args, cwd=tmp_path).splitlines()
    assert said[0].startswith("exact: ")
    ranked = [line.partition("Task ")[2].partition(",")[0] for line in said[1:]]
    assert ranked == sorted(worth, key=worth.__getitem__, reverse=True)


def test_files_of_ones_own_are_probed_scored_and_described(tmp_path: Path) -> None:
    said = example("files_of_your_own.py", cwd=tmp_path)
    assert [line.split()[2] for line in said.splitlines() if line.startswith("$ ")] == [
        "probe",
        "hoo",
        "score",
        "shift-stats",
    ]
    found = json.loads((tmp_path / "own-files" / "probe" / "probe.json").read_text())
    assert found["targets"]["raw"]["r"]["low"] > 0.7
    assert found["not_estimable"] == {}
    assert json.loads((tmp_path / "own-files" / "hoo" / "hoo.json").read_text())["mean"]["low"] > 0.7
    assert "r over 48 points: 0.9" in said


@pytest.mark.model
@pytest.mark.slow
def test_an_experiment_is_added_and_the_store_is_read(tmp_path: Path) -> None:
    preset = small_preset(tmp_path)
    said = example("an_experiment.py", preset, "--store", "s", cwd=tmp_path)
    assert "on target, choices moved by" in said
    assert set(yaml.safe_load((tmp_path / "tea.yaml").read_text())) == {"experiment", "prompts", "task_sets"}
    (run,) = run_ids(ObjectStore.open(str(tmp_path / "s")))
    said = example("read_a_store.py", run, "--store", "s", cwd=tmp_path)
    assert all(topic in said for topic in ("math", "fiction", "travel", "clerical"))
    assert "mu_a_less_mu_b" in said


@pytest.mark.model
def test_the_lines_in_the_readme_run_as_they_stand(tmp_path: Path) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / "README.md").read_text("utf-8"), re.DOTALL)
    said = "print(len(tasks), choices.num_rows, X.shape, probe.w.shape, probe.card['n_train'])"
    done = subprocess.run(
        [sys.executable, "-c", f"{lines}\n{said}"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    shown, last = done.stdout.splitlines()
    assert re.fullmatch(r"Probe\(b=.*, layer=15, target='raw', card=\{.*'r_left_out': .*\}\)", shown)
    n, rows, *rest = last.split(maxsplit=2)
    assert int(rows) == int(n) * (int(n) - 1)  # every pair in both orders
    assert rest == [f"({n}, 576) (576,) {n}"]
