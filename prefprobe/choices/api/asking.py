"""One pass over some calls: what goes out is written down before, what comes back is paid and handed over once a second."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from time import monotonic

from prefprobe.choices.api.client import Call, Client, Reply, Watch
from prefprobe.choices.engine import Answer, Save, Spend, may_cost
from prefprobe.errors import PrefprobeError

_SHARE = 10.0
"""Writes may take one part in so many of the time: what is written once a second or question on a fast store is written
for several together on a slow one."""


class _Spent(Exception):
    """The budget does not cover another attempt."""


class Asking(Watch):
    """Asks with `client`, tells `save` before and after, until `more` says that the budget is spent, given what attempts have
    cost that were lost so far.

    `read` makes an answer of a reply and pays it; `cost` is what a call is thought to cost. `part` answers are handed over
    at once, fewer each second.
    """

    def __init__(
        self,
        client: Client,
        save: Save,
        part: int,
        *,
        read: Callable[[Reply], Answer],
        cost: Callable[[Call], Spend],
        more: Callable[[Spend], bool],
    ) -> None:
        self._client, self._save, self._part = client, save, part
        self._read, self._cost, self._more = read, cost, more
        self._waiting: list[Answer] = []
        self._free_from = 0.0  # when answers may be handed over again
        self._resting: dict[
            str, Spend
        ] = {}  # calls that wait for another attempt, and what that one makes of their cost
        self._ahead = _Ahead()

    def run(self, calls: Iterable[Call]) -> None:
        """Make the calls in the given order; see `Engine.answer`."""
        begun = self._begun(iter(calls))
        try:
            self._client.run(begun, self._deliver, self._beat, self)
        except _Spent:
            pass  # what it covered has come
        except BaseException:
            with suppress(PrefprobeError):  # the first error goes on
                self._hand_over()
            raise
        finally:
            begun.close()
            self._save.owe(self._resting)
        self._hand_over()

    def again(self, call: Call, losses: tuple[str, ...]) -> None:
        """See `Watch.again`. Where writing is slow, others that wait are written down with it."""
        if not self._covered:
            raise _Spent
        others = (id_ for id_ in self._resting if id_ != call.id)
        each = self._cost(call)
        ids = [call.id, *islice(others, self._ahead.room - 1)]
        self._save.owe({id_: each.per(self._resting[id_].requests + 1) for id_ in ids})
        del self._resting[call.id]

    def lost(self, call: Call, losses: tuple[str, ...]) -> None:
        """See `Watch.lost`."""
        self._resting[call.id] = self._cost(call).per(sum(map(may_cost, losses)))
        self._save.owe({call.id: self._resting[call.id]})

    @property
    def _covered(self) -> bool:
        return self._more(sum(self._resting.values(), Spend()))

    def _begun(self, calls: Iterator[Call]) -> Generator[Call]:
        """The calls, each written down before it comes out; those that do not come out are taken back."""
        written: deque[Call] = deque()
        try:
            while self._covered:
                if not written:
                    written.extend(islice(calls, self._ahead.room))
                    self._ahead.write(self._save, {call.id: self._cost(call) for call in written})
                if not written:
                    return
                yield written.popleft()
        finally:
            self._save.owe({call.id: Spend() for call in written})

    def _deliver(self, reply: Reply) -> None:
        self._resting.pop(reply.id, None)
        self._waiting.append(self._read(reply))
        if len(self._waiting) >= self._part:
            self._hand_over_unless_busy()

    def _beat(self) -> None:
        self._hand_over_unless_busy()
        self._save([])

    def _hand_over_unless_busy(self) -> None:
        if self._waiting and monotonic() >= self._free_from:
            self._hand_over()

    def _hand_over(self) -> None:
        some, self._waiting = self._waiting, []
        began = monotonic()
        self._save(some)
        self._free_from = began + _SHARE * (monotonic() - began)


class _Ahead:
    """How many questions are written down together: one, unless that would take too much of the time."""

    def __init__(self) -> None:
        self._took = self._rate = 0.0
        self._since, self._count = monotonic(), 0

    @property
    def room(self) -> int:
        """Questions of the time in which one more may be written."""
        return max(1, int(_SHARE * self._took * self._rate))

    def write(self, save: Save, costs: Mapping[str, Spend]) -> None:
        """Write down some questions that go out next."""
        began = monotonic()
        if began - self._since >= 1.0:
            self._rate = self._count / (began - self._since)
            self._since, self._count = began, 0
        self._count += len(costs)
        save.owe(costs)
        self._took = monotonic() - began
