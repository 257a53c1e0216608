"""What the store says when an S3 server misbehaves, with a server that follows a script."""

import errno
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from prefprobe.errors import BadConfig, PrefprobeError, TemporaryFailure
from prefprobe.store import backend
from prefprobe.store.objects import CREATE_TRIES, ObjectStore

EMPTY_LISTING = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
SECRETS = ("the-secret-access-key", "the-session-token", "THEACCESSKEYID")
Script = Callable[[str, str], tuple[int, str]]


class Server(ThreadingHTTPServer):
    """Answers each (method, path) with the status and the S3 error code, or the whole body, of its script."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: Script = lambda method, path: (500, "InternalError")
        self.seen: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        assert isinstance(self.server, Server)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path))
        status, code = self.server.script(self.command, self.path)
        # Servers do repeat what they were sent, so the reply carries every secret there is.
        echo = "".join(f"<Echo>{secret}</Echo>" for secret in SECRETS)
        error = f"<Error><Code>{code}</Code>{echo}</Error>" if code else ""
        body = (code if code.startswith("<") else error).encode()
        self.send_response(status)
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[0])
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRETS[1])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRETS[2])


@pytest.fixture
def server(environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(backend, "RETRIES", 1)
    with Server() as each:
        monkeypatch.setenv("AWS_ENDPOINT_URL", each.url)
        threading.Thread(target=each.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield each
        each.shutdown()


@pytest.fixture
def closed() -> str:
    """The address of a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def verbs(objects: ObjectStore) -> dict[str, Callable[[], object]]:
    return {
        "get": lambda: objects.get("a/b"),
        "put": lambda: objects.put("a/b", b"x"),
        "create": lambda: objects.create("a/b", b"x"),
        "size": lambda: objects.size("a/b"),
        "list": lambda: objects.list("a"),
        "delete": lambda: objects.delete("a/b"),
    }


def failure(verb: Callable[[], object]) -> PrefprobeError:
    """What a verb raises; its message is one line and its traceback repeats nothing that the server sent."""
    with pytest.raises(PrefprobeError) as caught:
        verb()
    shown = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in SECRETS if secret in shown]
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (500, "InternalError", TemporaryFailure, "failed at s3://bucket/p/a"),
        (503, "SlowDown", TemporaryFailure, "run again"),
        (429, "TooManyRequests", TemporaryFailure, "429"),
        (403, "SignatureDoesNotMatch", BadConfig, "check AWS_ACCESS_KEY_ID"),
        (401, "", BadConfig, "refused these credentials"),
        (400, "ExpiredToken", BadConfig, "refused these credentials"),
        (404, "NoSuchBucket", BadConfig, "There is no bucket for s3://bucket/p/a"),
        (404, "", BadConfig, "AWS_ENDPOINT_URL"),
        (301, "PermanentRedirect", BadConfig, "AWS_REGION"),
        (400, "InvalidBucketName", BadConfig, "the bucket's name"),
        (501, "NotImplemented", BadConfig, "conditional writes"),
    ],
)
def test_replies_have_a_meaning(server: Server, status: int, code: str, error: type, words: str) -> None:
    server.script = lambda method, path: (status, code)
    objects = ObjectStore.open("s3://bucket/p")
    for name, verb in verbs(objects).items():
        caught = failure(verb)
        assert type(caught) is error
        assert server.url in str(caught)
        # The reply about a size has no body to state a code.
        if (name, code) != ("size", "ExpiredToken"):
            assert words in str(caught)


def test_requests_are_path_style_at_the_endpoint_for_s3(
    server: Server, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"{server.url}/")
    monkeypatch.setenv("AWS_ENDPOINT_URL", closed)
    server.script = lambda method, path: (200, "")
    ObjectStore.open("s3://bucket//some/prefix/").put("a/b", b"x")
    ObjectStore.open("s3://bucket").delete("a/b")
    assert server.seen == [("PUT", "/bucket/some/prefix/a/b"), ("DELETE", "/bucket/a/b")]


