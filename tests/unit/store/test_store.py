"""The store in a directory."""

import os
from pathlib import Path

import pytest

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore, cas_key, schema_of
from tests.object_contract import ObjectContract
from tests.step_contract import KEY, StepContract, step_store


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "store")


class TestObjectsInDirectory(ObjectContract):
    pass


class TestStepsInDirectory(StepContract):
    pass


def test_reading_an_absent_store_writes_nothing(tmp_path: Path) -> None:
    objects = ObjectStore.open(str(tmp_path / "not" / "there"))
    with pytest.raises(InputMissing):
        objects.get("a")
    objects.delete("a")
    store = step_store(objects)
    assert (objects.size("a"), objects.list(""), store.manifest(), store.parts()) == (None, [], None, {})
    assert list(tmp_path.iterdir()) == []
    objects.put("a", b"1")
    assert (tmp_path / "not" / "there" / "a").read_bytes() == b"1"


def test_a_store_that_appears_later_is_read(tmp_path: Path) -> None:
    reader, writer = (ObjectStore.open(str(tmp_path / "store")) for _ in range(2))
    assert reader.size("a") is None
    writer.put("a", b"1")
    assert reader.get("a") == b"1"


def test_staging_files_of_a_killed_process_do_not_show(tmp_path: Path) -> None:
    objects = ObjectStore.open(str(tmp_path))
    store = step_store(objects)
    store.write_part("part-0.json", b"1")
    folder = tmp_path / f"steps/measure/{KEY}"
    (folder / "parts/part-0.json.json#1").write_bytes(b"{")
    (folder / "parts/part-1.json.json#1").write_bytes(b"{")
    (folder / "manifest.json#12").write_bytes(b"{")
    assert list(store.parts()) == ["part-0.json"]
    assert store.manifest() is None
    assert not [key for key in objects.list("") if "#" in key]
    store.write_part("part-1.json", b"2")
    assert store.commit({"a": b"1"}, {}) == store.manifest()


@pytest.mark.parametrize("name", ["plain", "with space", "100%25 ü#1"])
def test_addresses_of_one_directory(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    ObjectStore.open(str(tmp_path / name)).put("a/b", b"1")
    for address in (name, f"./{name}", f"~/{name}", (tmp_path / name).as_uri(), f"{tmp_path / name}/"):
        objects = ObjectStore.open(address)
        assert objects.get("a/b") == b"1"
        assert objects.describe("a/b") == str(tmp_path / name / "a/b")


@pytest.mark.parametrize(
    "address",
    [
        *("", "gs://bucket/x", "http://host/x", "file://host/x", "s3://", "s3:///prefix", "s3://bucket?x=1"),
        *("s3://key:hunter2@bucket/x", "s3://bucket:80/x", "s3://bucket/x#y", "gs://key:hunter2@bucket"),
    ],
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(BadConfig) as caught:
        ObjectStore.open(address)
    assert "s3://bucket/prefix" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/sub"):
        objects = ObjectStore.open(str(tmp_path / place))
        with pytest.raises(BadConfig, match=f"{tmp_path / place}/a .*(Not a directory|File exists)"):
            objects.put("a", b"1")
    objects = ObjectStore.open(str(tmp_path))
    for verb in (lambda: objects.get("file/a"), lambda: objects.size("file/a"), lambda: objects.create("file/a", b"")):
        with pytest.raises(BadConfig, match=f"{tmp_path}/file/a .*Not a directory"):
            verb()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_write_access_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BadConfig, match="Permission denied"):
        ObjectStore.open(str(tmp_path)).put("a/b", b"1")


def test_written_files_are_plain(tmp_path: Path) -> None:
    store = StepStore(ObjectStore.open(str(tmp_path)), "probe", "abc", {"step": "probe"})
    digest = store.commit({"probe.json": b"{}\n"}, {}).outputs["probe.json"].digest
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert files == [f"cas/sha256/{digest[:2]}/{digest}", "steps/probe/abc/manifest.json"]
    assert (tmp_path / files[1]).read_text().endswith("}\n")


def test_digest_depends_on_outputs_alone(tmp_path: Path) -> None:
    objects = ObjectStore.open(str(tmp_path))
    a, b = (StepStore(objects, "probe", key, {"k": key}) for key in ("a", "b"))
    one, same = a.commit({"x": b"1", "y": b"2"}, {"seconds": 1}), b.commit({"y": b"2", "x": b"1"}, {"seconds": 2})
    assert one.digest() == same.digest()
    assert StepStore(objects, "probe", "c", {}).commit({"x": b"1", "y": b"3"}, {}).digest() != one.digest()


@pytest.mark.parametrize("n", [3, 40])
def test_a_step_is_open_again_if_one_of_its_outputs_is_lost_or_cut(tmp_path: Path, n: int) -> None:
    objects = ObjectStore.open(str(tmp_path))
    store = StepStore(objects, "probe", "a", {})
    outputs = {f"part-{k}": f"bytes {k}".encode() for k in range(n)}
    manifest = store.commit(outputs, {})
    assert store.manifest() == manifest
    for k in (0, n // 2, n - 1):
        key = cas_key(manifest.outputs[f"part-{k}"].digest)
        whole = objects.get(key)
        objects.put(key, whole[:-1])
        assert store.manifest() is None
        objects.delete(key)
        assert store.manifest() is None
        objects.put(key, whole)
        assert store.manifest() == manifest


def test_steps_are_directories(tmp_path: Path) -> None:
    for step, key in (
        ("extract.model.0", KEY),
        ("Probe", KEY),
        ("a/b", KEY),
        ("", KEY),
        ("probe", "a/b"),
        ("a", ""),
    ):
        with pytest.raises(ValueError, match="is not"):
            StepStore(ObjectStore.open(str(tmp_path)), step, key, {})


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("choices.parquet", "parquet/choices@1"),
        ("part-00012.npz", "npz/part@1"),
        ("choices/0001.parquet", "parquet/choices@1"),
        ("round-000-part-00001.parquet", "parquet/round-000-part@1"),
        ("figures/shift.svg", "svg/shift@1"),
        ("notes", "bytes/notes@1"),
    ],
)
def test_schema_of_a_name(name: str, schema: str) -> None:
    assert schema_of(name) == schema
