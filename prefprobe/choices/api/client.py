"""Many chat completions from one endpoint: as fast as it allows, nothing lost, every lost attempt counted by its cause."""

import asyncio
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import aiohttp

from prefprobe.choices.api.access import Access
from prefprobe.choices.api.failures import GARBAGE, NO_ANSWER, Lost, TurnedDown
from prefprobe.choices.api.pacing import Pace, backoff
from prefprobe.choices.api.wire import Wire
from prefprobe.errors import BadConfig, PrefprobeError, TemporaryFailure
from prefprobe.settings.endpoint import TransportSettings

FIRST_CONTACT = 60.0
"""Seconds for which an endpoint may be silent that has never answered, but for saying that it is loading its model."""
_BEAT = 1.0
_HELD = 4
"""Calls that wait for another attempt, in windows at their widest, before no new one is begun."""
_REFUSED = 4
"""Attempts of a call that must be lost to the same, one after the other, before it counts as the answer to what is asked: a
completion of no use, which is paid each time, and on `trial` an error of the server's too."""
_ERRORS = {"500": 500, NO_ANSWER: 200, GARBAGE: 200}
"""Causes of a loss that may be such an error, and their status."""
_OUTDONE = 3
"""Attempts of a call that must be lost while others are answered, before the fault is the call's."""
_BUSY = {"429", "503", "529"}
"""Causes of a loss that are no fault of a call's, whatever else is answered."""


@dataclass(frozen=True, slots=True)
class Call:
    """One chat completion to ask for."""

    id: str
    body: Mapping[str, Any]
    """JSON of the request."""
    tokens: int
    """Prompt and completion tokens it may take, for the rate limit."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a call."""

    id: str
    body: dict[str, Any] | None
    """The JSON that counted; None if the provider turned the call down for good."""
    error: str
    """"" or why there is no body: the status and the provider's sentence."""
    losses: tuple[str, ...]
    """The cause of each attempt that was lost before."""
    means: PrefprobeError | None = None
    """What it means if any other call fares the same, of a client that is on trial."""
    asked: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """JSON of the request."""


class Watch:
    """Who is told what becomes of single attempts; this one does not care. The first one of a call is begun as the call is
    pulled, and the last one is over as its reply is delivered.
    """

    def again(self, call: Call, losses: tuple[str, ...]) -> None:
        """Another attempt goes out after these were lost, unless this raises."""

    def lost(self, call: Call, losses: tuple[str, ...]) -> None:
        """The call is not on its way any more; these attempts were lost so far, and one more if it was free."""


class Client:
    """Asks the chat completions that `access` leads to. `inspect` names what is wrong with a body, None if nothing: a wrong one
    is a lost attempt. On `trial` it finds out what an endpoint takes: what may be the fault of a call's fields is a reply, and
    ends no run.
    """

    def __init__(
        self,
        access: Access,
        settings: TransportSettings,
        inspect: Callable[[dict[str, Any]], str | None],
        *,
        trial: bool = False,
    ) -> None:
        self.trial = trial
        self.wire = Wire(access, settings.attempt_timeout, inspect)
        self.patience = min(FIRST_CONTACT, settings.total_timeout) if trial else settings.total_timeout
        """Seconds without any answer after which to give up."""
        self.while_loading = settings.total_timeout
        """The same of an endpoint that says that it is loading."""
        self.most_held = _HELD * settings.concurrency
        self.pace = Pace(settings)
        self.sent = 0
        """Attempts so far."""
        self.losses: Counter[str] = Counter()
        """Lost attempts by cause."""

    @property
    def widest(self) -> int:
        """The most attempts that were on their way at once."""
        return self.pace.widest

    def run(
        self,
        calls: Iterable[Call],
        deliver: Callable[[Reply], None],
        beat: Callable[[], None],
        watch: Watch = Watch(),  # noqa: B008  it has no state
    ) -> None:
        """Ask for all `calls`, pulled one by one as there is room, and `deliver` each reply once, as it comes.

        `beat` is called about once a second. If either raises, nothing new is asked; what is on its way is waited for
        and delivered, and the first error goes on. Raises TemporaryFailure for an endpoint that has answered nothing for
        `total_timeout` or wants to be paid, BadConfig for one that refuses the key, does not know the model, or answers in
        a form that is none.
        """
        every = _Run(self, deliver, beat, watch).all(iter(calls))
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(every)
        else:  # as in a notebook, whose loop is busy with the cell that waits here
            with ThreadPoolExecutor(1) as pool:
                pool.submit(asyncio.run, every).result()


