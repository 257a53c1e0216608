"""The canary of `helm test`."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from prefprobe.errors import BadConfig
from prefprobe.store.check import check_store
from prefprobe.store.objects import ObjectStore


class Overwriting(ObjectStore):
    """A server that ignores If-None-Match."""

    def create(self, key: str, data: bytes) -> bool:
        self.put(key, data)
        return True


class Lying(ObjectStore):
    """A server that refuses the second write in words only."""

    def create(self, key: str, data: bytes) -> bool:
        there = self.size(key) is not None
        self.put(key, data)
        return not there


class Garbling(ObjectStore):
    def get(self, key: str) -> bytes:
        return super().get(key)[:-1]


class Forgetful(ObjectStore):
    def list(self, prefix: str) -> list[str]:
        return []


class Keeping(ObjectStore):
    def delete(self, key: str) -> None:
        pass


def run(environment: Mapping[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prefprobe", "check-store", *args],
        env={"PATH": os.defpath, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_store_that_does_what_is_needed(tmp_path: Path) -> None:
    objects = ObjectStore.open(str(tmp_path))
    lines = check_store(objects)
    assert len(lines) == 4
    assert str(tmp_path) in lines[0]
    assert objects.list("") == []


@pytest.mark.s3
def test_a_bucket_does_what_is_needed(s3_url: str) -> None:
    objects = ObjectStore.open(f"{s3_url}/check")
    assert len(check_store(objects)) == 4
    assert objects.list("") == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Overwriting, "does not honour a conditional write"),
        (Lying, "does not honour a conditional write"),
        (Garbling, "gives other bytes than were written"),
        (Forgetful, "does not list"),
        (Keeping, "keeps a deleted object"),
    ],
)
def test_a_store_that_does_not(kind: type[ObjectStore], said: str, tmp_path: Path) -> None:
    objects = kind.open(str(tmp_path))
    with pytest.raises(BadConfig, match=said) as caught:
        check_store(objects)
    assert f"{tmp_path}/canary/" in str(caught.value)
    if kind is not Keeping:
        assert ObjectStore.open(str(tmp_path)).list("") == []


def test_the_command_of_the_pod(tmp_path: Path) -> None:
    done = run({"PREFPROBE_STORE": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 4


def test_the_command_fails_as_the_others_do(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = run({"PREFPROBE_TERMINATION_LOG": str(log)}, "--store", "gs://bucket")
    assert done.returncode == 78
    assert done.stderr == f"prefprobe: {log.read_text()}\n"
    assert "gs:// address" in done.stderr
