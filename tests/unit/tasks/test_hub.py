"""Data sets of the hub, read by the real client from a server on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefprobe.errors import BadConfig, InputMissing, TemporaryFailure
from prefprobe.settings import TaskSource
from prefprobe.store.objects import ObjectStore
from prefprobe.tasks.candidates import Candidates, read_candidates
from prefprobe.tasks.located import fetched, files_here, pin
from tests.hub_server import HubServer

REPOSITORY = "lab/tasks"
SOURCE = TaskSource(hub=REPOSITORY, files="data/*.jsonl", id=None, text="q")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        server.use(monkeypatch, tmp_path / "cache")
        yield server


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(str(tmp_path / "store"))


def lines(*texts: str) -> bytes:
    return "".join(f"{json.dumps({'q': text}, ensure_ascii=False)}\n" for text in texts).encode()


FILES = {
    "data/one.jsonl": lines("a\u2028b", "c"),
    "data/two.jsonl": lines("d"),
    "data/three.jsonl": lines("e"),
    "README.md": b"# words",
}


def read(source: TaskSource, objects: ObjectStore, pinned: str | None = None) -> Candidates:
    return read_candidates([source], [fetched(source, pinned or pin(source, objects), objects)])


def test_files_of_many_pages_are_fetched_once_at_their_commit(hub: HubServer, objects: ObjectStore) -> None:
    commit = hub.push(REPOSITORY, FILES)
    assert pin(SOURCE, objects) == commit
    tasks = read(SOURCE, objects)
    assert sorted(tasks.table.column("text").to_pylist()) == ["a\u2028b", "c", "d", "e"]
    assert set(tasks.table.column("origin").to_pylist()) == {"tasks"}
    assert hub.files() == {"one.jsonl": 1, "two.jsonl": 1, "three.jsonl": 1}  # and no README
    assert any("cursor" not in path and "/tree/" in path for _, path, _ in hub.asked)
    read(SOURCE, objects, commit)
    assert sum(hub.files().values()) == 3


def test_a_branch_that_moves_leaves_a_run_at_its_commit(
    hub: HubServer, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = hub.push(REPOSITORY, FILES)
    second = hub.push(REPOSITORY, {"data/one.jsonl": lines("new")})
    assert pin(SOURCE, objects) == second != first
    assert len(read(SOURCE, objects, first)) == 4
    assert len(read(SOURCE, objects)) == 1
    del hub.repositories[REPOSITORY][first]
    assert len(read(SOURCE, objects, first)) == 4  # of the cache
    hub.use(monkeypatch, tmp_path / "another")
    with pytest.raises(InputMissing, match=rf"^lab/tasks@{first[:12]} could not be downloaded: the hub answers 404"):
        fetched(SOURCE, first, objects)


@pytest.mark.parametrize(("token", "forbidden", "status"), [("secret", False, 401), ("", True, 403)])
def test_a_gated_set_needs_its_token(
    token: str, forbidden: bool, status: int, hub: HubServer, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.push(REPOSITORY, FILES)
    hub.token, hub.forbidden = token, forbidden
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(BadConfig, match=rf"^lab/tasks: the hub answers {status}; check the id and HF_TOKEN"):
        pin(SOURCE, objects)
    with pytest.raises(
        BadConfig, match=rf"^lab/tasks@{commit[:12]} could not .* answers {status}; check .*terms of use"
    ):
        fetched(SOURCE, commit, objects)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
        assert len(read(SOURCE, objects)) == 4


@pytest.mark.parametrize("revision", [None, "c" * 40])
@pytest.mark.parametrize("named", ["a b/c", "../../etc", "-x/y"])
def test_what_can_be_no_id_is_one_sentence(named: str, revision: str | None, objects: ObjectStore) -> None:
    source = TaskSource(hub=named, revision=revision)
    for look in (pin, files_here):
        with pytest.raises(BadConfig, match="is no id of the hub, which are owner/name"):
            look(source, objects)


def test_what_is_not_there_is_an_input_that_is_missing(hub: HubServer, objects: ObjectStore) -> None:
    with pytest.raises(InputMissing, match=r"^lab/tasks: the hub answers 404"):
        pin(SOURCE, objects)
    hub.push(REPOSITORY, FILES)
    with pytest.raises(InputMissing, match=r"^lab/tasks: the hub answers 404"):
        pin(SOURCE.model_copy(update={"revision": "v9"}), objects)
    with pytest.raises(InputMissing, match=r"^lab/tasks@\w+: no file matches `\*\.csv` .*set `files`"):
        read(SOURCE.model_copy(update={"files": "*.csv"}), objects)


def test_a_busy_hub_is_asked_again_and_in_the_end_it_is_temporary(hub: HubServer, objects: ObjectStore) -> None:
    hub.push(REPOSITORY, FILES)
    pinned = pin(SOURCE, objects)
    hub.busy = 2
    assert len(read(SOURCE, objects, pinned)) == 4
    hub.push(REPOSITORY, FILES)
    hub.busy = 10**6
    with pytest.raises(TemporaryFailure, match=r"^lab/tasks: the hub answers 429"):
        pin(SOURCE, objects)


def test_a_cut_file_goes_on_where_it_broke_off(
    hub: HubServer, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    hub.push(REPOSITORY, {"data/one.jsonl": lines(*(f"task {i}" for i in range(20_000)))})
    hub.cut = 2
    assert len(read(SOURCE, objects)) == 20_000
    ranges = [part for method, path, part in hub.asked if method == "GET" and "/resolve/" in path]
    assert len(ranges) == 3
    assert all(ranges[1:])


def test_a_killed_download_keeps_the_files_that_it_had(hub: HubServer, objects: ObjectStore, tmp_path: Path) -> None:
    commit = hub.push(REPOSITORY, FILES)
    hub.stall_at = "data/two.jsonl"
    code = f"from prefprobe.sources import download; download({REPOSITORY!r}, {commit!r}, ['data/*'], 'dataset')"
    about = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **about}, stderr=subprocess.DEVNULL)
    cached = tmp_path / "cache/datasets--lab--tasks/snapshots" / commit / "data"
    until = time.monotonic() + 30
    while sorted(p.name for p in cached.glob("*")) != ["one.jsonl", "three.jsonl"]:
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.stall_at = ""
    assert len(read(SOURCE, objects, commit)) == 4
    assert hub.files() == {"one.jsonl": 1, "three.jsonl": 1, "two.jsonl": 2}


def test_without_a_network_a_copy_in_the_cache_will_do_if_it_is_whole(
    hub: HubServer, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.push(REPOSITORY, FILES)
    pinned = SOURCE.model_copy(update={"revision": commit})
    assert files_here(pinned, objects) is None
    assert len(read(pinned, objects)) == 4
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    asked = len(hub.asked)
    assert len(read(pinned, objects)) == 4
    assert len(files_here(pinned, objects) or []) == 3
    assert len(hub.asked) == asked
    with pytest.raises(BadConfig, match=r"^lab/tasks: HF_HUB_OFFLINE forbids to ask the hub; set `revision`"):
        pin(SOURCE, objects)
    (lost,) = [path for path in files_here(pinned, objects) or [] if path.name == "two.jsonl"]
    lost.unlink()
    assert files_here(pinned, objects) is None
    with pytest.raises(TemporaryFailure, match=r"^lab/tasks@\w+ could not be downloaded"):
        read(pinned, objects)


def test_a_data_set_in_parquet_and_csv_needs_to_be_told_which(
    hub: HubServer, objects: ObjectStore, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"q": ["x"]}), tmp_path / "x.parquet")
    hub.push(REPOSITORY, {"x.parquet": (tmp_path / "x.parquet").read_bytes(), "y.csv": b"q\ny\n"})
    both = SOURCE.model_copy(update={"files": None})
    with pytest.raises(BadConfig, match=r"it holds \.csv and \.parquet files; set `files`"):
        read(both, objects)
    assert len(read(SOURCE.model_copy(update={"files": "*.parquet"}), objects)) == 1
