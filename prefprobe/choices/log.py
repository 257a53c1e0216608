"""The choice log: what was asked, and what each answer says, one row a choice."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import expit

from prefprobe.choices.answers import AnswerLog, answers_table
from prefprobe.choices.engine import ALONE, TOOL_CALLS, Answer, Engine, Question, Reading, Save, Spend
from prefprobe.choices.label_mass import LabelMass
from prefprobe.errors import BadConfig
from prefprobe.progress import Progress
from prefprobe.store.keys import canonical_json
from prefprobe.thurstonian.fit import Comparisons
from prefprobe.thurstonian.observations import Ids

if TYPE_CHECKING:
    from prefprobe.choices.api.judge import Judge

SCHEMA = pa.schema(
    [
        ("choice_id", pa.string()),
        ("round", pa.int32()),
        ("prompt_id", pa.string()),
        ("task_a", pa.string()),
        ("task_b", pa.string()),
        ("repeat", pa.int32()),
        ("outcome", pa.string()),
        ("p_a", pa.float64()),
        ("logit", pa.float64()),
        ("label_mass", pa.float64()),
        ("judged", pa.bool_()),
        ("bounded", pa.bool_()),
    ]
)
"""One row a choice. `p_a` is P(A) of an exact outcome, 1 or 0 of a sampled one, and null where nothing was chosen. A
`bounded` logit may be further from 0: an endpoint listed only one of the labels."""


@dataclass
class ChoiceLog:
    """Asks an engine, reads its answers, and has a judge read those that say nothing to the parser."""

    engine: Engine
    texts: Mapping[str, str]
    """Task id → text."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Prompt id → system prompt; the id "" stands for none and is not in here."""
    answers: AnswerLog = field(default_factory=AnswerLog)
    progress: Progress = field(default_factory=Progress.silent)
    judge: "Judge | None" = None
    judgements: AnswerLog | None = None
    """The judge's answers; there if `judge` is."""
    interview: Spend = field(default_factory=Spend)
    """What it took to find out how to ask."""
    interrupted: Spend = field(default_factory=Spend)
    """What that took of processes that were killed before they knew."""
    min_label_mass: float = 0.0
    """Mean label mass below which measuring stops, see `LabelMass`; 0 never stops, nor do sampled answers that a judge reads."""
    asked: dict[str, Answer] = field(default_factory=dict)
    """Every answer that is in a table so far."""

    def __post_init__(self) -> None:
        self._label_mass = LabelMass(self.engine, self.min_label_mass)
        self._identity = hashlib.sha256(canonical_json(dict(self.engine.identity)))

    def questions(self, pairs: Iterable[tuple[str, str, str]], samples: int) -> list[Question]:
        """Each pair (prompt id, task id, task id) in both orders, `samples` times or, by an exact engine, once.

        They are sorted: prompts and first tasks stand together, which lets an engine, or a provider, compute shared
        beginnings once.
        """
        orders = {(prompt, *order) for prompt, a, b in pairs for order in ((a, b), (b, a))}
        repeats = range(1 if self.engine.exact else samples)
        return [self._question(*order, repeat) for order in sorted(orders) for repeat in repeats]

    def measure(self, questions: Sequence[Question], round_: int) -> pa.Table:
        """What was chosen, one row a question with the columns of SCHEMA, in the order of the questions.

        One is missing only where a budget did not cover it. Raises BadConfig if the label mass is too low, soon after the
        first answers, which are saved, and at once where they are known.
        """
        if self.judge is None:
            self._label_mass.expect(questions)
        self._label_mass.note(self.answers.known(q.id for q in questions).values())
        found = self.answers.ask(self._watched, questions, self.progress, f"choices, round {round_}")
        self.asked |= found
        readings = {id_: self.engine.read(answer) for id_, answer in found.items()}
        unparsed = {id_: found[id_] for id_, reading in readings.items() if reading.outcome == "unparsed"}
        judged = self._judge({id_: answer for id_, answer in unparsed.items() if answer.finish != TOOL_CALLS})
        rows = [_row(q, round_, judged.get(q.id, readings[q.id]), q.id in judged) for q in questions if q.id in found]
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    @property
    def spend(self) -> Spend:
        """What this step has paid so far, in this process and before it, the judge included."""
        return sum((log.spend for log in (self.answers, self.judgements) if log), self.interview + self.interrupted)

    @property
    def repeated(self) -> Spend:
        """Of `spend`, what is paid for answers that came to nothing because a process was killed, so that questions were
        asked again, or because two processes asked at once.
        """
        return sum((log.repeated for log in (self.answers, self.judgements) if log), self.interrupted)

    def account(self, choices: pa.Table) -> dict[str, Any]:
        """What came of asking for `choices`, and what was paid, as plain JSON: every answer that says nothing, attempt
        that was lost and question that failed is counted under its cause.
        """
        answers = [self.asked[id_] for id_ in choices.column("choice_id").to_pylist()]
        outcomes = choices.column("outcome").to_pylist()
        silent = [a for a, outcome in zip(answers, outcomes, strict=True) if outcome == "unparsed"]
        calls = sum(a.finish == TOOL_CALLS for a in silent)
        unread = _counted(fault for a in silent if (fault := self.engine.read(a).fault))
        return {
            **nothing_said(choices),
            **({TOOL_CALLS: calls} if calls else {}),
            **{name: sum(choices.column(name).to_pylist()) for name in ("judged", "bounded")},
            "estimated": sum(a.estimated for a in answers),
            "spend": asdict(self.spend),
            "repeated": asdict(self.repeated),
            "losses": _counted(loss for a in answers for loss in a.losses),
            "alone": sum(a.finish == ALONE for a in answers),
            "unread": unread,
            "failures": _counted(a.finish for a in answers if a.finish.startswith("failed")),
            "served": _counted(f"{a.model} by {a.provider}" for a in answers if a.model),
        }

    def raw_answers(self) -> pa.Table:
        """Every answer behind the choices so far, as it came, sorted by its question's identity."""
        return answers_table(self.asked[id_] for id_ in sorted(self.asked))

    def _watched(self, questions: Sequence[Question], save: Save) -> None:
        """See `Engine.answer`; stops where the label mass is too low."""
        self.engine.answer(questions, _Watched(save, self._label_mass))

    def _judge(self, unparsed: Mapping[str, Answer]) -> dict[str, Reading]:
        """What the judge makes of answers; those that it cannot tell either are left out."""
        if self.judge is None or self.judgements is None or not unparsed:
            return {}
        texts = {id_: self.judge.unclear(answer) for id_, answer in unparsed.items()}
        found = self.judgements.ask(self.judge.answer, texts.values(), self.progress, "answers for the judge")
        readings = {id_: self.judge.read(found[text.id]) for id_, text in texts.items() if text.id in found}
        return {id_: reading for id_, reading in readings.items() if reading.outcome in ("a", "b", "refusal")}

    def _question(self, prompt_id: str, task_a: str, task_b: str, repeat: int) -> Question:
        system = self.prompts[prompt_id] if prompt_id else None
        first, second = self.texts[task_a], self.texts[task_b]
        identity = self._identity.copy()
        identity.update(canonical_json([system, first, second, repeat]))
        return Question(
            id=identity.hexdigest()[:32],
            system=system,
            first=first,
            second=second,
            repeat=repeat,
            prompt_id=prompt_id,
            task_a=task_a,
            task_b=task_b,
        )


