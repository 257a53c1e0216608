"""What it costs to write every question down before it goes out: answers a second with the ledger and without.

An engine asks a server in another process, which answers after a while, and keeps the answers in a folder as a step does.
With `--write SECONDS` every note takes so much longer, as in a distant bucket. Sides take turns; the median of each is
printed with all its rounds, and their ratio.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from statistics import median

from client import serve

from prefprobe.choices.answers import AnswerLog
from prefprobe.choices.api.dialect import Dialect
from prefprobe.choices.api.engine import ApiEngine
from prefprobe.choices.engine import Question, Save, Spend
from prefprobe.choices.stimulus import STIMULUS
from prefprobe.progress import Progress
from prefprobe.settings.api import ApiSettings
from prefprobe.settings.endpoint import TransportSettings
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore

ROUNDS = 3
SIDES = ((32, 0.5), (256, 0.25), (32, 0.025))
"""Requests at a time, and seconds after which the server answers."""
SECONDS = 8
"""That one round takes about, at the most that the server answers; fewer questions a second than a client can ask."""
FASTEST = 600


class Slow(StepStore):
    """A store whose notes take `wait` seconds longer; counts them."""

    wait, notes_written = 0.0, 0

    def note(self, name: str, data: bytes) -> None:
        """See `StepStore.note`."""
        time.sleep(self.wait)
        self.notes_written += 1
        super().note(name, data)


class Unwritten:
    """A `Save` that lets nothing be written down beforehand."""

    def __init__(self, save: Save) -> None:
        self.save = save

    def __call__(self, answers: Sequence[object]) -> None:
        """Keep answers."""
        self.save(answers)  # type: ignore[arg-type]

    def owe(self, costs: Mapping[str, Spend]) -> None:
        """Forget it."""


def rate(url: str, concurrency: int, questions: Sequence[Question], wait: float, *, ledger: bool) -> tuple[float, int]:
    """Answers a second of one round, and how many notes were written."""
    settings = ApiSettings(
        base_url=url, model="m", key="", transport=TransportSettings(concurrency=concurrency, attempt_timeout=60)
    )
    engine = ApiEngine(settings, STIMULUS, dialect=Dialect(model="m"))
    with tempfile.TemporaryDirectory() as folder:
        store = Slow(ObjectStore.open(folder), "answers", "k" * 64, {})
        store.wait = wait
        log = AnswerLog(store, "me")
        began = time.perf_counter()
        got = log.ask(
            engine.answer if ledger else lambda some, save: engine.answer(some, Unwritten(save)),
            questions,
            Progress.silent(),
            "answers",
        )
        took = time.perf_counter() - began
        assert len(got) == log.spend.requests == len(questions)
    return len(questions) / took, store.notes_written


def compare(concurrency: int, latency: float, wait: float) -> None:
    """Run both sides in turns against one server, and print what each reached."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, latency), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    n = int(SECONDS * min(FASTEST, concurrency / latency))
    questions = [
        Question(
            id=f"{i:032x}",
            system=None,
            first="a" * 200,
            second="b" * 200,
            repeat=i,
            prompt_id="",
            task_a="a",
            task_b="b",
        )
        for i in range(n)
    ]
    rates: dict[bool, list[float]] = {True: [], False: []}
    notes = 0
    for _ in range(ROUNDS):
        for ledger in (True, False):
            found, written = rate(url, concurrency, questions, wait, ledger=ledger)
            rates[ledger].append(found)
            notes = written if ledger else notes
    server.kill()
    one, other = median(rates[True]), median(rates[False])
    each = {side: ", ".join(f"{r:.0f}" for r in found) for side, found in rates.items()}
    print(
        f"{concurrency} at a time, answered after {latency} s, {n} questions: {one:.0f}/s with the ledger ({each[True]}), "
        f"{other:.0f}/s without ({each[False]}), ratio {one / other:.3f}; {notes} notes"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", type=float, default=0.0, help="seconds that a note takes longer")
    args = parser.parse_args()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        os.environ.pop(name, None)
    for side in SIDES:
        compare(*side, args.write)