class _Run:
    """One pass over some calls: a scheduler that says when an attempt may start, and one task for each call begun."""

    def __init__(
        self, client: Client, deliver: Callable[[Reply], None], beat: Callable[[], None], watch: Watch
    ) -> None:
        self._client, self._deliver, self._beat, self._watch = client, deliver, beat, watch
        self._begun: set[asyncio.Task[None]] = set()
        # calls that wait for another attempt, a heap by when it is due: its tokens, and what is told when it may start
        self._again: list[tuple[float, int, int, asyncio.Future[float]]] = []
        self._numbers = itertools.count()
        self._outdone: set[str] = set()  # calls of which the fault may be their own
        self._more = True  # whether there are calls that are not begun
        self._wake = asyncio.Event()
        self._next_beat = 0.0
        self._error: BaseException | None = None
        self._answered = self._came_back = float("-inf")  # the last answer, and the first one after the last outage
        self._silent_since: float | None = None  # when the first attempt went out of those lost since the last answer
        self._lost_since: Counter[str] = Counter()
        self._said = ""
        self._loading = False  # whether that is what was last said

    async def all(self, calls: Iterator[Call]) -> None:
        """See `Client.run`."""
        async with self._client.wire.session() as session:
            try:
                await self._schedule(calls, session)
            except BaseException as error:  # noqa: BLE001  Ctrl-C, or a bug: what is on its way is delivered first
                self._error = self._error or error
            for *_, turn in self._again:
                turn.cancel()
            while self._begun:  # an error: what is on its way is worth waiting for
                await asyncio.wait(self._begun, timeout=_BEAT)
                self._guarded(self._beat)
        if self._error is not None:
            raise self._error

    async def _schedule(self, calls: Iterator[Call], session: aiohttp.ClientSession) -> None:
        loop, pace = asyncio.get_running_loop(), self._client.pace
        self._next_beat = monotonic() + _BEAT
        while self._error is None:
            self._wake.clear()
            now = monotonic()
            if now >= self._next_beat:
                self._next_beat = now + _BEAT
                self._guarded(self._beat)
            self._check_patience(now)
            while (wait := pace.wait(now)) <= 0.0 and self._error is None:
                if self._again and self._again[0][0] <= now:
                    _, _, tokens, turn = heapq.heappop(self._again)
                    self._start(tokens, now)
                    turn.set_result(now)
                elif self._more and len(self._again) < self._client.most_held:
                    call = self._pulled(calls)
                    self._more = call is not None
                    if call is not None:
                        self._start(call.tokens, now)
                        task = loop.create_task(self._see_through(call, session, now))
                        self._begun.add(task)
                        task.add_done_callback(self._ended)
                else:  # nothing to do before a lost one is due
                    wait = self._again[0][0] - now if self._again else float("inf")
                    break
                now = monotonic()
            if self._error is not None or not (self._more or self._begun):
                return
            timer = loop.call_later(max(min(wait, self._next_beat - now), 0.001), self._wake.set)
            await self._wake.wait()
            timer.cancel()

    def _pulled(self, calls: Iterator[Call]) -> Call | None:
        """The next call, None if there is none any more."""
        try:
            return next(calls, None)
        except Exception as error:  # noqa: BLE001  whatever it is, what is on its way is delivered first
            self._error = error
            return None

    def _start(self, tokens: int, now: float) -> None:
        self._client.pace.start(tokens, now)
        self._client.sent += 1

    async def _see_through(self, call: Call, session: aiohttp.ClientSession, began: float) -> None:
        """All attempts of one call, until it has its reply or an error has ended the run."""
        client = self._client
        losses: tuple[str, ...] = ()
        outdone = 0  # attempts that were lost although others were answered since the one before
        before = sent = began
        while True:
            try:
                if losses:
                    self._watch.again(call, losses)
                body = await client.wire.attempt(session, call.body)
            except TurnedDown as no:
                if no.means is not None and not client.trial:
                    self._guarded(self._watch.lost, call, losses)
                    raise no.means from None
                self._win(Reply(call.id, None, str(no), losses, no.means, call.body))
                return
            except PrefprobeError:
                self._guarded(self._watch.lost, call, losses)
                raise
            except Lost as lost:
                now, others_answered = monotonic(), self._answered > before
                self._lose(lost, sent, now)
                losses += (lost.cause,)
                self._guarded(self._watch.lost, call, losses)
                if losses[-_REFUSED:] == (lost.cause,) * _REFUSED and self._is_final(lost):
                    self._win(self._refused(call, lost, losses))
                    return
                outdone += others_answered
                before = sent
                # one call that gets no answer while others do; not one of many that an outage or a long wait holds up
                overdue = now - max(began, self._came_back) >= client.patience
                if outdone >= _OUTDONE:
                    self._outdone.add(call.id)
                alone = not self._more and len(self._outdone) == len(self._begun) and lost.cause not in _BUSY
                if overdue and outdone >= _OUTDONE and (others_answered or alone):
                    self._outdone.discard(call.id)
                    self._guarded(self._deliver, _given_up(call, client.patience, losses))
                    return
                due = now + max(backoff(len(losses)), min(lost.wait or 0.0, client.patience))
            else:
                self._win(Reply(call.id, body, "", losses, asked=call.body))
                return
            finally:
                client.pace.land()
            if self._error is not None:
                return
            sent = await self._turn(due, call.tokens)

    def _is_final(self, lost: Lost) -> bool:
        """Whether what comes again and again is all that ever will."""
        error = lost.cause in _ERRORS and (lost.said or _ERRORS[lost.cause] == 200) and not lost.loading
        return lost.whole or (self._client.trial and bool(error))

    def _refused(self, call: Call, lost: Lost, losses: tuple[str, ...]) -> Reply:
        status, base_url = _ERRORS.get(lost.cause, 200), self._client.wire.base_url
        if lost.said and lost.cause != GARBAGE:
            said = f"{status}: {lost.said}"
            means: PrefprobeError = TemporaryFailure(
                f"{base_url} answers nothing but an error ({said}); run again later."
            )
        else:
            said = f"{status}: {lost.cause}, {_REFUSED} times in a row{lost.said and f'; {lost.said}'}"
            means = BadConfig(f"{base_url} gives nothing that can be read ({said}); check base_url, model and extra.")
        return Reply(call.id, None, said, losses, means, call.body)

    async def _turn(self, due: float, tokens: int) -> float:
        """Wait until another attempt is due and may start; returns when that is."""
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._again, (due, next(self._numbers), tokens, turn))
        self._wake.set()
        return await turn

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._begun.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:  # the endpoint's, or a bug
            self._error = self._error or error
        self._wake.set()

    def _win(self, reply: Reply) -> None:
        self._answered = monotonic()
        if self._client.pace.won():
            self._came_back = self._answered
        self._silent_since = None
        self._lost_since.clear()
        self._outdone.discard(reply.id)
        self._guarded(self._deliver, reply)

    def _lose(self, lost: Lost, sent: float, now: float) -> None:
        self._client.losses[lost.cause] += 1
        self._client.pace.lost(lost.cause, lost.wait or 0.0, sent, now)
        self._lost_since[lost.cause] += 1
        self._said, self._loading = lost.said, lost.loading
        if self._silent_since is None:
            self._silent_since = sent

    def _check_patience(self, now: float) -> None:
        """Leave an error if the endpoint answers nothing any more."""
        patience = self._client.while_loading if self._loading else self._client.patience
        if self._silent_since is None or now - self._silent_since <= patience:
            return
        cause, _ = self._lost_since.most_common(1)[0]
        said = f"; it last said: {self._said}" if self._said else ""
        did = "is still loading, and has answered nothing" if self._loading else "has answered nothing"
        self._error = self._error or TemporaryFailure(
            f"{self._client.wire.base_url} {did} for {patience:g} s (most often: {cause}{said}); check that it runs and "
            "that `base_url` is right, then run the same command again: a run goes on from what it has saved."
        )

    def _guarded(self, do: Callable[..., None], *given: object) -> None:
        """Do it; the first error of all is kept, and stops the run."""
        try:
            do(*given)
        except BaseException as error:  # noqa: BLE001  KeyboardInterrupt too: what is on its way is delivered first
            self._error = self._error or error


def _given_up(call: Call, patience: float, losses: tuple[str, ...]) -> Reply:
    causes = ", ".join(f"{n} × {cause}" for cause, n in Counter(losses).most_common())
    return Reply(call.id, None, f"no answer within {patience:g} s: {causes}", losses, asked=call.body)
