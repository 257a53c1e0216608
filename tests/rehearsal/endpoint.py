"""A chat-completions server for the rehearsal: knows what every task is worth, and answers as fast as one process can.

It lists log-probabilities in the form and at the length that vLLM does, so that whoever asks has as much to read, and
fails at nothing; `tests/fault_server.py` is the one that does. `python -m tests.rehearsal.endpoint 13000` prints its address
and serves until it is killed; `GET /stats` tells how often it has answered.
"""

import argparse
import asyncio
import json
import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import exp, log
from typing import Any, Self

from prefprobe.choices.stimulus import STIMULUS
from prefprobe.settings import BASELINE
from prefprobe.shift.experiments import builtin_paths, load_experiments
from tests.rehearsal.tasks import CHOICES, TOPICS, WORTH, made

Body = dict[str, Any]

MODEL = "rehearsed"
BIAS = 0.4
"""Added to the logit of the task shown first."""
SLOPE = 1.5
"""Logits for one unit of worth."""
MOVED = 1.5
"""What a system prompt that loves or hates a label makes of a task that has it."""
PAIRS_OWN = 0.5
"""The most that a pair's own preference adds to its logit, either way."""
MISTAKEN = 0.1
"""Tasks whose topic the judge says by chance."""
JUDGED = "\n\nThe task:\n\n"
"""Stands before the task that a judge of topics is asked about."""
_LISTED, _GRID = 20, 100
"""Tokens listed at a position; answers are made beforehand for logits that are rounded to a hundredth."""
_MOST = 8.0
"""Logits lie between this and its opposite."""
_GOES_ON = (":", " Here", " it", " is", ",", " done", " as", " well", " as", " I", " can", " do", " it", ".")
_OTHERS = sorted({f" {word}{end}" for words in CHOICES.values() for word in words for end in ("", "s", "ing")})


@dataclass(frozen=True)
class World:
    """What texts are worth, and what system prompts make of it."""

    worth: Mapping[str, tuple[float, frozenset[str]]]
    """Text → its worth and the labels that system prompts may speak of."""
    targets: Mapping[str, Mapping[str, int]]
    """System prompt → label → the direction in which it moves tasks with that label."""

    @classmethod
    def of(cls, tasks: int) -> Self:
        """As many tasks as the rehearsal has, and those of the packaged experiments."""
        worth = {task.text: (task.worth, frozenset([task.topic])) for task in made(tasks)}
        experiments = load_experiments(builtin_paths())
        for experiment in experiments:
            for task in experiment.tasks:
                own = zlib.crc32(task.text.encode()) / 2**32 - 0.5
                worth[task.text] = (WORTH.get(task.topic, 0.0) + own, frozenset(task.labels))
        return cls(worth, {prompt.text: prompt.targets for e in experiments for prompt in e.prompts})

    def logit(self, first: str, second: str, system: str) -> float:
        """Log odds of the task shown first."""
        targets = self.targets.get(system, {})
        here, there = (self._worth(text, targets) for text in (first, second))
        a, b = zlib.crc32(first.encode()), zlib.crc32(second.encode())
        own = PAIRS_OWN * (((a ^ b) & 0xFFFF) / 0x8000 - 1) * (1 if a < b else -1)
        return SLOPE * (here - there) + BIAS + own

    def topic(self, text: str) -> str:
        """The label that the judge of topics says: a task's own, and of some another one."""
        _, labels = self.worth.get(text, (0.0, frozenset[str]()))
        draw = zlib.crc32(text.encode()) / 2**32
        if labels and draw >= MISTAKEN:
            return min(labels)
        return TOPICS[int(draw / MISTAKEN * len(TOPICS)) % len(TOPICS)]

    def _worth(self, text: str, targets: Mapping[str, int]) -> float:
        worth, labels = self.worth.get(text, (0.0, frozenset[str]()))
        moved = sum(targets[label] for label in labels if label in targets) if targets else 0
        return worth + MOVED * ((moved > 0) - (moved < 0))


