"""A completion out of a stream of events is the completion that would have come whole, however the stream is written."""

import asyncio
import json
import random
import time
from typing import Any

import pytest
from aiohttp import web

from prefprobe.choices.api.access import Access
from prefprobe.choices.api.client import Call, Client, Reply
from prefprobe.choices.api.failures import error_within
from prefprobe.choices.api.replies import complaint, finish, logprobs, text, thinks
from prefprobe.choices.api.stream import CutOff, completion, is_stream
from prefprobe.errors import TemporaryFailure
from prefprobe.settings.endpoint import TransportSettings
from tests.fault_server import LISTINGS, Behaviour, FaultServer, _streamed, answer

ASKED = {"messages": [{"role": "user", "content": "u=1 u=0 – ü\u2028\x85"}], "max_tokens": 30, "logprobs": True}
DONE = b"data: [DONE]\n\n"


def event(piece: object) -> bytes:
    return f"data: {json.dumps(piece)}\n\n".encode()


def piece(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "1", "model": "m", "choices": [{"index": 0, "delta": delta, **more}]}


def rewritten(data: bytes, seed: int) -> bytes:
    """The same stream with other line ends, keepalives, names, fields and breaks within the JSON of an event."""
    draw = random.Random(seed)
    end = draw.choice(["\n", "\r\n", "\r"])
    out = draw.choice(["", "\ufeff"])
    for block in data.decode().split("\n\n")[:-1]:
        lines = block.split("\n")
        if lines[0].startswith("data: {"):
            said = json.dumps(json.loads(lines[0][6:]), indent=draw.choice([None, 1]), ensure_ascii=draw.random() < 0.5)
            lines = [draw.choice(["data: ", "data:"]) + line for line in said.split("\n")]
            lines += draw.sample(["id: 7", "retry: 100", ": still here", "event: message"], draw.randrange(3))
        out += end.join(lines) + 2 * end
        out += draw.choice(["", f": keepalive{2 * end}", f"event: ping{end}data: now{2 * end}", f"data{2 * end}"])
    return out.encode()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(), Behaviour(lists=True), Behaviour(thinks="field"), Behaviour(thinks="tags"), Behaviour(calls_tools=1)],
)
def test_a_stream_says_what_the_whole_would_have_said(behaviour: Behaviour, seed: int) -> None:
    whole = answer(behaviour, ASKED | {"top_logprobs": 20, "max_tokens": 90}) | {"id": "1", "created": 2}
    data = rewritten(_streamed(whole, counts=True), seed)
    assert is_stream(data)
    got = completion(data)
    assert (text(got), finish(got), thinks(got)) == (text(whole), finish(whole), thinks(whole))
    assert logprobs(got) == logprobs(whole)
    assert all(got[name] == whole[name] for name in whole if name != "choices")
    calls = [choice["message"].get("tool_calls") for choice in (got["choices"][0], whole["choices"][0])]
    assert [call and call[0]["function"] for call in calls] == [calls[1] and calls[1][0]["function"]] * 2


@pytest.mark.parametrize("data", [b'{"choices": []}', b" \n[1]", b"<html>", b"", b"datum: 1", b"\xef\xbb\xbf{}"])
def test_what_is_no_stream(data: bytes) -> None:
    assert not is_stream(data)


def test_pieces_of_every_kind_go_on_where_the_last_one_ended() -> None:
    calls = [
        {"index": 0, "id": "c", "type": "function", "function": {"name": "choose", "arguments": '{"a'}},
        {"index": 1, "id": "d", "type": "function", "function": {"name": "other", "arguments": ""}},
        {"index": 0, "function": {"name": None, "arguments": '": 1}'}},
        {"index": 1, "id": "d", "type": "function", "function": {"name": "other", "arguments": "{}"}},
    ]
    data = [event({"id": "", "model": "", "choices": [], "prompt_filter_results": [1]})]
    data += [event(piece({"role": "assistant", "content": None}))]
    data += [event(piece({"role": "assistant", "content": said, "reasoning": said})) for said in ("Ta", None, "sk")]
    data += [event(piece({"tool_calls": [call]})) for call in calls]
    data += [event({"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}]})]
    for token in ("index", "type"):  # as words of the answer
        columns = {"tokens": [token], "token_logprobs": [0], "top_logprobs": [{token: 0, "index": -1}]}
        data += [event(piece({}, logprobs=columns, finish_reason=""))]
    data += [
        event(piece({}, finish_reason="stop", logprobs=None)),
        event({"choices": [], "usage": {"total_tokens": 5}}),
    ]
    got = completion(b"".join(data))  # and no word that it is done
    assert [choice["finish_reason"] for choice in got["choices"]] == ["stop", "length"]
    assert got["choices"][1]["message"]["content"] == "other"
    message = got["choices"][0]["message"]
    assert (message["role"], message["content"], message["reasoning"]) == ("assistant", "Task", "Task")
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]] == [
        ("c", "choose", '{"a": 1}'),
        ("d", "other", "{}"),
    ]
    assert [entry["token"] for entry in logprobs(got)] == ["index", "type"]
    assert (got["id"], got["model"], got["usage"]) == ("1", "m", {"total_tokens": 5})


def test_content_in_parts_and_a_whole_completion_in_one_event() -> None:
    parts = [{"type": "thinking", "thinking": []}], "Task", [{"type": "text", "text": " A"}]
    assert text(completion(b"".join(event(piece({"content": part})) for part in parts) + DONE)) == "Task A"
    whole = {"choices": [{"index": 0, "message": {"content": "Task B"}, "finish_reason": "stop"}], "error": None}
    assert text(completion(event(whole))) == "Task B"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (event({"error": {"message": "overloaded", "code": 503}}), "overloaded"),
        (event(piece({"content": "Ta"})) + event({"error": {"message": "lost", "code": 502}, "choices": []}), "lost"),
        (event(piece({"content": "Ta"})) + event(piece({}, finish_reason="error") | {"error": "broke"}), "broke"),
        (event({"object": "error", "message": "gone", "code": 404}) + DONE, "gone"),
        (b'event: error\ndata: {"message": "no more"}\n\n', "no more"),
        (b"event: error\ndata: no more\n\n", "no more"),
    ],
)
def test_an_error_in_a_stream_is_all_that_comes_of_it(data: bytes, said: str) -> None:
    found = error_within(completion(data))
    assert found is not None
    assert said in found[1].decode()


