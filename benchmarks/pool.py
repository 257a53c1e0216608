"""A pool of 30,000 tasks out of five data sets of the real sizes: seconds, CPU seconds, peak memory.

    python benchmarks/pool.py [FOLDER]

The files are made once, of random words, in FOLDER (a temporary one if not given): 1,000,000 conversations in Parquet, 52,002
instructions in JSON, 12,500 problems in Parquet, 1,630 rows of CSV, 44,500 queries in JSONL. Reading, filters, equal and near
duplicates and the draw of 10,000 + 3,000 + 17,000 tasks by equal quotas run in a process of their own, which is measured.
"""

import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CONVERSATIONS, GROUP = 1_000_000, 20_000
NEAR = 0.02
"""Share of texts that repeat an earlier one of their kind with another first word."""


class Words:
    """Texts of random words, drawn out of one long text."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        lengths = self.rng.integers(2, 10, 40_000)
        vocabulary = np.array(["".join(self.rng.choice(letters, n)) for n in lengths])
        often = self.rng.zipf(1.3, 4_000_000) % len(vocabulary)
        self.text = " ".join(vocabulary[often])

    def texts(self, n: int, median: float, sigma: float) -> list[str]:
        """N texts whose lengths are log-normal; some are near duplicates."""
        lengths = np.maximum(1, np.exp(self.rng.normal(np.log(median), sigma, n))).astype(int)
        starts = self.rng.integers(0, len(self.text) - lengths.max() - 1, n)
        found = [self.text[a : a + k].strip() or "word" for a, k in zip(starts, lengths, strict=True)]
        for at in self.rng.integers(1, n, int(NEAR * n)):
            found[at] = f"again {found[at - 1].partition(' ')[2]}"
        return found


def conversations(words: Words, n: int) -> pa.Table:
    """Rows as WildChat has them: what is read of them, and much beside."""
    rng = words.rng
    turns = 2 * rng.integers(1, 5, n)
    total = int(turns.sum())
    offsets = np.concatenate([[0], np.cumsum(turns)])
    users = np.ones(total, dtype=bool)
    users[1::2] = False  # every conversation has an even number of turns
    said, answers = iter(words.texts(total // 2, 150, 1.3)), iter(words.texts(total // 2, 900, 0.6))
    turn = pa.StructArray.from_arrays(
        [
            pa.array([next(said) if user else next(answers) for user in users]),
            pa.array(np.where(users, "user", "assistant")),
            pa.array(np.full(total, "English")),
            pa.array(np.zeros(total, dtype=bool)),
            pa.array(np.arange(total)),
        ],
        ["content", "role", "language", "redacted", "turn_identifier"],
    )
    language = rng.choice(["English", "Chinese", "Russian", "French"], n, p=[0.53, 0.2, 0.17, 0.1])
    columns = {
        "conversation_hash": pa.array([f"{a:016x}{b:016x}" for a, b in rng.integers(0, 2**62, (n, 2))]),
        "model": pa.array(rng.choice(["gpt-4", "gpt-3.5-turbo"], n)),
        "conversation": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), turn),
        "turn": pa.array(turns // 2),
        "language": pa.array(language),
        "toxic": pa.array(rng.random(n) < 0.05),
        "redacted": pa.array(rng.random(n) < 0.06),
        "header": pa.array(words.texts(n, 200, 0.1)),
    }
    return pa.table(columns)


def write(folder: Path) -> None:
    """All five files."""
    words = Words(1)
    with pq.ParquetWriter(folder / "wildchat.parquet", conversations(words, 10).schema) as writer:
        for _ in range(CONVERSATIONS // GROUP):
            writer.write_table(conversations(words, GROUP))
    asked, given = words.texts(52_002, 60, 0.4), words.texts(52_002, 80, 0.8)
    alpaca = [
        {"instruction": a, "input": b if i % 3 == 0 else "", "output": b}
        for i, (a, b) in enumerate(zip(asked, given, strict=True))
    ]
    (folder / "alpaca.json").write_text(json.dumps(alpaca))
    problems = words.texts(12_500, 180, 0.6)
    pq.write_table(
        pa.table({"problem": problems, "level": ["1"] * 12_500, "solution": problems}), folder / "math.parquet"
    )
    with (folder / "bailbench.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["content", "category", "subcategory"])
        rows.writerows([text, "a", "b"] for text in words.texts(1_630, 80, 0.4))
    with (folder / "stress_test.jsonl").open("w") as file:
        file.writelines(f"{json.dumps({'query': text, 'chunk': 1})}\n" for text in words.texts(44_500, 300, 0.5))


FILES = ("wildchat.parquet", "alpaca.json", "math.parquet", "bailbench.csv", "stress_test.jsonl")


def build(folder: Path) -> Iterator[str]:
    """Make the pool; lines with what it holds and took."""
    from prefprobe.settings.tasks import TaskSettings
    from prefprobe.tasks.candidates import read_candidates
    from prefprobe.tasks.drawing import draw

    began = time.monotonic()
    settings = TaskSettings(
        sources=[{"name": Path(name).stem, "path": str(folder / name)} for name in FILES],
        non_commercial=True,
        n_train=10_000,
        n_eval=3_000,
        n_pool=17_000,
        quotas="equal",
        near_duplicates=0.8,
    )
    candidates = read_candidates(settings.all_sources, [[folder / name] for name in FILES])
    read = time.monotonic()
    drawn = draw(candidates, settings, 0)
    done = time.monotonic()
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield f"candidates {len(candidates):,}, drawn {drawn.pool.num_rows:,}, turned down {drawn.dropped}"
    yield f"reading {read - began:.1f} s, drawing {done - read:.1f} s"
    yield f"wall {done - began:.1f} s, CPU {used.ru_utime + used.ru_stime:.1f} s, peak memory {used.ru_maxrss / 2**20:.2f} GiB"


def main() -> None:
    """Make the files if they are not there, and measure."""
    if sys.argv[1:2] == ["--build"]:
        for line in build(Path(sys.argv[2])):
            print(line)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if sys.argv[1:] else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not all((folder / name).is_file() for name in FILES):
            write(folder)
        sizes = ", ".join(f"{name} {(folder / name).stat().st_size / 2**20:.0f} MiB" for name in FILES)
        print(sizes, flush=True)
        subprocess.run([sys.executable, __file__, "--build", str(folder)], check=True)


if __name__ == "__main__":
    main()