@dataclass(frozen=True)
class _Watched:
    """A `Save` that looks at the label mass of what it takes."""

    save: Save
    label_mass: LabelMass

    def __call__(self, answers: Sequence[Answer]) -> None:
        self.save(answers)
        self.label_mass.note(answers)

    def owe(self, costs: Mapping[str, Spend]) -> None:
        self.save.owe(costs)


def _row(question: Question, round_: int, reading: Reading, judged: bool) -> dict[str, Any]:
    p_a = {"a": 1.0, "b": 0.0}.get(reading.outcome)
    if reading.outcome == "exact":
        assert reading.logit is not None
        p_a = float(expit(reading.logit))
    return {
        "choice_id": question.id,
        "round": round_,
        "prompt_id": question.prompt_id,
        "task_a": question.task_a,
        "task_b": question.task_b,
        "repeat": question.repeat,
        "outcome": reading.outcome,
        "p_a": p_a,
        "logit": reading.logit,
        "label_mass": reading.label_mass,
        "judged": judged,
        "bounded": reading.bounded,
    }


def choose(
    engine: Engine,
    texts: Mapping[str, str],
    pairs: Iterable[tuple[str, str]],
    *,
    prompts: Mapping[str, str] | None = None,
    samples: int = 1,
) -> pa.Table:
    """What an engine chooses in each of some pairs, shown in both orders: one row a choice, with the columns of SCHEMA.

    `texts` maps task id → text, and pairs are of ids. Every pair is asked under each of `prompts`, name → system prompt,
    which is the row's `prompt_id`; without any, under none (""). Where answers are sampled each order is asked `samples`
    times. Nothing is kept but the table. Raises BadConfig for a pair that is not one of two tasks with texts, before
    anything is asked, and what the engine raises.
    """
    asked = list(pairs)
    for pair in asked:
        if isinstance(pair, str) or len(pair) != 2 or pair[0] == pair[1] or not all(id_ in texts for id_ in pair):
            raise BadConfig(f"the pair {pair!r} is not two different ids of `texts`; correct it, or leave it out.")
    if samples < 1 or "" in (prompts or {}):
        raise BadConfig(
            f"choose takes samples of 1 or more, found {samples}, and prompts that have names; correct this."
        )
    log = ChoiceLog(engine, texts, prompts or {})
    names = [""] if prompts is None else list(prompts)
    return log.measure(log.questions(((name, a, b) for name in names for a, b in asked), samples), 0)


