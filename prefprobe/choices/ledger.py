"""What was asked and not saved: written down before a question goes out, so that a process that is killed loses no cent.

A process has one object of its own, which it replaces as it goes. Whoever comes later reads those of all: an answer that
another process has saved was paid by both, and a question that has no answer yet counts as what it was thought to cost.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from prefprobe.choices.engine import Answer, Spend
from prefprobe.errors import InputMissing
from prefprobe.store.keys import canonical_json
from prefprobe.store.steps import StepStore

_NOTHING = Spend()


class Left(BaseModel):
    """What one process has left in its object."""

    model_config = ConfigDict(strict=True, extra="forbid")

    payer: str
    """Who asked."""
    owed: dict[str, tuple[int, int, int, float]]
    """What a question has cost if its answer never comes, by its id: requests, prompt and completion tokens, dollars."""
    spent: tuple[int, int, int, float]
    """What answers have cost that were kept nowhere."""

    def cost(self, of: Callable[[str, Spend], Spend] = lambda _, cost: cost) -> Spend:
        """All of it; `of` says what a question counts that is owed."""
        return sum((of(id_, Spend(*cost)) for id_, cost in sorted(self.owed.items())), Spend(*self.spent))


@dataclass
class Ledger:
    """What this process owes and has spent beside what it saves, in `store`; a `Save` of answers that are kept nowhere."""

    store: StepStore | None = None
    payer: str = ""
    name: str = "answers"
    """What is asked for; the processes that ask for it share it."""
    process: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        self._owed: dict[str, Spend] = {}
        self._spent = Spend()
        self._written: Mapping[str, Spend] = {}
        self._less = False
        self._data = b""

    @property
    def signature(self) -> str:
        """What this process signs answers with that it saves: its name, if there is anything under that name."""
        return self.process if self._data else ""

    def __call__(self, answers: Sequence[Answer]) -> None:
        """Count what answers have cost to questions that were owed."""
        paid = [a for a in answers if a.id in self._owed]
        if paid:
            self._spent += Spend.of(paid)
            self.settle(a.id for a in paid)
            self.write()

    def owe(self, costs: Mapping[str, Spend]) -> None:
        """See `Save.owe`."""
        more = False
        for id_, cost in costs.items():
            before = self._written.get(id_, _NOTHING).requests
            more, self._less = more or cost.requests > before, self._less or cost.requests < before
            if cost.requests:
                self._owed[id_] = cost
            else:
                self._owed.pop(id_, None)
        if more:
            self.write()

    def write_less(self) -> None:
        """Write down that less is owed than is written there, but for what is settled, which goes without saying."""
        if self._less:
            self.write()

    def settle(self, ids: Iterable[str]) -> None:
        """The answers to these are saved, under the name of this process."""
        for id_ in ids:
            self._owed.pop(id_, None)

    def write(self) -> None:
        """Write down how things stand, unless they stand there so or there never was anything."""
        owed = {id_: [*vars(cost).values()] for id_, cost in self._owed.items()}
        record: dict[str, Any] = {"payer": self.payer, "owed": owed, "spent": [*vars(self._spent).values()]}
        data = canonical_json(record)
        if self.store is not None and data != self._data and (self._data or owed or self._spent.requests):
            self.store.note(f"{self.name}-{self.process}", data)
            self._data = data
        self._written, self._less = dict(self._owed), False


def left_by(store: StepStore, payer: str, name: str) -> dict[str, Left]:
    """What processes have left that asked for `name` on behalf of `payer`, by process; raises InputMissing."""
    found = {}
    for note, data in store.notes().items():
        kind, _, process = note.rpartition("-")
        if kind != name:
            continue
        try:
            left = Left.model_validate_json(data)
        except ValidationError:
            raise InputMissing(
                f"{store.describe_note(note)} is not what step {store.step} wrote: delete it (what was asked in vain by the "
                "process that wrote it is then counted nowhere) and run the step again."
            ) from None
        if left.payer == payer:
            found[process] = left
    return found