def after_puts(*replies: tuple[int, str]) -> Script:
    """Writes get these replies in turn; the bucket is empty."""
    rest = iter(replies)
    found = {"HEAD": (404, ""), "GET": (200, EMPTY_LISTING)}
    return lambda method, path: next(rest) if method == "PUT" else found[method]


def test_an_absent_object_is_absent_without_a_body_that_says_so(server: Server) -> None:
    server.script = after_puts()
    objects = ObjectStore.open("s3://bucket/p")
    assert objects.size("a") is None
    assert objects.size("b") is None
    assert [method for method, _ in server.seen] == ["HEAD", "GET", "HEAD"]


def test_conflict_without_an_object_is_tried_again(server: Server) -> None:
    server.script = after_puts((409, "ConditionalRequestConflict"), (200, ""))
    assert ObjectStore.open("s3://bucket").create("a", b"x")
    assert [method for method, _ in server.seen if method == "PUT"] == ["PUT", "PUT"]


@pytest.mark.parametrize("status", [409, 412])
def test_create_is_lost_to_an_object(server: Server, status: int) -> None:
    server.script = lambda method, path: (status, "Conflict") if method == "PUT" else (200, "")
    assert not ObjectStore.open("s3://bucket").create("a", b"x")


def test_conflict_without_end_is_temporary(server: Server) -> None:
    server.script = after_puts(*[(409, "Conflict")] * CREATE_TRIES)
    caught = failure(lambda: ObjectStore.open("s3://bucket").create("a", b"x"))
    assert type(caught) is TemporaryFailure
    assert "in conflict" in str(caught)


@pytest.mark.usefixtures("environment")
def test_unreachable_endpoint_ends_in_time(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", closed)
    objects = ObjectStore.open("s3://bucket/p")
    with ThreadPoolExecutor(6) as pool:
        for pending in [pool.submit(failure, verb) for verb in verbs(objects).values()]:
            caught = pending.result(timeout=60)
            assert type(caught) is TemporaryFailure
            assert caught.exit_code == 75
            assert f"{closed} cannot be reached for s3://bucket/p/a" in str(caught)
            assert "refused the connection" in str(caught)
            assert "check AWS_ENDPOINT_URL" in str(caught)


def test_tls_where_there_is_none(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("http://", "https://"))
    caught = failure(lambda: ObjectStore.open("s3://bucket").get("a"))
    assert type(caught) is BadConfig
    assert "it does not speak TLS" in str(caught)


def test_untrusted_certificate() -> None:
    error = OSError("HTTP error: error sending request\nerror: InvalidCertificate(\n UnknownIssuer,\n)")
    caught = backend.translate(error, "s3://bucket/a", "https://host")
    assert type(caught) is BadConfig
    assert "SSL_CERT_FILE" in str(caught)


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.ENOSPC, TemporaryFailure, "No space"),
        (errno.EIO, TemporaryFailure, "check the disk"),
        (errno.EROFS, BadConfig, "Read-only file"),
    ],
)
def test_disk_errors_have_a_meaning(number: int, error: type, words: str) -> None:
    for raised in (OSError(number, "words"), OSError(f"Unable to open file /a#1: words (os error {number})")):
        caught = backend.translate(raised, "/store/a", None)
        assert type(caught) is error
        assert words in str(caught)
        assert "/store/a" in str(caught)


@pytest.mark.usefixtures("server")
def test_password_in_an_endpoint_is_not_shown(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", closed.replace("//", f"//user:{SECRETS[0]}@"))
    assert closed in str(failure(lambda: ObjectStore.open("s3://bucket").get("a")))


@pytest.mark.usefixtures("server")
def test_no_credentials(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", closed)
    caught = failure(lambda: ObjectStore.open("s3://bucket").get("a"))
    assert type(caught) is BadConfig
    assert "set AWS_ACCESS_KEY_ID" in str(caught)


@pytest.mark.parametrize("endpoint", ["localhost:8333", "s3.example.org", "user:hunter2@host"])
def test_endpoint_without_scheme(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with pytest.raises(BadConfig, match="AWS_ENDPOINT_URL_S3 must begin with http") as caught:
        ObjectStore.open("s3://bucket")
    assert "hunter2" not in str(caught.value)
