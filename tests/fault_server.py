"""A chat-completions server that answers by planted utilities and fails by a script, both a function of the request alone.

In a test: `with FaultServer(Behaviour(fault_rate=0.5)) as server: … server.url … server.stats()`. As a process of its own:
`python -m tests.fault_server --port 0 '{"fault_rate": 0.5}'` prints its address and serves until it is killed.

What a text is worth stands in it, as in `u=+0.53`, and its topic as in `kind=math`, for a judge that is shown one text and a
list of labels. The answer depends on messages, seed and temperature; whether an
attempt fails, and how, depends on the body and on how often that body has been asked. So a client that loses nothing and
counts nothing twice ends up with the same answers with faults and without. A server that is `random` answers otherwise
whenever it is asked, and to the end, whoever has gone away: it counts what a provider would send a bill for.
"""

import argparse
import asyncio
import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from math import exp, log
from typing import Any, Self

from aiohttp import web

Body = dict[str, Any]

FAULTS = (
    "429 with Retry-After",
    "429",
    "500",
    "503",
    "hang",
    "cut",
    "no choices",
    "null content",
    "garbage",
    "other model",
    "duplicate",
    "trickle",
)
_PLANTED_ONLY = {"other model", "duplicate"}
"""Faults that would mislead whoever is still finding out which model answers: questions without a planted utility, and those
that are named, are spared them."""
_WORTH = re.compile(r"\bu=([+-]?\d+(?:\.\d+)?)")
_KIND = re.compile(r"\bkind=(\w+)")
_LABELS = re.compile(r"^- (\w+): ", re.MULTILINE)
_TASK = (" Here", " it", " is", ",", " as", " well", " as", " I", " can", ".") * 4
_REFUSAL = ("I", "'m", " sorry", ",", " but", " I", " can", "'t", " help", " with", " that", ".")
_THOUGHT = "Both have something to be said for them"


@dataclass(frozen=True)
class Behaviour:
    """What a server is like. Fractions are of bodies, and always hit the same ones."""

    model: str = "planted"
    provider: str = "loopback"
    key: str = ""
    """If set, any other key is refused, and said aloud."""
    key_header: str = "Authorization"
    """Where the key stands; in any other header it stands without `Bearer`."""
    query: str = ""
    """What must follow the ? of an address, as in `api-version=2`; all else is not found."""
    names: tuple[str, ...] = ()
    """What the model calls itself, answer by answer, in place of `model`."""
    calls_tools: float = 0.0
    """Answers that call a tool and say nothing, unless `tool_choice` forbids it."""
    loads: int = 0
    """Attempts that are told that the model is still loading, before the first one is answered."""
    loads_with: int = 503
    streams: str = ""
    """`only`: a request that asks for no stream is refused. `always`: a stream comes unasked. Else whoever asks gets one."""
    delay: float = 0.0
    """Seconds that an answer takes."""
    bias: float = 0.4
    """Added to the logit of the task shown first."""
    refusals: float = 0.0
    unlabelled: float = 0.0
    """Answers that choose, but begin with other words."""
    confuses: float = 0.0
    """Topics that are said to be the next one in the list of labels; another model confuses others."""
    invents: float = 0.0
    """Topics that no list of labels has."""
    forms: bool = True
    """Whether a topic is said in a JSON object where one is asked for, and not in prose."""
    blocked: float = 0.0
    """Bodies turned down for good, by a content policy."""
    rejects: tuple[str, ...] = ()
    """Of `seed`, `system`, `temperature`, `max_tokens`, `max_completion_tokens`, `logprobs`, `prefill`,
    `response_format` and `stream_options`."""
    rejects_with: int = 400
    """The status of that; 200 has an error in its body."""
    says: str = ""
    """The sentence of that, in place of one that names what is rejected."""
    lists: bool = False
    """Whether log-probabilities come when asked for."""
    listing: str = ""
    """How log-probabilities are miswritten: a name in LISTINGS, or not at all."""
    counts: str = ""
    """Log-probabilities are asked for by their number in `logprobs`, as at Together. `refuses` true and false, or `takes` true
    for 1; `top_logprobs` is passed over."""
    most_listed: int = 20
    """More `top_logprobs` are turned down."""
    label_mass: float = 0.98
    """Probability that an answer begins with a label, as listed."""
    goes_on: tuple[str, ...] = ()
    """Ways of PREFILLS in which a beginning of the answer may be given; by others the answer begins anew."""
    repeats: bool = False
    """Whether an answer that goes on from a beginning shows it too, of which nothing is listed."""
    turned: float = 0.0
    """Added to the logit where a beginning is given."""
    thinks: str = ""
    """`field`, `tags` or not at all."""
    thought: int = 50
    """Tokens of a thought; an answer of fewer tokens has no content."""
    random: bool = False
    """Whether it answers by chance, at another length each time, and works on what nobody waits for any more."""
    usage: str = "all"
    """What is said of tokens: a name in USAGES."""
    cost: float = 0.0
    """US dollars of a token, as reported with the tokens; not at all if 0."""
    fault_rate: float = 0.0
    """Fraction of attempts that fail."""
    faults: tuple[str, ...] = FAULTS
    spares: tuple[str, ...] = ()
    """Texts whose bodies are spared the faults that would mislead an interview."""
    retry_after: str = "0.05"
    trickle: float = 1.0
    """Seconds in which a body trickles in."""


