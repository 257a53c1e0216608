"""The nearest centroid, on vectors that are planted."""

from collections.abc import Sequence

import numpy as np
import pytest

from prefprobe.errors import BadConfig
from prefprobe.topics.judged import judge_tasks
from prefprobe.topics.nearest import NearestJudge, centroids, cross_validated
from prefprobe.topics.taxonomy import Taxonomy

NAMES = ("red", "blue", "green")
OWN = Taxonomy.model_validate(
    {
        "name": "own",
        "version": 1,
        "labels": [{"name": n, "description": f"All {n}.", "boundary": "None."} for n in (*NAMES, "other")],
    }
)


def embed(texts: Sequence[str]) -> np.ndarray:
    """A direction for each colour that a text names, and noise that follows from the text."""
    rows = []
    for text in texts:
        noise = np.random.default_rng(sum(text.encode())).normal(size=8) * 0.1
        noise[: len(NAMES)] += [name in text for name in NAMES]
        rows.append(noise / np.linalg.norm(noise))
    return np.array(rows, dtype=np.float32)


TEXTS = {f"{name}{i}": f"A {name} thing, {i}." for name in NAMES for i in range(12)}


@pytest.mark.parametrize("examples", [[], [(text, id_.rstrip("0123456789")) for id_, text in TEXTS.items()]])
def test_the_nearest_label_is_said_and_never_other(examples: list[tuple[str, str]]) -> None:
    judge = NearestJudge(embed, OWN, examples=examples)
    rows = judge_tasks(judge, TEXTS).labels.to_pylist()
    assert all(row["id"].startswith(row["primary"]) for row in rows)
    assert {row["how"] for row in rows} == {"nearest"}
    assert all(row["secondary"] in NAMES and row["secondary"] != row["primary"] for row in rows)
    assert judge.about["last_resort"] is True
    assert judge.about["cross_validated_accuracy"] == (1.0 if examples else None)


def test_cross_validation_is_leave_one_out_where_labels_have_few_examples_and_chance_where_there_is_nothing() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(24, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = [NAMES[i % 3] for i in range(24)]
    right = 0
    for i in range(24):
        keep = np.arange(24) != i
        means = centroids(vectors[keep], [label for k, label in enumerate(labels) if k != i], NAMES)
        right += NAMES[int((vectors[i] @ means.T).argmax())] == labels[i]
    folds = cross_validated(vectors, labels, NAMES)
    assert folds is not None
    assert abs(folds - right / 24) < 0.3
    assert folds < 0.7  # nothing is planted: in-sample it would be far higher
    fitted = centroids(vectors, labels, NAMES)
    in_sample = np.mean([NAMES[k] == label for k, label in zip((vectors @ fitted.T).argmax(1), labels, strict=True)])
    assert in_sample > folds
    assert cross_validated(vectors[:3], labels[:3], NAMES) is None


def test_a_label_without_an_example_is_named() -> None:
    with pytest.raises(BadConfig, match="no example of green; add a task of each"):
        NearestJudge(embed, OWN, examples=[("A red thing.", "red"), ("A blue thing.", "blue")])
