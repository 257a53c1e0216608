"""What steps must do on every backend. A test module derives from the class and provides `url`."""

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from prefprobe.errors import InputMissing
from prefprobe.store.formats import json_bytes, read_json
from prefprobe.store.keys import sha256
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import Manifest, Output, StepStore, cas_key, put_cas, read_output

KEY = "k" * 64
RECORD = {"step": "measure", "code": 1, "params": {"seed": 7}, "inputs": {"tasks": "d" * 64}}


def step_store(objects: ObjectStore, step: str = "measure") -> StepStore:
    return StepStore(objects, step, KEY, RECORD)


def everything(objects: ObjectStore) -> dict[str, bytes]:
    return {key: objects.get(key) for key in objects.list("")}


class Recording(ObjectStore):
    """Notes the keys that are written, in order."""

    written: list[str]

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        self.__dict__.setdefault("written", []).append(key)

    def create(self, key: str, data: bytes) -> bool:
        done = super().create(key, data)
        self.__dict__.setdefault("written", []).append(key)
        return done


class DiesBeforeManifest(ObjectStore):
    def create(self, key: str, data: bytes) -> bool:
        if key.endswith("manifest.json"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().create(key, data)


def die_in_commit(url: str) -> None:
    step_store(DiesBeforeManifest.open(url)).commit({"a.json": b"{}\n", "b.json": b"[]\n"}, {})


class StepContract:
    @pytest.fixture
    def objects(self, url: str) -> ObjectStore:
        return ObjectStore.open(url)

    def test_notes_are_replaced_by_whoever_wrote_them_and_are_no_parts(self, objects: ObjectStore) -> None:
        store = step_store(objects)
        assert store.notes() == {}
        for data in (b"1", b"22", b"3"):
            store.note("answers-b", data)
            assert step_store(objects).notes() == {"answers-b": data}
        store.note("answers-a", b"4")
        assert list(store.notes().items()) == [("answers-a", b"4"), ("answers-b", b"3")]
        assert step_store(objects, "probe").notes() == {}
        assert store.parts() == {}
        assert objects.get(f"steps/measure/{KEY}/notes/answers-a.json") == b"4"

    def test_parts_of_one_kind_are_read_in_the_order_of_their_names(self, objects: ObjectStore) -> None:
        store = step_store(objects)
        assert list(store.read_parts("answers-")) == []
        for number in (2, 0, 10, 1):
            store.write_part(f"answers-{number:03d}.json", b"%d" % number)
        store.write_part("round-000.json", b"r")
        assert list(store.read_parts("answers-")) == [b"0", b"1", b"2", b"10"]
        assert list(store.read_parts("round")) == [b"r"]
        objects.delete(cas_key(store.parts()["answers-001.json"].digest))
        with pytest.raises(InputMissing, match=r"part answers-001\.json of step measure\) is absent"):
            list(store.read_parts("answers-"))

    def test_a_step_is_finished_by_its_manifest(self, url: str) -> None:
        objects = Recording.open(url)
        store = step_store(objects)
        assert store.manifest() is None
        part = store.write_part("round-000.parquet", b"rows")
        assert store.manifest() is None
        made = store.commit({"choices.parquet": part, "measure.json": b"{}\n"}, {"seconds": 1.5})
        assert objects.written[-1] == f"steps/measure/{KEY}/manifest.json"
        assert objects.written.index(cas_key(part.digest)) < objects.written.index(
            f"steps/measure/{KEY}/parts/round-000.parquet.json"
        )
        read = step_store(ObjectStore.open(url)).manifest()
        assert read == made
        assert read.record == RECORD
        assert read.meta == {"seconds": 1.5}
        assert read.outputs["choices.parquet"] == Output(sha256(b"rows"), 4, "parquet/round@1")
        assert read.outputs["measure.json"].schema == "json/measure@1"
        assert read_output(store.objects, read, "choices.parquet") == b"rows"
        assert read_output(objects, read, "measure.json") == b"{}\n"
        with pytest.raises(InputMissing, match=r"no output other.json \(it has choices.parquet, measure.json\)"):
            read_output(store.objects, read, "other.json")

    def test_bytes_are_stored_once(self, url: str) -> None:
        objects = Recording.open(url)
        output = put_cas(objects, b"bytes")
        assert put_cas(objects, b"bytes") == output == Output(sha256(b"bytes"), 5, "bytes@1")
        assert objects.written == [f"cas/sha256/{output.digest[:2]}/{output.digest}"]

    def test_truncated_bytes_are_replaced(self, objects: ObjectStore) -> None:
        output = put_cas(objects, b"all bytes")
        objects.put(cas_key(output.digest), b"all")
        assert put_cas(objects, b"all bytes") == output
        assert objects.get(cas_key(output.digest)) == b"all bytes"

    @pytest.mark.parametrize(
        ("bad", "found"),
        [(b"ALL BYTES", "9 bytes with another digest"), (b"all", "is 3 bytes"), (b"", "is 0 bytes"), (None, "absent")],
    )
    def test_bad_bytes_are_never_read(self, objects: ObjectStore, bad: bytes | None, found: str) -> None:
        store = step_store(objects)
        store.write_part("part-0.npz", b"all bytes")
        manifest = store.commit({"a.npz": b"all bytes"}, {})
        key = cas_key(manifest.outputs["a.npz"].digest)
        if bad is None:
            objects.delete(key)
        else:
            objects.put(key, bad)
        before = everything(objects)
        for read, pointer in (
            (lambda: read_output(store.objects, manifest, "a.npz"), "manifest.json"),
            (lambda: store.read_part("part-0.npz"), "parts/part-0.npz.json"),
        ):
            with pytest.raises(InputMissing) as caught:
                read()
            said = str(caught.value)
            assert found in said
            for word in (objects.describe(key), "expected 9 bytes", pointer, "run the step measure again"):
                assert word in said
        assert everything(objects) == before

    @pytest.mark.parametrize("bad", [None, b"all"])
    def test_a_step_that_lost_an_output_runs_again(self, objects: ObjectStore, bad: bytes | None) -> None:
        store = step_store(objects)
        manifest = store.commit({"a.npz": b"all bytes", "b.json": b"{}"}, {"seconds": 1})
        key = cas_key(manifest.outputs["a.npz"].digest)
        if bad is None:
            objects.delete(key)
        else:
            objects.put(key, bad)
        assert store.manifest() is None
        assert store.commit({"a.npz": b"all bytes", "b.json": b"{}"}, {"seconds": 2}) == manifest
        assert store.manifest() == manifest
        assert read_output(store.objects, manifest, "a.npz") == b"all bytes"

    def test_a_manifest_without_its_bytes_is_replaced(self, objects: ObjectStore) -> None:
        store = step_store(objects)
        lost = store.commit({"a.npz": b"lost"}, {})
        objects.delete(cas_key(lost.outputs["a.npz"].digest))
        made = store.commit({"a.npz": b"other"}, {})
        assert made.outputs["a.npz"].digest == sha256(b"other")
        assert store.manifest() == made

    def test_the_first_of_two_writers_wins(self, objects: ObjectStore, caplog: pytest.LogCaptureFixture) -> None:
        first = step_store(objects).commit({"a.json": b"1", "b.json": b"2"}, {"pod": 1})
        with caplog.at_level(logging.WARNING, logger="prefprobe"):
            assert step_store(objects).commit({"a.json": b"1", "b.json": b"2"}, {"pod": 2}) == first
            assert caplog.records == []
            assert step_store(objects).commit({"a.json": b"1", "b.json": b"3"}, {"pod": 3}) == first
        assert [r.getMessage() for r in caplog.records] == [
            f"Step measure {KEY} was finished with other b.json; the first is kept."
        ]
        assert step_store(objects).manifest() == first

    def test_racing_writers_agree(self, url: str) -> None:
        stores = [step_store(ObjectStore.open(url)) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            made: list[Manifest] = list(
                pool.map(lambda i: stores[i].commit({"a.json": b"%d" % i}, {"pod": i}), range(4))
            )
        assert made == [made[0]] * 4
        assert made[0].outputs["a.json"].digest == sha256(b"%d" % made[0].meta["pod"])
        assert stores[0].manifest() == made[0]

    def test_killed_before_the_manifest(self, url: str, objects: ObjectStore) -> None:
        process = multiprocessing.get_context("spawn").Process(target=die_in_commit, args=(url,))
        process.start()
        process.join(timeout=60)
        assert process.exitcode == -signal.SIGKILL
        assert objects.list("") == sorted(cas_key(sha256(data)) for data in (b"{}\n", b"[]\n"))
        assert step_store(objects).manifest() is None
        made = step_store(objects).commit({"a.json": b"{}\n", "b.json": b"[]\n"}, {})
        assert step_store(objects).manifest() == made

    def test_parts_are_kept_for_the_next_run(self, url: str, objects: ObjectStore) -> None:
        store = step_store(objects)
        assert store.parts() == {}
        assert "part-00001.npz" not in store.parts()
        with pytest.raises(InputMissing, match=r"parts/part-00001.npz.json is not in the store"):
            store.read_part("part-00001.npz")
        written = {
            name: store.write_part(name, name.encode()) for name in ("part-00001.npz", "part-00000.npz", "a/b.json")
        }
        again = step_store(ObjectStore.open(url))
        assert list(again.parts()) == ["a/b.json", "part-00000.npz", "part-00001.npz"]
        assert again.parts() == written
        assert "part-00001.npz" in again.parts()
        assert again.read_part("part-00001.npz") == b"part-00001.npz"
        assert StepStore(objects, "measure", "other", {}).parts() == {}

    def test_the_first_part_of_a_name_is_kept(self, objects: ObjectStore, caplog: pytest.LogCaptureFixture) -> None:
        store = step_store(objects)
        first = store.write_part("part-0.json", b"1")
        with caplog.at_level(logging.WARNING, logger="prefprobe"):
            assert store.write_part("part-0.json", b"1") == first
            assert caplog.records == []
            assert store.write_part("part-0.json", b"2") == first
        assert len(caplog.records) == 1
        assert store.read_part("part-0.json") == b"1"

    def test_a_lost_part_is_not_committed(self, objects: ObjectStore) -> None:
        store = step_store(objects)
        part = store.write_part("part-0.npz", b"all bytes")
        objects.put(cas_key(part.digest), b"all")
        with pytest.raises(InputMissing, match=r"is 3 bytes, expected 9 bytes: delete it and the part in .*/parts"):
            store.commit({"part-0.npz": part}, {})
        objects.delete(cas_key(part.digest))
        with pytest.raises(InputMissing, match="is absent, expected 9 bytes"):
            store.commit({"part-0.npz": part}, {})
        assert store.manifest() is None

    @pytest.mark.parametrize(
        "change",
        [
            lambda text: text[: len(text) // 2],
            lambda text: b"",
            lambda text: b"\xff\xfe",
            lambda text: b"[]",
            lambda text: json_bytes({**read_json(text), "key": "l" * 64}),
            lambda text: json_bytes({**read_json(text), "step": "probe"}),
            lambda text: json_bytes({**read_json(text), "outputs": {"a": {"digest": "x", "size": 1, "schema": "s"}}}),
            lambda text: json_bytes(
                {**read_json(text), "outputs": {"a": {"digest": "a" * 64, "size": "1", "schema": "s"}}}
            ),
        ],
    )
    def test_a_malformed_manifest_is_named(self, objects: ObjectStore, change: Callable[[bytes], bytes]) -> None:
        store = step_store(objects)
        store.commit({"a.json": b"1"}, {})
        key = f"steps/measure/{KEY}/manifest.json"
        objects.put(key, change(objects.get(key)))
        before = everything(objects)
        for read in (store.manifest, lambda: store.commit({"a.json": b"1"}, {})):
            with pytest.raises(InputMissing, match="run the step measure again") as caught:
                read()
            assert objects.describe(key) in str(caught.value)
        assert everything(objects) == before

    def test_a_malformed_part_is_named(self, objects: ObjectStore) -> None:
        store = step_store(objects)
        store.write_part("part-0.npz", b"1")
        objects.put(f"steps/measure/{KEY}/parts/part-0.npz.json", b"")
        for read in (store.parts, lambda: store.read_part("part-0.npz"), lambda: store.write_part("part-0.npz", b"1")):
            with pytest.raises(InputMissing, match=r"part-0.npz.json is not what step measure wrote"):
                read()