def test_a_stream_that_breaks_off_anywhere_is_cut_and_never_an_answer() -> None:
    whole = answer(Behaviour(), ASKED) | {"id": "1", "created": 2}
    data = _streamed(whole, counts=False)
    last = data.index(b'"finish_reason": "')
    for at in range(last):
        with pytest.raises(CutOff):
            completion(data[:at])
    assert text(completion(data)) == text(whole)


@pytest.mark.parametrize("data", [b"data: <html>\n\n", b"data: \xff\xff\n\n", b"data: [1]\n\n" + DONE, b"data: 1\n\n"])
def test_events_that_are_no_pieces_are_no_completion(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"html|UTF-8|1") as caught:
        completion(data)
    assert not isinstance(caught.value, CutOff)


def test_a_stream_without_a_piece_is_no_answer() -> None:
    assert complaint(completion(DONE)) == "no answer"


def asked_of(server: FaultServer, **given: Any) -> tuple[Client, list[Reply]]:
    settings = TransportSettings(**{"attempt_timeout": 5.0, "total_timeout": 5.0, **given})
    client, got = Client(Access(server.url, {}, {}, ()), settings, complaint), list[Reply]()
    client.run([Call(str(k), ASKED | {"seed": k}, 10) for k in range(8)], got.append, lambda: None)
    return client, got


def test_a_stream_that_comes_unasked_is_read_and_one_that_is_cut_is_asked_for_again() -> None:
    with FaultServer(Behaviour(streams="always"), lambda _, attempt: "cut" if attempt == 0 else None) as server:
        client, got = asked_of(server)
    assert client.losses == {"cut body": 8}
    for reply in got:
        assert reply.body is not None
        assert text(reply.body) == text(answer(Behaviour(), ASKED | {"seed": int(reply.id)}))


class Held:
    """A server that leaves the connection of a stream open, or ends it early without a word of HTTP's."""

    def __init__(self, *, ends: bool) -> None:
        self.ends, self.url = ends, ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if self.ends:
            response.force_close()
        await response.prepare(request)
        await response.write(event(piece({"content": "Task A"})))
        if self.ends:
            assert request.transport is not None
            request.transport.close()
        else:
            await response.write(b"data: [DO")
            await asyncio.sleep(0.05)
            await response.write(b"NE]\n\n")
            await asyncio.sleep(60)
        return response


@pytest.mark.parametrize("ends", [False, True])
def test_a_stream_is_over_where_it_says_so_and_not_where_its_connection_ends(ends: bool) -> None:
    held = Held(ends=ends)

    async def run() -> tuple[float, Client, list[Reply]]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", held.answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.05)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        settings = TransportSettings(attempt_timeout=5.0, total_timeout=0.3)
        client, got = Client(Access(url, {}, {}, ()), settings, complaint), list[Reply]()
        began = time.monotonic()
        try:
            await asyncio.to_thread(client.run, [Call("0", ASKED, 10)], got.append, lambda: None)
        finally:
            await runner.cleanup()
        return time.monotonic() - began, client, got

    if ends:
        with pytest.raises(TemporaryFailure, match="most often: cut body"):
            asyncio.run(run())
    else:
        seconds, client, got = asyncio.run(run())
        assert seconds < 3
        assert client.losses == {}
        assert [reply.body and text(reply.body) for reply in got] == ["Task A"]


def test_every_listing_that_can_be_streamed_is_the_same() -> None:
    for listing in set(LISTINGS) - {"columns", "own"}:
        whole = answer(Behaviour(lists=True, listing=listing), ASKED | {"top_logprobs": 5}) | {"id": "1", "created": 2}
        assert logprobs(completion(_streamed(whole, counts=False))) == logprobs(whole)
