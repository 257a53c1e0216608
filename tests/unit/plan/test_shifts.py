"""What a plan says of the experiments: what each can show, and plainly where it cannot show what is expected."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prefprobe.config import load_config
from prefprobe.plan.shifts import shows
from prefprobe.shift.experiments import Experiment, builtin_paths, load_experiments
from prefprobe.shift.power import design, subjects_of
from prefprobe.shift.prompted import experiments_of
from prefprobe.store.objects import ObjectStore

DEMO = Path(__file__).parents[3] / "presets" / "demo.yaml"


def planned(*overrides):
    config = load_config(DEMO, overrides)
    return shows(experiments_of(config.shift, ObjectStore.open("no-store-is-here")))


def test_the_whole_shows_what_is_expected_and_the_demo_says_that_it_cannot():
    names = ["category", "targeted", "crossed", "competing", "persona"]
    whole, part = planned("shift.subset=null"), planned()
    assert [e.experiment for e in whole] == [e.experiment for e in part] == names
    for e in whole:
        assert e.said.startswith(f"Experiment {e.experiment}: all ")
        assert e.said.endswith(f"show an on-target r of {e.shows:.2f} or more (lower bound above 0.2, power 0.9).")
    for e in part:
        assert " of " in e.part
        assert e.said.endswith(f"; they cannot show r = 0.7 (power {e.power:.2f}).")
        assert e.power < 0.9
        assert e.shows is not None
        assert e.shows > 0.7


def test_what_can_show_nothing_says_so():
    whole = load_experiments(builtin_paths())[0]
    one = Experiment("one", whole.prompts[:1], whole.tasks)
    (said,) = shows([(one, one)])
    assert (said.power, said.shows) == (0.0, None)
    assert said.said.endswith("10 cells on target cannot show any correlation (power 0.00 at r = 0.7).")
    assert design(subjects_of(one)).n == said.on_target == 10


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_prints_it(as_json, tmp_path):
    args = ["plan", str(DEMO), "--store", str(tmp_path / "store"), *(["--json"] if as_json else [])]
    done = subprocess.run(
        [sys.executable, "-m", "prefprobe", *args], capture_output=True, text=True, check=False, cwd=DEMO.parents[1]
    )
    assert done.returncode == 0, done.stderr
    if as_json:
        found = json.loads(done.stdout)["shifts"]
        assert [e["experiment"] for e in found] == [e.experiment for e in planned()]
        assert set(found[0]) == {"experiment", "part", "on_target", "power", "shows"}
    else:
        assert planned()[0].said in " ".join(done.stdout.split())
