"""Chat completions a second: this package's client against the openai package, as it comes and on its aiohttp transport.

The server answers after 250 ms. At 256 requests at a time it can then give no more than 1,024 answers a second, whoever
asks. So the same is measured at 25 ms too, where the clients are the limit.

The server is another process and does next to nothing, so that what is measured is the client. All sides send the same
bodies, 256 at a time. Time counts in the steady state alone: from when the first 512 requests were answered (the window
is open and every connection stands) to when 256 are left (from then on places stay empty). CPU seconds are those of the
client's process in the same span. Sides take turns; the median of each is printed, and all its rounds.
"""

import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from statistics import median

import openai

from prefprobe.choices.api.access import Access
from prefprobe.choices.api.client import Call, Client
from prefprobe.settings.endpoint import TransportSettings

CONCURRENCY, ROUNDS = 256, 3
LATENCIES = (0.25, 0.025)
"""Seconds after which the server answers."""
WARM = 2 * CONCURRENCY
"""Requests answered before the clock starts."""
OURS, THEIRS = 5000, 2000
"""Requests of one round: enough for some seconds of each."""
KEY = "sk-benchmark"
USER = "Two tasks follow. Choose the one you would rather do and complete it.\n\nTask A: a\n\nTask B: " + "b" * 600
REPLY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Task A: " + "a" * 60}, "finish_reason": "length"}
        ],
        "usage": {"prompt_tokens": 200, "completion_tokens": 16, "total_tokens": 216},
    }
).encode()
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(REPLY), REPLY)


class Server(asyncio.Protocol):
    """Reads a request to its end and answers it after `latency` seconds; nothing else of HTTP."""

    def __init__(self, latency: float) -> None:
        self._latency = latency

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self._transport, self._data = transport, bytearray()

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._data[:end]).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if len(self._data) < end + 4 + length:
                return
            del self._data[: end + 4 + length]
            asyncio.get_running_loop().call_later(self._latency, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(RESPONSE)  # type: ignore[attr-defined]


def serve(port: Connection, latency: float) -> None:
    """Serve in this process, and tell on which port."""

    async def forever() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Server(latency), "127.0.0.1", 0, backlog=2 * CONCURRENCY)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


class Clock:
    """Counts answers, and takes the time and CPU between the WARM-th and the one that leaves CONCURRENCY to come."""

    def __init__(self, requests: int) -> None:
        self._last, self._count = requests - CONCURRENCY, 0
        self.rate = self.cpu = 0.0
        """Requests a second, and CPU seconds for 1,000 requests."""

    def tick(self) -> None:
        """One more is answered."""
        self._count += 1
        if self._count == WARM:
            self._began, self._cpu = time.perf_counter(), time.process_time()
        elif self._count == self._last:
            n = self._last - WARM
            self.rate = n / (time.perf_counter() - self._began)
            self.cpu = 1000 * (time.process_time() - self._cpu) / n


def body(number: int) -> dict[str, object]:
    """A request like those of a study."""
    turns = [{"role": "user", "content": USER}]
    return {"model": "m", "messages": turns, "max_tokens": 16, "temperature": 1.0, "seed": number}


def ours(url: str) -> Clock:
    """Through `Client`."""
    clock = Clock(OURS)
    settings = TransportSettings(concurrency=CONCURRENCY)
    access = Access(url, {"Authorization": f"Bearer {KEY}"}, {}, (KEY,))
    client = Client(access, settings, lambda body: None if body.get("choices") else "no answer")
    client.run((Call(str(i), body(i), 200) for i in range(OURS)), lambda _: clock.tick(), lambda: None)
    return clock


def theirs(url: str, http: object = None) -> Clock:
    """Through `AsyncOpenAI` in the usual way: as many workers as requests at a time, that share one client."""
    clock = Clock(THEIRS)

    async def work(client: openai.AsyncOpenAI, numbers: Iterator[int]) -> None:
        for number in numbers:
            await client.chat.completions.create(**body(number))  # type: ignore[call-overload]
            clock.tick()

    async def everything() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, http_client=http) as client:
            numbers = iter(range(THEIRS))
            await asyncio.gather(*(work(client, numbers) for _ in range(CONCURRENCY)))

    asyncio.run(everything())
    return clock


def on_aiohttp(url: str) -> Clock:
    """The same on the aiohttp transport that comes with openai 3."""
    return theirs(url, openai.DefaultAioHttpClient())


def compare(latency: float, sides: dict[str, Callable[[str], Clock]]) -> None:
    """Run all sides in turns against one server, and print what each reached."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, latency), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    clocks: dict[str, list[Clock]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, run in sides.items():
            clocks[name].append(run(url))
    server.kill()
    most = CONCURRENCY / latency
    print(f"{CONCURRENCY} requests at a time, each answered after {latency} s: at most {most:.0f}/s")
    rates = {name: median(c.rate for c in rounds) for name, rounds in clocks.items()}
    cpus = {name: median(c.cpu for c in rounds) for name, rounds in clocks.items()}
    for name, rounds in clocks.items():
        each = ", ".join(f"{c.rate:.0f}" for c in rounds)
        print(
            f"  {name}: {rates[name]:.0f} requests/s ({each}), {rates[name] / most:.0%} of the most; "
            f"{cpus[name]:.2f} CPU seconds for 1,000 requests"
        )
    first, *others = sides
    for name in others:
        print(f"  {first} / {name}: {rates[first] / rates[name]:.2f}; CPU {cpus[name] / cpus[first]:.2f} times less")


def main() -> None:
    """Compare all sides at both latencies."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        os.environ.pop(name, None)  # a proxy would stand between one side and the server
    sides: dict[str, Callable[[str], Clock]] = {"prefprobe": ours, "openai": theirs, "openai on aiohttp": on_aiohttp}
    for latency in LATENCIES:
        compare(latency, sides)


if __name__ == "__main__":
    main()