def answer(world: World, body: Body) -> bytes:
    """A whole response of HTTP to one request's body: a choice, or a task's topic."""
    *before, last = body["messages"]
    _, judged, task = last["content"].rpartition(JUDGED)
    if judged:
        return _topic(world.topic(json.loads(task)))
    system = before[0]["content"] if before else BASELINE
    _, found, rest = last["content"].partition(f"\n\n{STIMULUS.label_a} ")
    first, both, second = rest.rpartition(f"\n\n{STIMULUS.label_b} ")
    logit = world.logit(first, second, system) if found and both else BIAS
    rounded = round(max(-_MOST, min(_MOST, logit)) * _GRID)
    return _choice(rounded, int(body.get("max_tokens") or 16), int(body.get("top_logprobs") or 0))


@cache
def _topic(label: str) -> bytes:
    """The answer of a judge of topics."""
    said = json.dumps({"primary": label, "secondary": None, "confidence": 0.9})
    choice: Body = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 900, "completion_tokens": 20, "total_tokens": 920}
    return _response({"id": "topic", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})


@cache
def _choice(rounded: int, length: int, top: int) -> bytes:
    """The answer on the likely path, whose logit of the first task is `rounded` hundredths."""
    p_a = 1 / (1 + exp(-rounded / _GRID))
    chosen = " A" if p_a >= 0.5 else " B"
    path = ("Task", chosen, *_GOES_ON)[:length]
    message = {"role": "assistant", "content": "".join(path)}
    choice: Body = {"index": 0, "message": message, "finish_reason": "length" if len(path) == length else "stop"}
    if top:
        draw = random.Random(rounded)  # answers differ, so that they take the room that answers do
        choice["logprobs"] = {"content": [_position(token, k, p_a, top, draw) for k, token in enumerate(path)]}
    usage = {"prompt_tokens": 200, "completion_tokens": len(path), "total_tokens": 200 + len(path)}
    said = {"id": "choice", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}
    return _response(said)


def _position(token: str, k: int, p_a: float, top: int, draw: random.Random) -> Body:
    here = {" A": 0.98 * p_a, " B": 0.98 * (1 - p_a)} if k == 1 else {token: 0.98, " ...": 0.005}
    here |= {other: draw.uniform(1e-6, 0.01 / _LISTED) for other in draw.sample(_OTHERS, _LISTED - 2)}
    listed = [{"token": t, "logprob": log(p), "bytes": list(t.encode())} for t, p in here.items()]
    listed.sort(key=lambda entry: -float(entry["logprob"]))  # type: ignore[arg-type]
    return {**next(e for e in listed if e["token"] == token), "top_logprobs": listed[:top]}


def _response(said: Body) -> bytes:
    data = json.dumps(said).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


@dataclass(eq=False)
class Connection(asyncio.Protocol):
    """One client's connection: no more of HTTP than a client needs."""

    world: World
    answered: list[int]
    """The number of answers of all connections, alone in its list."""
    data: bytearray = field(default_factory=bytearray)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.data[:end]).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if len(self.data) < end + 4 + length:
                return
            body = bytes(self.data[end + 4 : end + 4 + length])
            del self.data[: end + 4 + length]
            self.transport.write(self._reply(head, body))  # type: ignore[attr-defined]

    def _reply(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"get "):
            return _response({"answered": self.answered[0]})
        self.answered[0] += 1
        return answer(self.world, json.loads(body))


async def serve(world: World, port: int, host: str) -> None:
    """Print the address, and serve for good."""
    answered = [0]
    server = await asyncio.get_running_loop().create_server(lambda: Connection(world, answered), host, port)
    print(f"http://{host}:{server.sockets[0].getsockname()[1]}/v1", flush=True)  # noqa: T201
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("tasks", type=int, help="how many of the rehearsal's tasks it knows")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a pod")
    asked = parser.parse_args()
    asyncio.run(serve(World.of(asked.tasks), asked.port, asked.host))


if __name__ == "__main__":
    main()
