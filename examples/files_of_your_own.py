"""Activations and utilities that you have, from whatever suite: the files that the commands read, and what they say of them.

python examples/files_of_your_own.py [--out own-files]
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

TOPICS = ("math", "fiction", "travel", "clerical")
WIDTH = 32


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """A table."""
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def prefprobe(*args: object) -> str:
    """What a command says."""
    print("$ prefprobe", *args)
    done = subprocess.run(
        [sys.executable, "-m", "prefprobe", *map(str, args)], check=True, stdout=subprocess.PIPE, text=True
    )
    print(done.stdout)
    return done.stdout


def main() -> None:
    """Plant a utility along one direction of made-up activations, and let the commands find it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("own-files"))
    out = parser.parse_args().out
    out.mkdir()

    rng = np.random.default_rng(0)
    ids = [f"task-{i:03d}" for i in range(180)]
    topics = [TOPICS[i % len(TOPICS)] for i in range(len(ids))]
    mu = rng.normal(size=len(ids)) + np.array([0.5 * TOPICS.index(topic) for topic in topics])
    direction = rng.normal(size=WIDTH)
    X = rng.normal(size=(len(ids), WIDTH)) + 0.8 * np.outer(mu, direction)

    features = out / "activations.npz"  # as `prefprobe export` writes it; ids are text, never objects
    np.savez(features, task_ids=np.array(ids, dtype=str), layer_15=X.astype(np.float32))
    train = write_csv(out / "train.csv", ("task_id", "mu"), list(zip(ids, mu, strict=True))[:120])
    test = write_csv(out / "eval.csv", ("task_id", "mu"), list(zip(ids, mu, strict=True))[120:])
    of = write_csv(out / "topics.csv", ("task_id", "topic"), zip(ids, topics, strict=True))
    pairs = [rng.choice(np.arange(120, 180), 2, replace=False) for _ in range(400)]
    choice = ["ab"[int(mu[b] + rng.logistic() > mu[a])] for a, b in pairs]
    rows = [(ids[a], ids[b], chosen) for (a, b), chosen in zip(pairs, choice, strict=True)]
    choices = write_csv(out / "choices.csv", ("task_a", "task_b", "choice"), rows)

    tables = ("--features", features, "--utilities", train, "--eval-utilities", test, "--topics", of)
    prefprobe("probe", *tables, "--choices", choices, "--out", out / "probe")
    prefprobe("hoo", *tables, "--out", out / "hoo")
    prefprobe("score", out / "probe", "--features", features, "--out", out / "scores.csv")

    # what system prompts changed: Δp in choices, Δs in the probe's score
    points = [
        ("likes", f"you love {topic}", ids[i], topics[i] == topic, dp, dp * 2 + rng.normal(0, 0.1))
        for topic in TOPICS
        for i in range(12)
        for dp in [0.3 * (topics[i] == topic) + rng.normal(0, 0.05)]
    ]
    header = ("experiment", "prompt", "task", "on_target", "dp", "ds")
    prefprobe("shift-stats", write_csv(out / "points.csv", header, points), "--out", out / "shift.json")
    found = json.loads((out / "shift.json").read_text())["experiments"]["likes"]
    print(f"r over {found['n']} points: {found['pearson']:.2f} [{found['low']:.2f}, {found['high']:.2f}]")


if __name__ == "__main__":
    main()
