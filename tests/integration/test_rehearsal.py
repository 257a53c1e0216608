"""The rehearsal at its smallest: the real command, a real network, an endpoint, and what each step took."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.model


def test_a_hundredth_of_the_study_is_rehearsed(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    less = [
        "base=null",
        "encoders={}",
        "untrained=false",
        "random_features=false",
        "shift.experiments=[category]",
        "train.max_rounds=2",
    ]
    command = [sys.executable, "-m", "tests.rehearsal", "--scale", "0.01", "--folder", str(tmp_path)]
    command += ["--port", str(port), *(word for one in less for word in ("--set", one))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (kept,) = (tmp_path / "0.01").glob("rehearsal-*.json")
    took = json.loads(kept.read_text())
    assert {"measure.train", "extract.model.0", "shift-measure.0", "hoo.model", "report"} <= took.keys()
    assert not {"extract.base.0", "extract.untrained.0", "probe.random"} & took.keys()
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.split()}
    assert rows["report"][1] == "1"
    # 250 pairs and then 50, in both orders, and what the interview asks
    assert 600 <= took["measure.train"]["requests"] <= 700
    assert all(10e6 < one["peak"] < 4e9 and one["cpu"] > 0 and one["written"] > 0 for one in took.values())
    page = next((tmp_path / "0.01" / "store" / "runs").glob("*/report/index.html"))
    assert 1e5 < page.stat().st_size < 5e6
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert json.loads(kept.read_text()) == took
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
