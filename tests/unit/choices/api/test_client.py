"""The client against endpoints that fail in every way there is: nothing lost, nothing twice, every loss counted."""

import contextlib
import itertools
import json
import logging
import re
import signal
import socket
import ssl
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from prefprobe.choices.api import pacing, wire
from prefprobe.choices.api.access import Access
from prefprobe.choices.api.client import Call, Client, Reply
from prefprobe.choices.api.pacing import Breaker, Pace, Spacing, Window, retry_after
from prefprobe.errors import BadConfig, PrefprobeError, TemporaryFailure
from prefprobe.settings.api import ApiSettings
from prefprobe.settings.endpoint import TransportSettings
from tests.fault_server import Behaviour, Body, FaultServer, answer

KEY = "sk-test-a-very-secret-key"
THERE = ConnectionKey("models.example", 443, True, True, None, None, None)
GOOD = {"id": "1", "model": "planted", "choices": [{"message": {"content": "Task A: …"}}]}
Script = Callable[[Body, int], str | None]
Answered = tuple[int, dict[str, str], bytes]


class Endpoint(ThreadingHTTPServer):
    """Answers every attempt as its script says; None closes the connection without a word."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, script: Callable[[Body], Answered | None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.keys: set[str | None] = set()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Endpoint)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.keys.add(self.headers.get("Authorization"))
        answered = self.server.script(body)
        if answered is None:
            self.close_connection = True
            return
        status, headers, data = answered
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # whoever asked may have gone
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextlib.contextmanager
def endpoint(script: Callable[[Body], Answered | None]) -> Iterator[Endpoint]:
    with Endpoint(script) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(pacing, "LONGEST", 0.1)


def call(number: int, text: str = "") -> Call:
    said = f"Task A: x u={number % 7 - 3}\n\nTask B: y u=0 {text}"
    return Call(str(number), {"model": "planted", "messages": [{"role": "user", "content": said}], "seed": number}, 100)


def complaint(body: Body) -> str | None:
    """What is wrong with a body, without a memory."""
    if not body.get("choices") or not body["choices"][0]["message"]["content"]:
        return "empty answer"
    return "wrong model" if body["model"] != "planted" else None


def access_to(url: str, key: str = KEY) -> Access:
    return Access(url, {"Authorization": f"Bearer {key}"}, {}, (key,))


def client_for(url: str, key: str = KEY, **given: Any) -> Client:
    settings = TransportSettings(**{"concurrency": 8, "attempt_timeout": 5.0, "total_timeout": 30.0, **given})
    return Client(access_to(url, key), settings, complaint)


def replies(client: Client, calls: list[Call]) -> dict[str, Reply]:
    """What was delivered, and each call once."""
    got: list[Reply] = []
    client.run(iter(calls), got.append, lambda: None)
    assert sorted(r.id for r in got) == sorted(c.id for c in calls)
    return {r.id: r for r in got}


def fails_first(fault: str) -> Script:
    return lambda body, attempt: fault if attempt == 0 else None


@pytest.mark.parametrize("seed", range(2))
def test_a_storm_of_all_faults_loses_nothing_and_delivers_nothing_twice(seed: int) -> None:
    behaviour = Behaviour(fault_rate=0.5, retry_after="0.01", trickle=1.0)
    calls = [call(n, f"storm {seed}") for n in range(40)]
    seen: set[str] = set()

    def inspect(body: Body) -> str | None:
        wrong = complaint(body) or ("duplicate" if body["id"] in seen else None)
        seen.add(body["id"])
        return wrong

    with FaultServer(behaviour) as server:
        settings = TransportSettings(concurrency=32, attempt_timeout=0.7, total_timeout=60.0)
        client = Client(access_to(server.url), settings, inspect)
        got = replies(client, calls)
    for c in calls:
        reply = got[c.id]
        assert reply.body is not None
        assert reply.body["choices"] == answer(behaviour, dict(c.body))["choices"]
    assert Counter(cause for r in got.values() for cause in r.losses) == client.losses
    assert client.sent == len(calls) + client.losses.total()
    assert len(client.losses) >= 8  # the storm was one


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("429", "429"),
        ("500", "500"),
        ("503", "503"),
        ("408", "408"),
        ("409", "409"),
        ("425", "425"),
        ("hang", "timeout"),
        ("trickle", "timeout"),
        ("cut", "cut body"),
        ("garbage", "garbage"),
        ("no choices", "empty answer"),
        ("null content", "empty answer"),
        ("other model", "wrong model"),
    ],
)
def test_a_lost_attempt_is_made_again_and_its_cause_kept(fault: str, cause: str) -> None:
    with FaultServer(Behaviour(trickle=2.0), fails_first(fault)) as server:
        client = client_for(server.url, attempt_timeout=0.7 if cause == "timeout" else 5.0)
        got = replies(client, [call(0)])
    assert got["0"].body is not None
    assert (got["0"].losses, got["0"].error) == ((cause,), "")
    assert (client.sent, client.losses) == (2, Counter([cause]))


def test_a_lost_attempt_frees_its_place_at_once() -> None:
    with FaultServer(script=fails_first("500")) as server:
        started = time.monotonic()
        replies(client_for(server.url, concurrency=1), [call(n) for n in range(12)])
    assert time.monotonic() - started < 6  # and not with the next beat, a second later each time


@pytest.mark.parametrize("data", [b"", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"choices": ['])
def test_garbage_is_what_is_no_json_object(data: bytes) -> None:
    bodies = iter([data, json.dumps(GOOD).encode()])
    with endpoint(lambda _: (200, {}, next(bodies))) as server:
        assert replies(client_for(server.url), [call(0)])["0"].losses == ("garbage",)


def test_a_connection_that_breaks_or_is_refused_is_lost() -> None:
    script: Iterator[Answered | None] = iter([None, (200, {}, json.dumps(GOOD).encode())])
    with endpoint(lambda _: next(script)) as server:
        assert replies(client_for(server.url), [call(0)])["0"].losses == ("disconnected",)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    client = client_for(url, total_timeout=0.5)
    with pytest.raises(TemporaryFailure, match=rf"{url} has answered nothing for 0.5 s \(most often: connection"):
        replies(client, [call(0)])


def test_an_address_that_is_none_ends_the_run() -> None:
    with pytest.raises(BadConfig, match="no address; check base_url"):
        replies(client_for("http://127.0.0.1:99999/v1"), [call(0)])


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (aiohttp.ClientConnectorCertificateError(THERE, ssl.CertificateError("expired")), BadConfig),
        (aiohttp.ClientConnectorSSLError(THERE, ssl.SSLEOFError("cut off")), TemporaryFailure),
    ],
)
def test_a_bad_certificate_ends_the_run_and_a_broken_handshake_does_not(
    error: Exception, becomes: type[PrefprobeError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(aiohttp.ClientSession, "post", fails)
    with pytest.raises(becomes, match="certificate" if becomes is BadConfig else "most often: connection"):
        replies(client_for("https://models.example/v1", total_timeout=0.3), [call(0)])


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": " 3 "}, 3.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT"}, 10.0),
        ({"retry-after": "Wed, 21 Oct 2026 09:28:10 +0200"}, 10.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"x-ratelimit-reset-requests": "1s"}, 1.0),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-reset-requests": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "2s"}, 2.0),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "9000",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            1.0,
        ),
        ({"retry-after": "5", "x-ratelimit-reset-requests": "1s"}, 5.0),
        ({}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"x-ratelimit-reset-requests": "later"}, None),
        ({"x-ratelimit-reset-requests": ""}, None),
    ],
)
def test_what_a_provider_says_of_waiting(headers: dict[str, str], expected: float | None) -> None:
    got = retry_after(headers, datetime(2026, 10, 21, 7, 28, tzinfo=UTC))
    assert got == (None if expected is None else pytest.approx(expected))


def test_a_429_with_retry_after_pauses_the_whole_client() -> None:
    behaviour = Behaviour(delay=0.02, retry_after="0.6")
    calls = [call(n) for n in range(60)]
    with FaultServer(
        behaviour, lambda body, n: "429 with Retry-After" if body["seed"] == 20 and not n else None
    ) as server:
        replies(client_for(server.url), calls)
        came = [at for at, _ in server.arrivals]
    gap, at = max((b - a, i) for i, (a, b) in enumerate(itertools.pairwise(came)))
    assert 0.5 < gap < 10
    assert at >= 20
    assert len(came) == 61


def test_the_window_opens_to_its_bound_and_no_further() -> None:
    with FaultServer(Behaviour(delay=0.05)) as server:
        client = client_for(server.url, concurrency=24)
        replies(client, [call(n) for n in range(120)])
        assert server.most_in_flight == client.widest == 24


def test_the_window_settles_at_what_an_endpoint_bears() -> None:
    server = FaultServer(Behaviour(delay=0.02), lambda body, attempt: "429" if server.in_flight > 6 else None)
    with server:
        client = client_for(server.url, concurrency=64)
        replies(client, [call(n) for n in range(150)])
    assert client.losses.keys() == {"429"}
    assert client.widest < 32
    assert client.losses["429"] < 70


def test_the_window_halves_once_in_a_round_trip() -> None:
    window = Window(64)
    assert window.size == pacing.FIRST_WINDOW
    for _ in range(24):
        window.won()
    assert window.size == 32  # doubled twice
    window.lost(sent=1.0, now=2.0)
    window.lost(sent=1.5, now=2.1)
    assert window.size == 16
    window.lost(sent=2.5, now=3.0)
    assert window.size == 8
    for _ in range(9):
        window.won()
    assert window.size == 9  # one more by a window of successes
    for now in range(10, 20):
        window.lost(now - 0.5, now)
    assert window.size == 1
    for _ in range(10_000):
        window.won()
    assert window.size == 64
    assert Window(3).size == 3


def test_a_window_that_is_not_full_stays_as_it_is() -> None:  # its successes say nothing of a wider one
    pace = Pace(TransportSettings(concurrency=64))
    for now in range(40):
        assert pace.wait(now) <= 0.0
        pace.start(100, now)
        assert pace.wait(now) <= 0.0
        pace.land()
        pace.won()
    assert pace.size == pacing.FIRST_WINDOW


@pytest.mark.parametrize("limit", [{"requests_per_minute": 1800}, {"tokens_per_minute": 180_000}])
def test_a_rate_limit_is_kept_evenly(limit: dict[str, Any]) -> None:  # 30 calls a second by either
    sent: list[float] = []

    def calls() -> Iterator[Call]:
        for n in range(28):
            sent.append(time.monotonic())
            yield call(n)

    with FaultServer() as server:
        client_for(server.url, concurrency=32, **limit).run(calls(), lambda _: None, lambda: None)
        came = [at for at, _ in server.arrivals]
    assert came[-1] - sent[0] >= 27 / 30 - 0.1
    assert max(sum(start <= at < start + 0.5 for at in sent) for start in sent) <= 15 + 2


def test_a_rate_limit_is_used() -> None:
    pace, now = Pace(TransportSettings(concurrency=32, requests_per_minute=1800)), 50.0
    for _ in range(61):
        while (wait := pace.wait(now)) > 0.0:
            now += wait + 0.001  # a timer is late
        pace.start(100, now)
        pace.land()
    assert now - 50.0 == pytest.approx(2.0, abs=0.02)


def test_spacing_makes_up_for_a_late_timer_and_saves_nothing_else() -> None:
    spacing = Spacing(600.0)
    spacing.take(1, 100.0)
    assert spacing.wait(100.0) == pytest.approx(0.1, abs=0.02)
    spacing.take(1, 500.0)
    assert spacing.wait(500.0) == pytest.approx(0.1, abs=0.02)
    spacing.take(10, 500.1)
    assert spacing.wait(500.1) == pytest.approx(1.0, abs=0.05)
    assert Spacing(None).wait(0.0) == 0.0


def test_the_breaker_opens_after_a_streak_and_pauses_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "FIRST_BACKOFF", 0.5)
    monkeypatch.setattr(pacing, "LONGEST", 60.0)
    breaker = Breaker()
    assert [breaker.lost(4, 0.0, 1.0) for _ in range(19)] == [0.0] * 19
    assert 0.4 < breaker.lost(4, 0.0, 1.0) <= 1.0
    assert breaker.lost(4, 0.5, 2.0) == 0.0  # it went out before
    pauses = [breaker.lost(1, 10.0 * k, 10.0 * k + 1) for k in range(1, 9)]
    assert all(2**k / 2 <= pause <= 2**k for k, pause in enumerate(pauses[:5], start=1))
    assert all(30.0 <= pause <= 60.0 for pause in pauses[5:])
    breaker.won()
    assert breaker.lost(4, 100.0, 101.0) == 0.0
    wide = Breaker()
    assert [wide.lost(100, 0.0, 1.0) for _ in range(199)] == [0.0] * 199
    assert wide.lost(100, 0.0, 1.0) > 0.0


def test_an_endpoint_that_goes_away_is_asked_now_and_then_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "LONGEST", 0.3)
    monkeypatch.setattr(pacing, "FIRST_BACKOFF", 0.05)
    asked: list[float] = []

    def away(body: Body, attempt: int) -> str | None:
        asked.append(time.monotonic())
        return "500" if 40 <= len(asked) < 76 else None

    with FaultServer(script=away) as server:
        client = client_for(server.url, concurrency=8)
        got = replies(client, [call(n) for n in range(120)])
    assert all(r.body is not None for r in got.values())
    assert client.losses == {"500": 36}
    # 20 losses in a row, and those on their way; then one at a time, with pauses of 0.15 s and more in the end: three of them
    assert asked[75] - asked[72] > 0.3
    assert client.pace.size > 1


def test_an_endpoint_that_answers_nothing_any_more_ends_the_run() -> None:
    got: list[Reply] = []
    with FaultServer(script=lambda body, attempt: "503" if body["seed"] >= 10 else None) as server:
        client = client_for(server.url, total_timeout=0.8)
        started = time.monotonic()
        with pytest.raises(TemporaryFailure) as caught:
            client.run((call(n) for n in range(40)), got.append, lambda: None)
    assert 0.8 <= time.monotonic() - started < 4
    assert sorted(int(r.id) for r in got) == list(range(10))  # the others were given up by nobody
    for part in (server.url, "most often: 503", "`base_url` is right", "saved"):
        assert part in str(caught.value)


def test_one_call_that_gets_no_answer_ends_without_one() -> None:
    got: dict[str, Reply] = {}

    def calls() -> Iterator[Call]:
        yield from (call(n) for n in itertools.takewhile(lambda _: "3" not in got, itertools.count()))

    with FaultServer(Behaviour(delay=0.02), lambda body, attempt: "500" if body["seed"] == 3 else None) as server:
        client = client_for(server.url, concurrency=2, total_timeout=1.0)
        client.run(calls(), lambda reply: got.update({reply.id: reply}), lambda: None)
    assert [r.id for r in got.values() if r.body is None] == ["3"]
    assert got["3"].error.startswith("no answer within 1 s: ")
    assert len(got["3"].losses) >= 3


@pytest.mark.parametrize("bad", [{3}, {3, 5, 8}])
def test_calls_that_get_no_answer_while_all_others_do_are_given_up_when_they_are_left(bad: set[int]) -> None:
    got: dict[str, Reply] = {}
    with FaultServer(Behaviour(delay=0.02), lambda body, attempt: "500" if body["seed"] in bad else None) as server:
        client = client_for(server.url, concurrency=4, total_timeout=1.0)
        client.run((call(n) for n in range(80)), lambda reply: got.update({reply.id: reply}), lambda: None)
    assert {int(r.id) for r in got.values() if r.body is None} == bad
    assert len(got) == 80


def test_calls_that_a_limit_holds_up_are_not_given_up() -> None:
    got: list[Reply] = []
    with FaultServer(Behaviour(delay=0.02), lambda body, attempt: "429" if body["seed"] == 3 else None) as server:
        client = client_for(server.url, concurrency=4, total_timeout=3.0)
        with pytest.raises(TemporaryFailure, match="most often: 429"):
            client.run((call(n) for n in range(80)), got.append, lambda: None)
    assert len(got) == 79


def test_a_wait_beyond_all_patience_gives_up_the_run_and_not_the_call() -> None:
    """A provider whose day's quota is used up says so while others of its answers are still on their way."""
    got: list[Reply] = []
    behaviour = Behaviour(delay=0.05, retry_after="3600")
    with FaultServer(behaviour, lambda body, n: "429 with Retry-After" if body["seed"] > 20 else None) as server:
        client = client_for(server.url, total_timeout=0.4)
        with pytest.raises(TemporaryFailure, match="most often: 429"):
            client.run((call(n) for n in range(60)), got.append, lambda: None)
    assert all(r.body is not None for r in got)


