"""What every backend of the object store must do. A test module derives from the class and provides `url`."""

import multiprocessing
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier

import pytest

from prefprobe.errors import InputMissing
from prefprobe.store.objects import CHUNK, ObjectStore


def race_in_process(url: str, keys: list[str], who: int, start: Barrier, sink: "multiprocessing.Queue[object]") -> None:
    objects = ObjectStore.open(url)
    start.wait(timeout=60)
    sink.put((who, [objects.create(key, b"%d" % who) for key in keys]))


class ObjectContract:
    racers = 8
    rounds = 20

    @pytest.fixture
    def objects(self, url: str) -> ObjectStore:
        return ObjectStore.open(url)

    def test_what_is_written_is_read(self, objects: ObjectStore) -> None:
        assert objects.create("a/b.json", b"one")
        assert objects.get("a/b.json") == b"one"
        assert objects.size("a/b.json") == 3
        objects.put("a/b.json", b"second")
        assert objects.get("a/b.json") == b"second"
        assert not objects.create("a/b.json", b"third")
        assert objects.get("a/b.json") == b"second"
        objects.put("empty", b"")
        assert (objects.get("empty"), objects.size("empty")) == (b"", 0)
        objects.delete("a/b.json")
        assert objects.size("a/b.json") is None
        assert objects.create("a/b.json", b"fourth")
        assert objects.describe("a/b.json") == f"{objects.url}/a/b.json"
        assert ObjectStore.open(objects.url).get("a/b.json") == b"fourth"

    def test_what_is_absent(self, objects: ObjectStore) -> None:
        objects.put("there", b"x")
        with pytest.raises(InputMissing, match="a/b is not in the store") as caught:
            objects.get("a/b")
        assert objects.describe("a/b") in str(caught.value)
        assert objects.size("a/b") is None
        assert objects.list("a") == []
        objects.delete("a/b")
        assert objects.list("") == ["there"]

    def test_list_takes_whole_segments_in_order(self, objects: ObjectStore) -> None:
        keys = ["b/2", "b/10", "b/c/1", "bc/1", "b.json", "a"]
        for key in keys:
            objects.put(key, b"")
        assert objects.list("b") == objects.list("b/") == ["b/10", "b/2", "b/c/1"]
        assert objects.list("b/c") == ["b/c/1"]
        assert objects.list("") == sorted(keys)

    def test_list_has_more_than_one_page(self, objects: ObjectStore) -> None:
        keys = [f"many/{i:04d}" for i in range(1005)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: objects.put(key, b""), keys))
        assert objects.list("many") == keys

    @pytest.mark.parametrize("size", [CHUNK, 2 * CHUNK + 7])
    def test_large_objects_survive(self, objects: ObjectStore, size: int) -> None:
        data = random.Random(size).randbytes(size)
        objects.put("large", data)
        assert objects.size("large") == size
        assert objects.get("large") == data

    @pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/..", "a/./b", "a#1", "a b", "a%20", "ä", "a\n"])
    def test_other_keys_are_refused(self, objects: ObjectStore, key: str) -> None:
        verbs: list[Callable[[], object]] = [
            lambda: objects.get(key),
            lambda: objects.put(key, b""),
            lambda: objects.create(key, b""),
            lambda: objects.size(key),
            lambda: objects.delete(key),
        ]
        for verb in verbs:
            with pytest.raises(ValueError, match="not a key"):
                verb()
        assert objects.list("") == []

    def test_one_thread_of_many_creates(self, url: str) -> None:
        stores = [ObjectStore.open(url) for _ in range(self.racers)]
        with ThreadPoolExecutor(self.racers) as pool:
            for number in range(self.rounds):
                key = f"race/{number}"
                won = list(pool.map(lambda i, k=key: stores[i].create(k, b"%d" % i), range(self.racers)))
                assert sum(won) == 1
                assert stores[0].get(key) == b"%d" % won.index(True)

    def test_one_process_of_many_creates(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        keys = [f"race/{i}" for i in range(self.rounds)]
        start, sink = context.Barrier(2), context.Queue()
        processes = [context.Process(target=race_in_process, args=(url, keys, i, start, sink)) for i in range(2)]
        for process in processes:
            process.start()
        won = dict(sink.get(timeout=120) for _ in processes)
        for process in processes:
            process.join()
        objects = ObjectStore.open(url)
        for number, key in enumerate(keys):
            winners = [who for who in won if won[who][number]]
            assert len(winners) == 1
            assert objects.get(key) == b"%d" % winners[0]
