"""The store in a bucket of a real S3 server."""

import itertools
from collections.abc import Sequence

import pytest

from prefprobe.choices.answers import AnswerLog
from prefprobe.choices.engine import Answer, Question, Save, Spend
from prefprobe.choices.ledger import Ledger
from prefprobe.errors import BadConfig
from prefprobe.progress import Progress
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import read_output
from tests.conftest import ACCESS_KEY, READER, SECRET_KEY
from tests.object_contract import ObjectContract
from tests.questions import question
from tests.step_contract import StepContract, step_store

pytestmark = pytest.mark.s3
numbers = itertools.count()


@pytest.fixture
def url(s3_url: str) -> str:
    """A prefix of its own for each test."""
    return f"{s3_url}/store-{next(numbers)}"


class TestObjectsInBucket(ObjectContract):
    # The server queues writers of one key behind a lock that it polls once a second.
    racers = 4
    rounds = 2


class TestStepsInBucket(StepContract):
    pass


def test_a_bucket_has_no_local_path(url: str) -> None:
    objects = ObjectStore.open(f"{url}/")
    assert objects.url == url
    assert objects.describe("a/b") == f"{url}/a/b"


def test_what_was_asked_and_lost_is_counted_in_a_bucket(url: str) -> None:
    """As in a folder: a question is in the note of its process before it goes out, and out of it with its answer."""
    store = step_store(ObjectStore.open(url), "answers")
    killed = Ledger(store, "me", "answers")
    killed.owe({"q1": Spend(1, 50, 5, 0.25), "q2": Spend(2, 100, 10, 0.5)})
    log = AnswerLog(step_store(ObjectStore.open(url), "answers"), "me")
    assert log.spend == Spend(3, 150, 15, 0.75)

    def asked(questions: Sequence[Question], save: Save) -> None:
        save.owe({"q1": Spend(1, 50, 5, 0.25)})
        save([Answer("q1", "Task A", prompt_tokens=60, completion_tokens=4, cost=1.0)])

    log.ask(asked, [question("q1", "x", "y")], Progress.silent(), "answers")
    assert log.spend == Spend(2, 120, 8, 2.0) + Spend(2, 100, 10, 0.5)
    assert AnswerLog(store, "me").spend == log.spend


def test_missing_bucket_is_named(s3_url: str) -> None:
    objects = ObjectStore.open("s3://no-such-bucket/p")
    for verb in (
        lambda: objects.get("a"),
        lambda: objects.size("a"),
        lambda: objects.list(""),
        lambda: objects.list("a"),
        lambda: objects.delete("a"),
        lambda: objects.put("a", b"1"),
        lambda: objects.create("a", b"1"),
        lambda: step_store(objects).manifest(),
    ):
        with pytest.raises(BadConfig, match="There is no bucket for s3://no-such-bucket/p/") as caught:
            verb()
        assert "create it" in str(caught.value)


@pytest.mark.parametrize("secret", ["not-the-secret-of-this-key", "x"])
def test_wrong_secret_is_refused_and_not_shown(url: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    objects = ObjectStore.open(url)
    for verb in (
        lambda: objects.get("a"),
        lambda: objects.size("a"),
        lambda: objects.list(""),
        lambda: objects.put("a", b""),
    ):
        with pytest.raises(BadConfig, match="refused these credentials") as caught:
            verb()
        said = str(caught.value)
        assert url in said
        assert not {ACCESS_KEY, SECRET_KEY, "not-the-secret-of-this-key"} & set(said.split())
        assert ACCESS_KEY not in said


def test_a_reader_may_read_and_not_write(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = step_store(ObjectStore.open(url)).commit({"a.json": b"1"}, {})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER[1])
    objects = ObjectStore.open(url)
    store = step_store(objects)
    assert store.manifest() == manifest
    assert read_output(store.objects, manifest, "a.json") == b"1"
    assert store.parts() == {}
    with pytest.raises(BadConfig, match="refused these credentials"):
        store.write_part("part-0.json", b"2")
    with pytest.raises(BadConfig, match="refused these credentials"):
        objects.delete("a")
    assert ObjectStore.open(url).list("cas") == [k for k in ObjectStore.open(url).list("") if k.startswith("cas/")]