def error(message: str, code: str | int = "", **more: Any) -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "code": code, **more}}).encode()


@pytest.mark.parametrize(
    ("status", "data", "kind", "words"),
    [
        (401, error("Incorrect API key provided"), BadConfig, ("refuses the key", "401")),
        (403, error("Your account may not do this"), BadConfig, ("refuses the key", "403")),
        (404, error("The model `x` does not exist"), BadConfig, ("model", "does not exist", "404")),
        (404, b"<html>not found</html>", BadConfig, ("address", "404")),
        (308, b"", BadConfig, ("points to /elsewhere", "308", "correct base_url")),
        (501, error("No sampler"), BadConfig, ("cannot do", "No sampler", "501")),
        (402, error("Insufficient credits"), TemporaryFailure, ("Insufficient credits", "add credit")),
        (429, error("You exceeded your quota", "insufficient_quota"), TemporaryFailure, ("exceeded", "add credit")),
        (400, error("Your credit balance is too low"), TemporaryFailure, ("credit balance", "add credit")),
        (400, b"[" + error("API key not valid.") + b"]", BadConfig, ("refuses the key", "API key not valid.")),
        (405, b"", BadConfig, ("address", "405")),
        (200, error("Insufficient credits", 402), TemporaryFailure, ("Insufficient credits", "402")),
        (200, error("Insufficient credits"), TemporaryFailure, ("Insufficient credits", "add credit")),
        (200, error("Model 'x' not found, try another"), BadConfig, ("no such model", "try another", "404")),
        (200, error("No.", "model_not_found"), BadConfig, ("no such model", "No.")),
        (200, error("gone", "404"), BadConfig, ("no such model", "gone")),
        (200, b'{"detail": "Unauthorized"}', BadConfig, ("refuses the key", "Unauthorized")),
        (200, b'{"object": "error", "message": "gone", "code": 404}', BadConfig, ("no such model", "gone")),
        (200, b'{"choices": [{"error": {"code": 402, "message": "Pay"}}]}', TemporaryFailure, ("Pay", "add credit")),
        (200, b'{"choices": [], "error": "unknown model"}', BadConfig, ("no such model", "unknown model")),
    ],
)
def test_what_ends_a_run_at_once(status: int, data: bytes, kind: type[PrefprobeError], words: tuple[str, ...]) -> None:
    with endpoint(lambda _: (status, {"Location": "/elsewhere"}, data)) as server:
        client, got = client_for(server.url), []  # type: ignore[var-annotated]
        with pytest.raises(kind) as caught:
            client.run((call(n) for n in range(100)), got.append, lambda: None)
    assert got == []
    assert client.sent <= 16
    for word in (server.url, *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("status", "data", "said"),
    [
        (400, error("This violates our content policy"), "400: This violates our content policy"),
        (413, b"too large", "413: too large"),
        (422, b'{"detail": "seed: not permitted"}', "422: seed: not permitted"),
        (422, b"", "422: no reason given"),
        (403, error("Requires moderation", 403, metadata={"reasons": ["violence"]}), "403: Requires moderation"),
        (403, error("Your input was flagged"), "403: Your input was flagged"),
        (400, b'{"error": "one\\n  line"}', "400: one line"),
        (400, error("x" * 5000), "400: " + "x" * 300),
    ],
)
def test_what_a_provider_turns_down_is_delivered_and_not_tried_again(status: int, data: bytes, said: str) -> None:
    def script(body: Body) -> Answered:
        return (status, {}, data) if body["seed"] == 1 else (200, {}, json.dumps(GOOD).encode())

    with endpoint(script) as server:
        client = client_for(server.url)
        got = replies(client, [call(n) for n in range(3)])
    assert got["1"] == Reply("1", None, said, ())
    assert (client.sent, got["0"].body, got["2"].body) == (3, GOOD, GOOD)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (error("Provider returned error"), "no answer"),
        (error("Provider returned error", 502), "502"),
        (error("Rate limit reached for this API key"), "429"),
        (b"<html>Provider returned error</html>", "garbage"),
    ],
)
def test_what_a_body_says_in_place_of_an_answer_is_shown_and_tried_again(data: bytes, cause: str) -> None:
    with endpoint(lambda _: (200, {}, data)) as server:
        client = client_for(server.url, total_timeout=0.3)
        with pytest.raises(TemporaryFailure) as caught:
            replies(client, [call(0)])
    assert client.losses.keys() == {cause}
    words = "Provider returned error" if b"Provider" in data else "Rate limit reached"
    assert re.search(f"most often: {cause}; it last said: .*{words}", str(caught.value))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("br", r"in an encoding that nobody asked for \(brotli \(br\)\)"),
        ("zstd", r"in an encoding that nobody asked for \(zstandard \(zstd\)\)"),
        ("redirect", r"points to /v2/chat/completions \(308\)"),
    ],
)
def test_a_form_that_no_time_mends_ends_a_run(fault: str, words: str) -> None:
    with FaultServer(script=lambda *_: fault) as server:
        client = client_for(server.url)
        with pytest.raises(BadConfig, match=f"{server.url} .*{words}"):
            replies(client, [call(0)])
        assert client.sent == 1