def nothing_said(choices: pa.Table) -> dict[str, int]:
    """Answers that say nothing of a pair, by kind."""
    outcomes = Counter(choices.column("outcome").to_pylist())
    return {"refusals": outcomes["refusal"], "unparsed": outcomes["unparsed"], "failed": outcomes["failed"]}


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def comparisons(choices: pa.Table, task_ids: Ids = ()) -> Comparisons:
    """What choices say of each pair: exact logits without their position bias, or counts of sampled answers.

    Refusals, unparsed and failed answers say nothing of a pair. An exact choice counts if its other order is there too:
    alone it would bring its position bias with it. `task_ids` are all tasks in the order of the result; without them they are
    those of the choices that count, sorted. Raises BadConfig for choices under several system prompts, and for exact and
    sampled ones in one table: these are utilities of two kinds.
    """
    prompts = choices.column("prompt_id").unique().to_pylist()
    outcomes = set(choices.column("outcome").unique().to_pylist())
    if len(prompts) > 1 or {"exact"} < outcomes & {"exact", "a", "b"}:
        found = f"under {len(prompts)} system prompts" if len(prompts) > 1 else "some exact and some sampled"
        raise BadConfig(f"these choices are {found}, expected one kind; filter the table and compare each part alone.")
    exact = choices.filter(pc.equal(choices.column("outcome"), "exact")).select(["task_a", "task_b", "logit"])
    if exact.num_rows:
        other_order = exact.select(["task_a", "task_b"])
        both = exact.join(other_order, ["task_a", "task_b"], ["task_b", "task_a"], join_type="left semi")
        a, b = (both.column(c).combine_chunks() for c in ("task_a", "task_b"))
        return Comparisons.from_logits(a, b, both.column("logit").to_numpy(), task_ids=task_ids)
    sampled = choices.filter(pc.is_in(choices.column("outcome"), pa.array(["a", "b"])))
    a, b = (sampled.column(c).combine_chunks() for c in ("task_a", "task_b"))
    return Comparisons.from_choices(a, b, sampled.column("p_a").to_numpy(), task_ids=task_ids)
