"""A judge's labels of many tasks: asked once each, kept as they come, a row for every task whatever the judge said."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
from scipy.special import betaincinv

from prefprobe.choices.answers import AnswerLog, answers_table
from prefprobe.choices.engine import Answer, Save, Spend
from prefprobe.errors import BadConfig
from prefprobe.numbers import count, listed, number
from prefprobe.progress import Progress
from prefprobe.tasks.topics import OTHER
from prefprobe.topics.reading import Reading

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("primary", pa.string()),
        ("secondary", pa.string()),
        ("confidence", pa.float64()),
        ("how", pa.string()),
        ("refusal", pa.bool_()),
        ("fallback", pa.string()),
    ]
)
"""One row a task. `primary` is null where nothing was read, `refusal` says that the first answer declined, and `fallback`
what stands in for it: PLAIN, or OTHER, or nothing."""
PLAIN = "plain"
"""The fall-back of a task of which a second, plainer question got the label."""
TRIED = 200
"""Tasks that are judged before all others: a judge that does not understand is stopped there."""
_SHOWN = 5
"""Labels of a judge's own that a sentence names."""


class Asked(NamedTuple):
    """A task as a judge is asked about it."""

    id: str
    """A digest of the text and of all else that the answer depends on."""
    text: str
    plainly: bool = False


class Judge(Protocol):
    """Whoever says which label fits a text."""

    name: str
    """As the report calls it."""
    asks_again: bool
    """Whether a plainer question may get a label where the first one got none."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that a label depends on besides the text, as plain JSON; how an answer is read is no part of it."""
        ...

    @property
    def about(self) -> Mapping[str, Any]:
        """How it judges, as plain JSON for the report."""
        ...

    def question(self, text: str, *, plainly: bool = False) -> Asked:
        """A text as it is asked about."""
        ...

    def answer(self, questions: Sequence[Asked], save: Save) -> None:
        """See `choices.engine.Engine.answer`."""
        ...

    def read(self, answer: Answer) -> Reading:
        """What an answer says."""
        ...


@dataclass(frozen=True)
class Judged:
    """What a judge said of some tasks."""

    labels: pa.Table
    """SCHEMA, sorted by id."""
    answers: Mapping[str, Answer]
    """By the digest of the question."""
    own: Counter[str]
    """Tasks by the label of the judge's own that was not read."""

    def raw_answers(self) -> pa.Table:
        """Every answer as it came, sorted by the identity of its question."""
        return answers_table(self.answers[id_] for id_ in sorted(self.answers))

    def summary(self, log: AnswerLog, more: Spend) -> dict[str, Any]:
        """Counts, and what was paid, with `more` for finding out how to ask, as plain JSON."""
        rows = self.labels.to_pydict()
        answers = self.answers.values()
        return {
            "n": self.labels.num_rows,
            "counts": _counted(rows["primary"]),
            "how": _counted(rows["how"]),
            "refusals": sum(rows["refusal"]),
            "fallbacks": _counted(rows["fallback"]),
            "own": dict(sorted(self.own.items(), key=lambda item: (-item[1], item[0]))[:20]),
            "spend": asdict(log.spend + more),
            "repeated": asdict(log.repeated),
            "estimated": sum(a.estimated for a in answers),
            "losses": _counted(loss for a in answers for loss in a.losses),
            "failures": _counted(a.finish for a in answers if a.finish.startswith("failed")),
            "served": _counted(f"{a.model} by {a.provider}" for a in answers if a.model),
        }