class FaultServer:
    """A server in a thread. `script` says how an attempt fails, by body and attempt number from 0, in place of a rate."""

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        script: Callable[[Body, int], str | None] | None = None,
    ) -> None:
        self.behaviour, self._script = behaviour or Behaviour(), script
        self.url = ""
        self.arrivals: list[tuple[float, Body]] = []
        """When each attempt came, by the monotonic clock."""
        self.headers: list[dict[str, str]] = []
        """Of each attempt, names in small letters."""
        self.queries: list[str] = []
        self.faults: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        """How often each body was answered in full and as it should be, by the body's digest."""
        self.tokens = self.most_tokens = 0
        """Worked on in all, and for one attempt at most; a lost answer was work too."""
        self.in_flight = self.most_in_flight = 0
        self._attempts: Counter[str] = Counter()
        self._ids = 0
        self._last: Body | None = None
        self._loop = asyncio.new_event_loop()
        self._ready, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self.serve(0),), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        self._loop.close()

    async def serve(self, port: int, host: str = "127.0.0.1") -> None:
        """Until the end of the context, or for good."""
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._completion)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/stats", self._stats)
        app.router.add_get("/forget", self._forget)
        until_it_is_gone = not self.behaviour.random
        runner = web.AppRunner(app, access_log=None, handler_cancellation=until_it_is_gone, shutdown_timeout=0.05)
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        await site.start()
        self.url = f"http://{host}:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await self._end.wait()
        await runner.cleanup()

    async def announce(self, port: int, host: str) -> None:
        """Serve, and print the address."""
        serving = asyncio.create_task(self.serve(port, host))
        while not self.url:
            await asyncio.sleep(0.01)
        print(self.url, flush=True)  # noqa: T201
        await serving

    def stats(self) -> dict[str, Any]:
        """What has happened so far, as plain JSON."""
        return {
            "attempts": sum(self._attempts.values()),
            "bodies": len(self._attempts),
            "answered": self.answers.total(),
            "bodies_answered": len(self.answers),
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "faults": dict(self.faults),
            "tokens": self.tokens,
            "most_tokens": self.most_tokens,
        }

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(self.stats())

    async def _forget(self, _: web.Request) -> web.Response:
        """Duplicate nothing that was said before: who hears it twice may be another process, and cannot know."""
        self._last = None
        return web.json_response({})

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.behaviour.model, "object": "model"}]})

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        arrived = time.monotonic()
        body = await request.json()
        self.arrivals.append((arrived, body))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.queries.append(request.query_string)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._reply(request, body)
        finally:
            self.in_flight -= 1

    async def _reply(self, request: web.Request, body: Body) -> web.StreamResponse:
        behaviour, digest = self.behaviour, _digest(body)
        attempt = self._attempts[digest]
        self._attempts[digest] += 1
        if len(self.arrivals) <= behaviour.loads:
            return _error(behaviour.loads_with, "Loading model", "unavailable_error")
        if behaviour.query and request.query_string != behaviour.query:
            return _error(404, "Resource not found", "404")
        given = request.headers.get(behaviour.key_header, "")
        if behaviour.key_header == "Authorization":
            given = given.removeprefix("Bearer ")
        if behaviour.key and given != behaviour.key:
            return _error(401, f"Incorrect API key provided: {given}.", "invalid_api_key")
        planted = len(_worths(body)) == 2 or _kind(body) is not None
        fault = self._fault(body, digest, attempt, planted)
        if fault is not None:
            self.faults[fault] += 1
        if fault in ("429", "429 with Retry-After"):
            headers = {"Retry-After": behaviour.retry_after} if fault != "429" else {}
            return _error(429, "Rate limit reached.", "rate_limit_exceeded", headers)
        if fault is not None and fault.startswith("says "):  # and has a status of its own
            return web.json_response(json.loads(fault.removeprefix("says ")))
        if fault is not None and fault.startswith("sends "):
            return web.Response(text=fault.removeprefix("sends "), content_type="text/html")
        if fault == "redirect":
            return web.Response(status=308, headers={"Location": "/v2/chat/completions"})
        if fault is not None and fault.isdigit() and fault != "201":
            return _error(int(fault), "The server had an error.", "server_error")
        refused = _rejection(behaviour, body)
        if refused is not None:
            return _error(behaviour.rejects_with, behaviour.says or refused[0], refused[1])
        if planted and _chance(digest, "blocked") < behaviour.blocked:
            return _error(400, "The request was rejected by our content policy.", "content_policy_violation")
        await asyncio.sleep(behaviour.delay)
        completion = self._completed(body)
        completion["usage"] = USAGES[behaviour.usage](completion["usage"], self._ids)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "duplicate" and self._last is not None:
            return web.json_response(self._last)
        if fault == "201":
            return web.json_response(completion, status=201)
        if fault in ("br", "zstd"):
            return web.Response(body=b"\x0b\x00\x80x\x03", headers={"Content-Encoding": fault})
        if body.get("stream") or behaviour.streams == "always":
            data, kind = _streamed(completion, bool(body.get("stream_options"))), "text/event-stream"
        else:
            data, kind = json.dumps(completion).encode(), "application/json"
        if fault == "garbage":
            return web.Response(text="<html>Bad gateway</html>")
        if fault == "no choices":
            return web.json_response(completion | {"choices": []})
        if fault == "null content":
            choice = {"index": 0, "message": {"role": "assistant", "content": None}, "finish_reason": "stop"}
            return web.json_response(completion | {"choices": [choice]})
        if fault == "other model":
            return web.json_response(completion | {"model": f"{behaviour.model}-mini"})
        if behaviour.random:  # it is done, whether anybody hears of it or not
            self.answers[digest] += 1
            return web.json_response(completion)
        if fault in ("cut", "trickle"):
            done = await _written(request, data, kind, fault, behaviour.trickle)
        else:
            done = web.Response(body=data, content_type=kind)
        if fault != "cut":
            self.answers[digest] += 1
            self._last = completion
        return done

    def _fault(self, body: Body, digest: str, attempt: int, planted: bool) -> str | None:
        if self._script is not None:
            return self._script(body, attempt)
        if _chance(digest, f"fails {attempt}") >= self.behaviour.fault_rate:
            return None
        spared = not planted or any(text in body["messages"][-1]["content"] for text in self.behaviour.spares)
        kinds = [kind for kind in self.behaviour.faults if not spared or kind not in _PLANTED_ONLY]
        return kinds[int(_chance(digest, f"how {attempt}") * len(kinds))] if kinds else None

    def _completed(self, body: Body) -> Body:
        self._ids += 1
        completion = answer(self.behaviour, body) | {"id": f"chatcmpl-{self._ids}", "created": int(time.time())}
        if self.behaviour.names:
            completion["model"] = self.behaviour.names[self._ids % len(self.behaviour.names)]
        tokens = completion["usage"]["total_tokens"]
        self.tokens += tokens
        self.most_tokens = max(self.most_tokens, tokens)
        return completion


