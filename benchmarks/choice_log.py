"""What keeping choices costs: a save after 300,000 answers against one after 3,000, and the memory of a whole study.

The loop measures 10,000 tasks in all its rounds with an engine that answers at once, so that what is counted is the
project's own: questions, answers, log, pair selection, fits and reliability. Answers are kept in a folder.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from prefprobe.choices.answers import AnswerLog
from prefprobe.choices.engine import Answer, Question, Reading, Save
from prefprobe.choices.log import ChoiceLog
from prefprobe.choices.loop import measure_utilities
from prefprobe.settings import ActiveLearningSettings
from prefprobe.store.objects import ObjectStore
from prefprobe.store.steps import StepStore

TEXT = "Task A: I would be glad to do this one. Here is"


class Instant:
    """Chooses by planted utilities, at once; tasks are texts that name their utility."""

    name, exact = "instant", False

    def __init__(self, part: int) -> None:
        self.part = part
        self.identity: dict[str, Any] = {"engine": self.name}
        self.about: dict[str, Any] = {}

    def answer(self, questions: Sequence[Question], save: Save) -> None:
        """See `Engine.answer`."""
        for start in range(0, len(questions), self.part):
            save([self.chosen(q.id, q.first, q.second) for q in questions[start : start + self.part]])

    def read(self, answer: Answer) -> Reading:
        """See `Engine.read`."""
        return Reading("a" if answer.raw.startswith("Task A") else "b")

    @staticmethod
    def chosen(id_: str, first: str, second: str) -> Answer:
        """The answer to one question."""
        chance = int(id_[:8], 16) / 2**32
        chosen = chance < 1 / (1 + np.exp(-(float(first.split()[-1]) - float(second.split()[-1]) + 0.5)))
        return Answer(id_, TEXT if chosen else TEXT.replace("A", "B", 1), "length", "m", "p", 180, 16, 1e-5)


def store(folder: str, step: str) -> StepStore:
    """A step's place in a folder."""
    return StepStore(ObjectStore.open(folder), step, "k" * 64, {})


def saves(part: int) -> None:
    """Time of one save of `part` answers, early and late in a log."""
    with tempfile.TemporaryDirectory() as folder:
        log, engine, seconds = AnswerLog(store(folder, "answers"), "me"), Instant(part), []
        for number in range(300_000 // part + 20):
            answers = [engine.chosen(f"{number * part + i:032x}", "1.0", "0.5") for i in range(part)]
            began = time.perf_counter()
            log._append(answers)
            seconds.append(time.perf_counter() - began)
        early = median(seconds[3000 // part : 3000 // part + 20])
        late = median(seconds[-20:])
        print(
            f"a save of {part} answers: after 3,000 {1e3 * early:.1f} ms, after 300,000 {1e3 * late:.1f} ms: "
            f"{late / early:.2f} times"
        )
        began = time.perf_counter()
        again = AnswerLog(store(folder, "answers"), "me").spend.requests
        print(f"reading all {again:,} answers again, as a resumed step does: {time.perf_counter() - began:.1f} s")


def whole(n: int, samples: int) -> None:
    """The loop over all rounds; prints the peak of this process's memory."""
    mu = np.random.default_rng(0).normal(size=n)
    texts = {f"task-{i:05d}": f"{'Describe how this is done. ' * 8}{m:.4f}" for i, m in enumerate(mu)}
    settings = ActiveLearningSettings(batch=n // 2, max_rounds=10, samples=samples, rank_threshold=0.9999)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        log = ChoiceLog(Instant(4096), texts, answers=AnswerLog(store(folder, "answers"), "me"))
        began = time.perf_counter()
        got = measure_utilities(log, settings, store=store(folder, "measure"))
        took = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    r = np.corrcoef(got.utilities.mu, mu)[0, 1]
    print(
        f"{n:,} tasks, {got.summary['n_pairs']:,} pairs, {got.choices.num_rows:,} choices in {len(got.summary['rounds'])} "
        f"rounds: {took:.0f} s, peak memory {peak / 2**20:.2f} GB ({before / 2**20:.2f} GB of it before the loop), "
        f"r with the truth {r:.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--loop", action="store_true", help="only the loop, in this process")
    args = parser.parse_args()
    if args.loop:
        whole(args.tasks, args.samples)
    else:
        saves(500)
        command = [
            sys.executable,
            str(Path(__file__)),
            "--loop",
            "--tasks",
            str(args.tasks),
            "--samples",
            str(args.samples),
        ]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
