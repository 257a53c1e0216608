"""What is paid, against a provider that keeps count: processes that are killed, that stop, and that ask at the same time."""

import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from prefprobe.choices.answers import AnswerLog
from prefprobe.choices.engine import Answer, Question, Save, Spend
from prefprobe.choices.ledger import Ledger, left_by
from prefprobe.errors import InputMissing
from prefprobe.progress import Progress
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore
from tests.questions import question

QUESTIONS = [question(f"q{i:02d}", "x", "y") for i in range(30)]
THOUGHT = Spend(1, 50, 5, 0.25)
"""What a question is thought to cost."""


def opened(folder: Path) -> StepStore:
    return StepStore(ObjectStore.open(str(folder)), "answers", "k" * 64, {})


def answer_to(question: Question) -> Answer:
    """Always of the same cost, so that what is lost costs exactly what comes in its place."""
    number = int(question.id[1:])
    return Answer(question.id, "Task A", prompt_tokens=100 + number, completion_tokens=number, cost=0.5 * number)


class Killed(BaseException):
    pass


class Process:
    """Asks for some questions at a time, saves now and then, and may be killed at any moment.

    A kill leaves the store as it is at that moment: `folder` is copied to `left`.
    """

    def __init__(self, sent: Counter[str], rng: random.Random, folder: Path, left: Path | None = None) -> None:
        self.sent, self.rng, self.folder, self.left = sent, rng, folder, left
        self.moments = rng.randrange(90)

    def moment(self) -> None:
        self.moments -= 1
        if self.left is not None and self.moments == 0:
            shutil.copytree(self.folder, self.left)
            raise Killed

    def __call__(self, questions: Sequence[Question], save: Save) -> None:
        unsaved: list[Answer] = []
        for q in questions:
            save.owe({q.id: THOUGHT})
            self.sent[q.id] += 1
            self.moment()
            if self.rng.random() < 0.3:  # lost to a status
                save.owe({q.id: Spend()})
                self.sent[q.id] -= 1
                save([])
                self.moment()
                save.owe({q.id: THOUGHT})
                self.sent[q.id] += 1
            if self.rng.random() < 0.2:  # lost on its way
                save.owe({q.id: THOUGHT.per(2)})
                self.sent[q.id] += 1
                self.moment()
                unsaved.append(lost_once(answer_to(q)))
            else:
                unsaved.append(answer_to(q))
            if self.rng.random() < 0.3:
                save(unsaved)
                unsaved = []
                self.moment()
        save(unsaved)


def lost_once(answer: Answer) -> Answer:
    return Answer(
        answer.id, answer.raw, prompt_tokens=2 * answer.prompt_tokens, completion_tokens=2 * answer.completion_tokens,
        cost=2 * answer.cost, losses=("timeout",),
    )  # fmt: skip


def paid_for(sent: Counter[str]) -> Spend:
    """What the provider has worked on, by its own count."""
    return sum((Spend.of([answer_to(q)]).per(sent[q.id]) for q in QUESTIONS), Spend())


@pytest.mark.parametrize("seed", range(25))
def test_what_is_paid_is_what_the_provider_counts_over_kills(seed: int, tmp_path: Path) -> None:
    rng, sent, folder = random.Random(seed), Counter[str](), tmp_path / "0"
    killed = 0
    for number in range(1, 6):
        left = tmp_path / str(number)
        log = AnswerLog(opened(folder), "me")
        assert log.spend.requests == sent.total()
        try:
            log.ask(Process(sent, rng, folder, left), QUESTIONS, Progress.silent(), "answers")
            break
        except Killed:
            folder, killed = left, killed + 1
    log = AnswerLog(opened(folder), "me")
    log.ask(Process(sent, rng, folder), QUESTIONS, Progress.silent(), "answers")
    for each in (log, AnswerLog(opened(folder), "me")):
        found, true = each.spend, paid_for(sent)
        assert (found.requests, found.prompt_tokens, found.completion_tokens) == (
            true.requests,
            true.prompt_tokens,
            true.completion_tokens,
        )
        assert found.dollars == pytest.approx(true.dollars)
        assert killed or each.repeated == Spend()
    assert AnswerLog(opened(folder), "another").spend == Spend()


