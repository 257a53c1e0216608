"""Reading choices from a file of one's own: Parquet, JSONL or CSV with `task_a`, `task_b` and `choice` or `p_a`.

`choice` is a, b or refusal; `p_a` is the probability of task_a, from 0 to 1, 0.5 of a tie. `count` (default 1) says how many
observations a row stands for. Other columns are not looked at. A file is read whole or refused with one sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prefprobe.errors import BadConfig
from prefprobe.records import Columns, Record, read_records
from prefprobe.thurstonian.fit import Comparisons
from prefprobe.thurstonian.observations import Floats

_P_A = {"a": 1.0, "b": 0.0, "refusal": 0.0}
_COLUMNS = Columns(
    "choices",
    ("task_a", "task_b", "choice"),
    "every row `task_a`, `task_b` and `choice` or `p_a`",
    ("p_a", "count"),
)
_MOST = 1e9


@dataclass(frozen=True, eq=False)
class Choices:
    """The rows of one file, in its order."""

    task_a: list[str]
    task_b: list[str]
    p_a: Floats
    """(rows,) probability that task_a was chosen; 0 for a refusal."""
    count: Floats
    """(rows,) observations that the row stands for, from 0 to 1e9."""
    refused: npt.NDArray[np.bool_]
    """(rows,) neither task was chosen."""

    def comparisons(self, task_ids: Sequence[str] = (), *, refusals_lose: bool = False) -> Comparisons:
        """Pairs for the fit, of `task_ids` in their order, else of all tasks sorted. A refusal tells nothing about them;
        with `refusals_lose` it counts for task_b, as published.
        """
        count = self.count if refusals_lose else np.where(self.refused, 0.0, self.count)
        return Comparisons.from_choices(self.task_a, self.task_b, self.p_a, count, task_ids)


def read_choices(path: Path, task_ids: Sequence[str] = ()) -> Choices:
    """All choices of a file, which may name `task_ids` alone if there are any. Raises BadConfig naming file, row, column,
    what was expected and the next step.
    """
    task_a, task_b, p_a, count, refused = [], [], [], [], []
    kind, listed = "", set(task_ids)
    for record in read_records(path, _COLUMNS):
        kind = kind or ("p_a" if "p_a" in record else "choice")
        if "choice" in record and "p_a" in record:
            raise BadConfig(
                f"{record.where}: has both `choice` and `p_a`, expected one of them; remove the other column."
            )
        other = "p_a" if kind == "choice" else "choice"
        if other in record:
            raise BadConfig(
                f"{record.where}: has `{other}` where the rows before it have `{kind}`, expected one of them in every row; give "
                "`p_a` in all of them, 1 for a and 0 for b."
            )
        a, b = record.task_id("task_a"), record.task_id("task_b")
        for column, task_id in (("task_a", a), ("task_b", b)):
            if listed and task_id not in listed:
                raise record.refusal(column, "a task of the list of tasks", "add it there or remove the row")
        if a == b:
            raise BadConfig(
                f"{record.where}: `task_a` and `task_b` are both {a!r}, expected two tasks; remove the row."
            )
        task_a.append(a)
        task_b.append(b)
        p_a.append(_word(record) if kind == "choice" else record.number(kind, 0.0, 1.0))
        refused.append(kind == "choice" and record.cells[kind] == "refusal")
        count.append(record.number("count", 0.0, _MOST) if "count" in record else 1.0)
    choices = Choices(task_a, task_b, np.array(p_a), np.array(count), np.array(refused, dtype=bool))
    if not choices.count[~choices.refused].any():
        raise BadConfig(
            f"{path.name}: every row is a refusal or has `count` 0, expected some choices; measure other pairs."
        )
    return choices


def _word(record: Record) -> float:
    value = record.cell("choice", "`choice` or `p_a`")
    if not isinstance(value, str) or value not in _P_A:
        raise record.refusal(
            "choice", "a, b or refusal", "correct the row, or for ties give `p_a` (1, 0, or 0.5 of a tie) in every row"
        )
    return _P_A[value]