def judge_tasks(
    judge: Judge,
    texts: Mapping[str, str],
    *,
    log: AnswerLog | None = None,
    max_unread: float = 1.0,
    progress: Progress | None = None,
) -> Judged:
    """What `judge` says of `texts` (id → text); tasks of one text are asked about once, and `log` keeps the answers.

    Raises BadConfig where more than a share `max_unread` of the tasks gets no label of the taxonomy: soon, if that is plain
    of the first TRIED, at the end otherwise; and where a budget does not cover them all. What was answered is kept.
    """
    log, progress = log or AnswerLog(), progress or Progress.silent()
    questions = {id_: judge.question(text) for id_, text in texts.items()}
    by_digest = sorted(questions, key=lambda id_: (questions[id_].id, id_))  # in an order that has to do with nothing
    if len(by_digest) > TRIED:
        _judged(
            judge, texts, {id_: questions[id_] for id_ in by_digest[:TRIED]}, log, progress, max_unread, surely=True
        )
    return _judged(judge, texts, {id_: questions[id_] for id_ in by_digest}, log, progress, max_unread, surely=False)


def _judged(
    judge: Judge,
    texts: Mapping[str, str],
    questions: Mapping[str, Asked],
    log: AnswerLog,
    progress: Progress,
    max_unread: float,
    *,
    surely: bool,
) -> Judged:
    answers = dict(_asked(judge, questions, log, progress, "tasks to judge"))
    first = {id_: judge.read(answers[question.id]) for id_, question in questions.items()}
    unread = [id_ for id_ in questions if first[id_].primary is None]
    second: dict[str, Reading] = {}
    if judge.asks_again and unread:
        plainly = {id_: judge.question(texts[id_], plainly=True) for id_ in unread}
        found = _asked(judge, plainly, log, progress, "tasks to judge again")
        second = {id_: judge.read(found[question.id]) for id_, question in plainly.items()}
        answers |= found
    rows, own = [], Counter[str]()
    for id_ in sorted(questions):
        again = second.get(id_)
        counts = again if again is not None and again.primary is not None else first[id_]
        fallback = "" if first[id_].primary is not None else PLAIN if counts.primary is not None else OTHER
        said = asdict(counts)
        rows.append({name: said[name] for name in ("primary", "secondary", "confidence", "how")}
                    | {"id": id_, "refusal": first[id_].refusal, "fallback": fallback})  # fmt: skip
        if fallback == OTHER and first[id_].own:
            own[first[id_].own] += 1
    judged = Judged(pa.Table.from_pylist(rows, schema=SCHEMA), answers, own)
    _check_unread(judge, judged, max_unread, surely)
    return judged


def _asked(
    judge: Judge, questions: Mapping[str, Asked], log: AnswerLog, progress: Progress, unit: str
) -> Mapping[str, Answer]:
    distinct = {question.id for question in questions.values()}
    found = log.ask(judge.answer, questions.values(), progress, unit)
    if len(found) < len(distinct):
        raise BadConfig(
            f"{judge.name}: the budget covers {count(len(found))} of {count(len(distinct))} tasks, whose answers are saved; "
            "raise budget_usd or budget_tokens of the judge's `api`, and run the step again."
        )
    return found


def _check_unread(judge: Judge, judged: Judged, most: float, surely: bool) -> None:
    """`surely`: the true share, and not this sample's alone, is beyond what is allowed (Clopper and Pearson, 1934)."""
    n, unread = judged.labels.num_rows, judged.labels.column("fallback").to_pylist().count(OTHER)
    share = float(betaincinv(unread, n - unread + 1, 0.005)) if surely and unread else unread / max(n, 1)
    if share <= most:
        return
    own = [f"{label!r}" for label, _ in sorted(judged.own.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]]
    refused = sum(judged.labels.column("refusal").to_pylist())
    lost = sum(answer.finish.startswith("failed") for answer in judged.answers.values())
    said = f", but labels of its own such as {listed(own)}" if own else ""
    said += f"; {refused} answers decline" if refused else ""
    said += f"; {count(lost)} questions got no answer" if lost else ""
    raise BadConfig(
        f"{judge.name} names no label of the taxonomy for {count(unread)} of {count(n)} tasks{said}; more than "
        f"topics.max_unread ({number(most, 2)}) allows: ask another judge, or raise it; what was answered is saved."
    )


def _counted(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(value for value in values if value).items()))