def test_what_speaks_no_http_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:

        def speak() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with taken.accept()[0] as there:
                        there.recv(1000)
                        there.sendall(b"\x00\x00\x06\x04\x00 settings of HTTP/2\r\n\r\n")

        threading.Thread(target=speak, daemon=True).start()
        client = client_for(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", total_timeout=0.3)
        with pytest.raises(TemporaryFailure, match=r"disconnected; it last said: no HTTP/1\.1: Bad status line"):
            replies(client, [call(0)])


def test_a_completion_is_read_under_any_status_of_success() -> None:
    with FaultServer(script=lambda *_: "201") as server:
        assert replies(client_for(server.url), [call(0)])["0"].losses == ()


@pytest.mark.parametrize(
    ("status", "data", "means"),
    [
        (403, error("not with logprobs"), BadConfig),
        (404, error("No endpoint supports this"), BadConfig),
        (405, b"", BadConfig),
        (501, error("no"), BadConfig),
        (500, error("crashed"), TemporaryFailure),
        (200, error("crashed"), TemporaryFailure),
        (422, error("no"), None),
        (200, error("logprobs are not supported"), None),
    ],
)
def test_on_trial_a_refusal_of_any_kind_is_a_reply(
    status: int, data: bytes, means: type[PrefprobeError] | None
) -> None:
    with endpoint(
        lambda body: (status, {}, data) if body["seed"] == 1 else (200, {}, json.dumps(GOOD).encode())
    ) as server:
        client = Client(access_to(server.url), TransportSettings(total_timeout=5.0), complaint, trial=True)
        got = replies(client, [call(n) for n in range(3)])
    assert (got["0"].body, got["2"].body) == (GOOD, GOOD)
    assert got["1"].body is None
    assert got["1"].error[:3].isdigit()
    assert type(got["1"].means) is (type(None) if means is None else means)
    assert len(got["1"].losses) == (4 if means is TemporaryFailure else 0)


@pytest.mark.parametrize("status", [401, 403, 404, 402, 429, 500, 308, 400])
@pytest.mark.parametrize("lead", [0, 275])
def test_the_key_is_in_one_header_and_nowhere_else(
    status: int, lead: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    said = "x" * lead + f" provided: {KEY}."  # also where the sentence is cut
    code = "insufficient_quota" if status == 429 else ""
    got: list[Reply] = []
    with endpoint(lambda _: (status, {"Location": f"/{KEY}"}, error(said, code))) as server:
        client = client_for(server.url, total_timeout=0.2)
        shown = [repr(client), str(client), repr(client.wire), repr(client.pace)]
        try:
            client.run([call(0)], got.append, lambda: None)
        except PrefprobeError as failure:
            shown += [str(failure), repr(failure), "".join(traceback.format_exception(failure))]
        else:
            assert status == 400
    shown += [repr(got), caplog.text, *capfd.readouterr()]
    assert server.keys == {f"Bearer {KEY}"}
    assert not [text for text in shown if KEY in text or KEY[:10] in text]


@pytest.mark.parametrize(
    "data",
    [error(f"{'x' * 290} {KEY}"), f"{'x' * 290} {KEY}".encode(), error(f"no model {KEY}", "model_not_found")],
    ids=["cut", "garbage", "named"],
)
def test_the_key_is_in_nothing_that_a_body_says(data: bytes) -> None:
    with endpoint(lambda _: (200, {}, data)) as server:
        client = client_for(server.url, total_timeout=0.2)
        with pytest.raises(PrefprobeError) as caught:
            replies(client, [call(0)])
    assert KEY[:6] not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("variable", "key", "header", "sent"),
    [
        ("", "", "Authorization", {}),
        ("NOT_SET", "", "Authorization", {}),
        ("SOME_KEY", KEY, "Authorization", {"Authorization": f"Bearer {KEY}"}),
        ("SOME_KEY", f"{KEY}\n", "authorization", {"authorization": f"Bearer {KEY}"}),
        ("SOME_KEY", KEY, "api-key", {"api-key": KEY}),
    ],
)
def test_the_key_as_it_is_sent(
    variable: str, key: str, header: str, sent: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    settings = ApiSettings(base_url="http://127.0.0.1:1/v1/", model="m", key=variable, key_header=header)
    access = Access.of(settings)
    assert (access.base_url, access.headers, access.query) == ("http://127.0.0.1:1/v1", sent, {})
    assert access.secrets == ((KEY,) if sent else ())


@pytest.mark.parametrize("key", ["sk-sécret", "sk-a\nb", "sk-\x7f"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(BadConfig, match="check the variable SOME_KEY") as caught:
        Access.of(ApiSettings(base_url="http://127.0.0.1:1/v1", model="m", key="SOME_KEY"))
    assert key not in "".join(traceback.format_exception(caught.value))


def test_a_slow_call_holds_back_no_other() -> None:
    order: list[str] = []
    others = threading.Event()

    def script(body: Body) -> Answered:
        if body["seed"] == 0:
            others.wait(60)
        return 200, {}, json.dumps(GOOD).encode()

    def deliver(reply: Reply) -> None:
        order.append(reply.id)
        if len(order) == 59:
            others.set()

    with endpoint(script) as server:
        client_for(server.url, attempt_timeout=60.0, concurrency=4).run(
            (call(n) for n in range(60)), deliver, lambda: None
        )
    assert order[-1] == "0"
    assert len(order) == 60


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, TemporaryFailure])
def test_an_error_from_deliver_lets_what_is_on_its_way_arrive(kind: type[BaseException]) -> None:
    got: list[Reply] = []

    def deliver(reply: Reply) -> None:
        got.append(reply)
        if len(got) >= 10:
            raise kind(f"error {len(got)}")

    # of those on their way some fail, and are not made again
    script: Script = lambda body, attempt: "500" if body["seed"] % 5 == 4 else None  # noqa: E731
    with FaultServer(Behaviour(delay=0.1), script) as server:
        client = client_for(server.url)
        with pytest.raises(kind, match=r"error 10$"):
            client.run((call(n) for n in range(1000)), deliver, lambda: None)
        stats = server.stats()
    assert len(got) == len({r.id for r in got}) == stats["answered"]
    assert stats["attempts"] == client.sent < 40


def test_what_is_lost_after_an_error_is_not_made_again() -> None:
    asked: list[int] = []
    raised = threading.Event()

    def script(body: Body) -> Answered:
        asked.append(body["seed"])
        if body["seed"] == 0:
            return 200, {}, json.dumps(GOOD).encode()
        raised.wait(60)
        return 500, {}, b""

    def deliver(reply: Reply) -> None:
        raised.set()
        raise TemporaryFailure("enough")

    def run() -> None:
        with pytest.raises(TemporaryFailure, match="enough"):
            client_for(server.url).run((call(n) for n in range(4)), deliver, lambda: None)
        ended.set()

    ended = threading.Event()
    with endpoint(script) as server:
        threading.Thread(target=run, daemon=True).start()
        assert ended.wait(60)
    assert sorted(asked) == [0, 1, 2, 3]


def test_ctrl_c_lets_what_is_on_its_way_arrive() -> None:
    got: list[Reply] = []
    beats: list[float] = []

    def beat() -> None:
        beats.append(time.monotonic())
        if len(beats) == 1:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with FaultServer(Behaviour(delay=1.5)) as server, pytest.raises(KeyboardInterrupt):
            client_for(server.url).run((call(n) for n in range(100)), got.append, beat)
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(int(r.id) for r in got) == list(range(8))


def test_an_error_from_beat_lets_what_is_on_its_way_arrive() -> None:
    beats: list[float] = []

    def beat() -> None:
        beats.append(time.monotonic())
        if len(beats) == 2:
            raise TemporaryFailure("enough")

    got: list[Reply] = []
    with FaultServer(Behaviour(delay=2.2)) as server:
        started = time.monotonic()
        with pytest.raises(TemporaryFailure, match="enough"):
            client_for(server.url).run((call(n) for n in range(100)), got.append, beat)
    assert [at - started for at in beats[:2]] == pytest.approx([1, 2], abs=0.6)
    assert len(beats) > 2  # also while waiting for what is on its way
    assert sorted(int(r.id) for r in got) == list(range(8))


def test_errors_of_calls_and_of_inspect_go_on() -> None:
    def calls() -> Iterator[Call]:
        yield from (call(n) for n in range(5))
        raise ValueError("no more tasks")

    got: list[Reply] = []
    with FaultServer(Behaviour(delay=0.05)) as server:
        with pytest.raises(ValueError, match="no more tasks"):
            client_for(server.url).run(calls(), got.append, lambda: None)
        assert len(got) == 5

        def inspect(body: Body) -> str | None:
            raise LookupError("unread")

        with pytest.raises(LookupError, match="unread"):
            Client(access_to(server.url), TransportSettings(), inspect).run([call(0)], got.append, lambda: None)


@pytest.mark.parametrize("fault", [None, "500"])
def test_calls_are_pulled_as_there_is_room(fault: str | None) -> None:
    pulled = delivered = ahead = 0

    def calls() -> Iterator[Call]:
        nonlocal pulled, ahead
        for n in range(50):
            pulled += 1
            ahead = max(ahead, pulled - delivered)
            yield call(n)

    def deliver(reply: Reply) -> None:
        nonlocal delivered
        delivered += 1

    # with a fault nearly all calls wait to be made again for as long as they may
    script: Script = lambda body, attempt: fault if attempt < 3 and body["seed"] % 8 else None  # noqa: E731
    with FaultServer(Behaviour(delay=0.005), script) as server:
        client_for(server.url, concurrency=4).run(calls(), deliver, lambda: None)
    assert delivered == pulled == 50
    assert ahead <= (4 + 1 if fault is None else 5 * 4 + 1)


def test_a_client_runs_again_and_knows_what_it_learned() -> None:
    with FaultServer(Behaviour(delay=0.02)) as server:
        client = client_for(server.url, concurrency=16)
        replies(client, [])
        assert client.sent == 0
        replies(client, [call(n) for n in range(60)])
        assert client.pace.size == 16
        replies(client, [call(n) for n in range(60, 90)])
        assert (client.sent, client.widest) == (90, 16)


def test_proxies_of_the_environment_hold_for_others_and_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with FaultServer() as server:
        assert replies(client_for(server.url), [call(0)])["0"].losses == ()
    assert wire._proxy("http://models.example/v1") == "http://127.0.0.1:9"
    assert wire._proxy("https://models.example/v1") is None
    assert [wire._proxy(f"http://{host}:1/v1") for host in ("localhost", "127.0.0.9", "[::1]")] == [None] * 3
    monkeypatch.setenv("no_proxy", "models.example")
    assert wire._proxy("http://models.example/v1") is None

    def through_a_proxy(_: Body) -> Answered:
        return 200, {}, json.dumps(GOOD).encode()

    with endpoint(through_a_proxy) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "")
        assert replies(client_for("http://models.example/v1"), [call(0)])["0"].body == GOOD