def answer(behaviour: Behaviour, body: Body) -> Body:
    """A completion without an id."""
    limit = int(body.get("max_tokens") or body.get("max_completion_tokens") or 10**6)
    drawn = json.dumps([body["messages"], body.get("seed")], sort_keys=True)
    drawn = str(random.random()) if behaviour.random else drawn
    p_a, temperature = p_first(behaviour, body), float(body.get("temperature", 1.0))
    label, head = _chosen(drawn, p_a, temperature), behaviour.label_mass
    given = _given_beginning(behaviour, body)
    path: tuple[str, ...] = ("Task", f" {label}", ":", *_TASK)
    if _chance(drawn, "refuses") < behaviour.refusals:
        path, head = _REFUSAL, 0.1
    elif _chance(drawn, "unlabelled") < behaviour.unlabelled or head < 0.5:
        path, head = ("I", "'d", " take", " the", " first" if label == "A" else " second", " one", "."), min(head, 0.4)
    kind = _kind(body)
    if kind is not None:
        path = _topic(behaviour, body, kind)
    if given:
        path = (f" {label}", ":", *_TASK)
    if behaviour.random:
        path = path[: random.randrange(3, min(limit, len(path)))]
    spent, message = min(len(path), limit), _message(behaviour, path, limit)
    if given and behaviour.repeats:
        message["content"] = given + message["content"]
    if behaviour.thinks:
        spent = min(behaviour.thought + len(path), limit)
    finish = "length" if spent == limit else "stop"
    if _chance(drawn, "calls") < behaviour.calls_tools and body.get("tool_choice") != "none":
        call = {"id": "call-1", "type": "function", "function": {"name": "choose", "arguments": '{"task": "A"}'}}
        message, finish = {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
    choice: Body = {"index": 0, "message": message, "finish_reason": finish}
    if body.get("logprobs") and behaviour.lists:
        top = body["logprobs"] if behaviour.counts else body.get("top_logprobs", 0)
        content = _listed(path[:spent], head, p_a, int(top))
        choice["logprobs"] = {"content": content}
        if behaviour.listing:
            LISTINGS[behaviour.listing](choice, content)
    prompt = sum(len(turn["content"].split()) for turn in body["messages"])
    return {
        "object": "chat.completion",
        "model": behaviour.model,
        "provider": behaviour.provider,
        "choices": [choice],
        "usage": {"prompt_tokens": prompt, "completion_tokens": spent, "total_tokens": prompt + spent}
        | ({"cost": behaviour.cost * (prompt + spent)} if behaviour.cost else {}),
    }


def _kind(body: Body) -> str | None:
    """The topic of the one text that a judge is shown; None if it is shown none, or no labels."""
    content = body["messages"][-1]["content"]
    found = _KIND.search(content)
    return found[1] if found and _LABELS.search(content) else None


def topic(behaviour: Behaviour, body: Body, kind: str) -> str:
    """The topic that is said of a text of a kind; "" for a refusal."""
    content = body["messages"][-1]["content"]
    labels, drawn = _LABELS.findall(content), json.dumps([body.get("model"), content])
    if _chance(drawn, "refuses") < behaviour.refusals:
        return ""
    if _chance(drawn, "invents") < behaviour.invents:
        return f"{kind}_of_my_own"
    confused = _chance(drawn, "confuses") < behaviour.confuses
    return str(labels[(labels.index(kind) + confused) % len(labels)])


def _topic(behaviour: Behaviour, body: Body, kind: str) -> tuple[str, ...]:
    said = topic(behaviour, body, kind)
    if not said:
        return _REFUSAL
    if "JSON object" in body["messages"][-1]["content"] and behaviour.forms:
        said = json.dumps({"primary": said, "secondary": None, "confidence": 0.9})
    elif not behaviour.forms:
        said = f"The topic is **{said}**."
    return tuple(re.findall(r"\s*\S+", said))


USAGES: dict[str, Callable[[Body, int], Body | None]] = {
    "all": lambda usage, _: usage,
    "none": lambda usage, _: None,
    "zeros": lambda usage, _: dict.fromkeys(usage, 0),
    "words": lambda usage, _: dict.fromkeys(usage, "unknown"),
    "prompt": lambda usage, _: {"prompt_tokens": usage["prompt_tokens"]},
    "completion": lambda usage, _: {"completion_tokens": usage["completion_tokens"]},
    "total": lambda usage, _: {"total_tokens": usage["total_tokens"]},
    "no completion": lambda usage, _: usage | {"completion_tokens": 0},
    "every other": lambda usage, number: usage if number % 2 else None,
}
"""What is said of tokens, by what they are and the number of the answer."""


def _each(write: Callable[[Body], Body]) -> Callable[[Body, list[Body]], None]:
    """Has every entry, the alternatives too, as `write` makes it."""

    def listed(choice: Body, content: list[Body]) -> None:
        content[:] = [
            write({**entry, "top_logprobs": [write(dict(other)) for other in entry["top_logprobs"]]})
            for entry in content
        ]

    return listed


def _one_hot(floor: float) -> Callable[[Body, list[Body]], None]:
    def listed(choice: Body, content: list[Body]) -> None:
        for entry in content:
            for other in [entry, *entry["top_logprobs"]]:
                other["logprob"] = 0.0 if other["token"] == entry["token"] else floor

    return listed


def _twice(choice: Body, content: list[Body]) -> None:
    for entry in content:
        entry["top_logprobs"].insert(0, {name: entry[name] for name in ("token", "logprob")})


def _led(*tokens: str) -> Callable[[Body, list[Body]], None]:
    """The answer's tokens after others that the message does not show."""
    return lambda choice, content: content.__setitem__(slice(0, 0), [_given(token) for token in tokens])


def _given(token: str) -> Body:
    return {"token": token, "logprob": 0.0, "top_logprobs": [{"token": token, "logprob": 0.0}]}


def _columns(choice: Body, content: list[Body]) -> None:
    choice["logprobs"] = {
        "tokens": [entry["token"] for entry in content],
        "token_logprobs": [entry["logprob"] for entry in content],
        "top_logprobs": [{e["token"]: e["logprob"] for e in entry["top_logprobs"]} for entry in content],
    }


def _alone(choice: Body, content: list[Body]) -> None:
    for entry in content:
        entry["top_logprobs"] = []


def _of_their_own(choice: Body, content: list[Body]) -> None:
    choice["logprobs"] = {"steps": [{"text": entry["token"], "score": entry["logprob"]} for entry in content]}


LISTINGS: dict[str, Callable[[Body, list[Body]], None]] = {
    "one-hot -9999": _one_hot(-9999.0),
    "one-hot -100": _one_hot(-100.0),
    "one-hot -inf": _one_hot(float("-inf")),
    "probabilities": _each(lambda entry: entry | {"logprob": exp(entry["logprob"])}),
    "log10": _each(lambda entry: entry | {"logprob": entry["logprob"] / log(10)}),
    "zeros": _each(lambda entry: entry | {"logprob": 0.0}),
    "twice": _twice,
    "thought": _led("<think>", "Both", " are", " fine", "</think>"),
    "leading": _led("<s>"),
    "stripped": _each(lambda entry: entry | {"token": entry["token"].strip()}),
    "ids": _each(lambda entry: entry | {"token": f"token_id:{sum(entry['token'].encode())}"}),
    "columns": _columns,
    "alone": _alone,
    "own": _of_their_own,
}


def p_first(behaviour: Behaviour, body: Body) -> float:
    """P(A) at temperature 1, as planted."""
    worths = _worths(body)
    difference = worths[0] - worths[1] if len(worths) == 2 else 0.0
    turned = behaviour.turned if _given_beginning(behaviour, body) else 0.0
    return 1 / (1 + exp(-(difference + behaviour.bias + turned)))


def _worths(body: Body) -> list[float]:
    """What the two tasks of the user's last turn are worth; not two numbers if nothing was planted."""
    asked = [turn["content"] for turn in body["messages"] if turn["role"] == "user"]
    return [float(worth) for worth in _WORTH.findall(asked[-1])]


def _given_beginning(behaviour: Behaviour, body: Body) -> str:
    """The beginning of the answer from which it goes on, "" for none."""
    last = body["messages"][-1]
    if last["role"] != "assistant":
        return ""
    how = "continue_final_message" if body.get("continue_final_message") else "last turn"
    return last["content"] if ("prefix" if last.get("prefix") else how) in behaviour.goes_on else ""


def _chosen(drawn: str, p_a: float, temperature: float) -> str:
    if temperature <= 0:
        return "A" if p_a >= 0.5 else "B"
    logit = log(p_a / (1 - p_a)) / temperature
    return "A" if _chance(drawn, "choice") < 1 / (1 + exp(-logit)) else "B"


def _message(behaviour: Behaviour, path: tuple[str, ...], limit: int) -> Body:
    room = limit - behaviour.thought if behaviour.thinks else limit
    said = "".join(path[: max(room, 0)])
    message: Body = {"role": "assistant", "content": said}
    if behaviour.thinks == "field":
        message["reasoning_content"] = _THOUGHT
    if behaviour.thinks == "tags":
        message["content"] = f"<think>{_THOUGHT}.</think>\n\n{said}" if said else f"<think>{_THOUGHT}"
    return message


def _listed(path: tuple[str, ...], head: float, p_a: float, top: int) -> list[Body]:
    """Log-probabilities of a path. `head` is the probability of `Task` at the first position."""
    content = []
    for position, token in enumerate(path):
        here = {token: 0.999, " ...": 0.001}
        if position == 0 and path[0] in (" A", " B"):
            here = {" A": 0.9 * p_a, " B": 0.9 * (1 - p_a), " of": 0.1}
        elif position == 0:
            here = {"Task": head, "I": 1 - head}
        elif position == 1 and path[0] == "Task":
            here = {" A": p_a, " B": 1 - p_a}
        each: list[Body] = [
            {"token": t, "logprob": log(max(p, 1e-12)), "bytes": list(t.encode())} for t, p in here.items()
        ]
        each.sort(key=lambda entry: -entry["logprob"])
        content.append({**next(e for e in each if e["token"] == token), "top_logprobs": each[:top]})
    return content


def _rejection(behaviour: Behaviour, body: Body) -> tuple[str, str] | None:
    """(sentence, code) of what is wrong with a request."""
    rejects = behaviour.rejects
    if "system" in rejects and body["messages"][0]["role"] == "system":
        return (
            "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
            "unsupported_value",
        )
    if "seed" in rejects and "seed" in body:
        return "Unsupported parameter: 'seed' is not supported with this model.", "unsupported_parameter"
    if "temperature" in rejects and body.get("temperature", 1) != 1:
        given = body["temperature"]
        return (
            f"Unsupported value: 'temperature' does not support {given} with this model. "
            "Only the default (1) value is supported.",
            "unsupported_value",
        )
    if "max_completion_tokens" in rejects and "max_completion_tokens" in body:
        return "Unsupported parameter: 'max_completion_tokens' is not supported.", "unsupported_parameter"
    if "max_tokens" in rejects and "max_tokens" in body:
        return (
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            "unsupported_parameter",
        )
    if behaviour.streams == "only" and not body.get("stream"):
        return "This model only supports streaming; set stream to true.", "unsupported_value"
    if "stream_options" in rejects and "stream_options" in body:
        return "Unrecognized request argument supplied: stream_options", "unsupported_parameter"
    if behaviour.counts == "refuses" and body.get("logprobs") is True:
        return "logprobs: expected a number between 0 and 20", "invalid_type"
    if behaviour.counts and int(body.get("logprobs") or 0) > behaviour.most_listed:
        return f"logprobs must be at most {behaviour.most_listed}", "integer_above_max_value"
    if "prefill" in rejects and body["messages"][-1]["role"] == "assistant":
        return "The last message must be from the user.", "invalid_request_error"
    if "response_format" in rejects and "response_format" in body:
        return "Unsupported parameter: 'response_format' is not supported with this model.", "unsupported_parameter"
    if "logprobs" in rejects and body.get("logprobs"):
        return "Unsupported parameter: 'logprobs' is not supported with this model.", "unsupported_parameter"
    if not behaviour.counts and body.get("top_logprobs", 0) > behaviour.most_listed:
        most = behaviour.most_listed
        return f"Invalid value for 'top_logprobs': must be less than or equal to {most}.", "integer_above_max_value"
    return None


def _error(status: int, sentence: str, code: str, headers: dict[str, str] | None = None) -> web.Response:
    error = {"message": sentence, "type": "invalid_request_error" if status == 400 else code, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)


def _streamed(completion: Body, counts: bool) -> bytes:
    """A completion as events of two or three characters each, with what it took in the last one if that is asked for."""
    about = {name: completion[name] for name in ("id", "created", "model", "provider")}
    about["object"] = "chat.completion.chunk"
    pieces: list[Body] = []
    for choice in completion["choices"]:
        message = dict(choice["message"])
        listed = (choice.get("logprobs") or {}).get("content") or []
        pieces.append({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})
        for name in ("reasoning_content", "content"):
            said = message.get(name) or ""
            pieces += [{"index": 0, "delta": {name: said[k : k + 3]}, "logprobs": None} for k in range(0, len(said), 3)]
        pieces += [{"index": 0, "delta": {}, "logprobs": {"content": [entry]}} for entry in listed]
        for call in message.get("tool_calls", ()):
            pieces.append({"index": 0, "delta": {"tool_calls": [{"index": 0, **call}]}})
        pieces.append({"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]})
    events = [{**about, "choices": [piece], "usage": None} for piece in pieces]
    if counts:
        events.append({**about, "choices": [], "usage": completion["usage"]})
    lines = ": waiting\n\n" + "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return f"{lines}data: [DONE]\n\n".encode()


async def _written(request: web.Request, data: bytes, kind: str, how: str, seconds: float) -> web.StreamResponse:
    """Half of a body and then nothing more, or all of it in ten pieces."""
    response = web.StreamResponse(headers={"Content-Type": kind, "Content-Length": str(len(data))})
    await response.prepare(request)
    if how == "cut":
        await response.write(data[: len(data) // 2])
        if request.transport is not None:
            request.transport.close()
        return response
    step = -(-len(data) // 10)
    for at in range(0, len(data), step):
        await asyncio.sleep(seconds / 10)
        await response.write(data[at : at + step])
    return response


def _digest(body: Body) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _chance(what: str, why: str) -> float:
    """A number between 0 and 1, always the same for the same two texts."""
    return int.from_bytes(hashlib.sha256(f"{why} {what}".encode()).digest()[:6]) / 2**48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a pod")
    parser.add_argument("behaviour", nargs="?", default="{}", help="JSON of the fields of Behaviour")
    asked = parser.parse_args()
    given = json.loads(asked.behaviour)
    unknown = set(given) - {field.name for field in fields(Behaviour)}
    if unknown:
        parser.error(f"Behaviour has no {', '.join(sorted(unknown))}")
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    asyncio.run(FaultServer(Behaviour(**{**given, **lists})).announce(asked.port, asked.host))


if __name__ == "__main__":
    main()