def test_two_that_ask_at_once_pay_for_both_and_no_more(tmp_path: Path) -> None:
    sent: Counter[str] = Counter()
    one, two = AnswerLog(opened(tmp_path), "me"), AnswerLog(opened(tmp_path), "me")

    def both(questions: Sequence[Question], save: Save) -> None:
        for q in questions[:10]:
            save.owe({q.id: THOUGHT})
            sent[q.id] += 1
        late = AnswerLog(opened(tmp_path), "me")  # sees what the first has on its way
        assert late.spend == THOUGHT.per(10)
        late.ask(Process(sent, random.Random(1), tmp_path), QUESTIONS[5:15], Progress.silent(), "answers")
        save([answer_to(q) for q in questions[:10]])  # of these five come too late

    one.ask(both, QUESTIONS, Progress.silent(), "answers")
    two.ask(Process(sent, random.Random(2), tmp_path), QUESTIONS[10:], Progress.silent(), "answers")
    for log in (one, two, AnswerLog(opened(tmp_path), "me")):
        log.ask(lambda *_: None, QUESTIONS, Progress.silent(), "answers")
    fresh = AnswerLog(opened(tmp_path), "me").spend
    assert fresh == paid_for(sent)
    assert one.repeated == two.repeated


def test_a_question_that_another_study_has_answered_costs_both(tmp_path: Path) -> None:
    mine = Ledger(opened(tmp_path), "me", "answers")
    mine.owe({"q01": THOUGHT, "q02": THOUGHT})
    other = AnswerLog(opened(tmp_path), "another")
    other.ask(lambda some, save: save([answer_to(some[0])]), [QUESTIONS[1]], Progress.silent(), "answers")
    assert other.spend == Spend.of([answer_to(QUESTIONS[1])])
    assert AnswerLog(opened(tmp_path), "me").spend == Spend.of([answer_to(QUESTIONS[1])]) + THOUGHT


def test_a_question_that_is_turned_down_costs_nothing_however_often_it_was_asked(tmp_path: Path) -> None:
    Ledger(opened(tmp_path), "me", "answers").owe({"q01": THOUGHT.per(3)})
    log = AnswerLog(opened(tmp_path), "me")
    assert log.spend.requests == 3

    def turned_down(some: Sequence[Question], save: Save) -> None:
        save.owe({some[0].id: THOUGHT})
        save([Answer("q01", "", "failed: 400: no")])

    log.ask(turned_down, [QUESTIONS[1]], Progress.silent(), "answers")
    assert log.spend == AnswerLog(opened(tmp_path), "me").spend == Spend()


def test_an_end_in_order_owes_what_was_lost_on_its_way_and_nothing_else(tmp_path: Path) -> None:
    def stops(some: Sequence[Question], save: Save) -> None:
        save.owe({q.id: THOUGHT for q in some})
        save([answer_to(some[0])])
        save.owe({some[1].id: Spend(), some[2].id: THOUGHT})
        save.owe({q.id: Spend() for q in some[3:]})
        raise KeyboardInterrupt

    log = AnswerLog(opened(tmp_path), "me")
    with pytest.raises(KeyboardInterrupt):
        log.ask(stops, QUESTIONS, Progress.silent(), "answers")
    for each in (log, AnswerLog(opened(tmp_path), "me")):
        assert each.spend == Spend.of([answer_to(QUESTIONS[0])]) + THOUGHT
        assert each.repeated == THOUGHT


def test_an_engine_that_owes_nothing_leaves_no_note_and_the_same_bytes(tmp_path: Path) -> None:
    for folder in (tmp_path / "one", tmp_path / "two"):
        log = AnswerLog(opened(folder), "me")
        log.ask(lambda some, save: save([answer_to(q) for q in some]), QUESTIONS, Progress.silent(), "answers")
        assert opened(folder).notes() == {}
    assert opened(tmp_path / "one").parts() == opened(tmp_path / "two").parts()


def test_a_note_is_written_for_more_and_not_for_less(tmp_path: Path) -> None:
    store = opened(tmp_path)
    ledger = Ledger(store, "me", "answers")

    def written() -> dict[str, int]:
        return {id_: cost[0] for left in left_by(store, "me", "answers").values() for id_, cost in left.owed.items()}

    ledger.owe({"a": THOUGHT, "b": THOUGHT})
    assert written() == {"a": 1, "b": 1}
    ledger.owe({"a": Spend()})
    ledger.owe({"b": THOUGHT})
    assert written() == {"a": 1, "b": 1}
    ledger.owe({"b": THOUGHT.per(2)})
    assert written() == {"b": 2}
    ledger.owe({"a": THOUGHT})
    assert written() == {"a": 1, "b": 2}
    ledger([Answer("b", "", prompt_tokens=7), Answer("never owed", "")])
    (left,) = left_by(store, "me", "answers").values()
    assert (set(left.owed), left.spent) == ({"a"}, (1, 7, 0, 0.0))


@pytest.mark.parametrize("data", [b"", b"{}", b'{"payer": "me", "owed": {"a": [1, 2]}, "spent": [0, 0, 0, 0]}'])
def test_a_note_that_cannot_be_read_is_named(data: bytes, tmp_path: Path) -> None:
    opened(tmp_path).note("answers-1", data)
    with pytest.raises(InputMissing, match=r"notes/answers-1\.json is not what step answers wrote: delete it"):
        _ = AnswerLog(opened(tmp_path), "me").spend
