"""The last resort of a judge: a sentence encoder, by which a text is of the topic whose embedding is nearest.

It reads subjects and not what is asked for, so that it is worse than a model that reads the labels.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prefprobe.choices.engine import Answer, Save
from prefprobe.errors import BadConfig
from prefprobe.store.formats import json_bytes, read_json
from prefprobe.store.keys import canonical_json
from prefprobe.tasks.topics import OTHER
from prefprobe.topics.judged import Asked
from prefprobe.topics.reading import Reading
from prefprobe.topics.taxonomy import Taxonomy

Vectors = npt.NDArray[np.float64]
Embed = Callable[[Sequence[str]], npt.NDArray[np.floating[Any]]]
"""Texts to vectors (n, d) of unit length."""

_PART = 500
_FOLDS = 10


class NearestJudge:
    """Says of a text the label whose centroid has the highest cosine with its embedding; never `other`, which has no subject.

    `examples` (text, label) give centroids as means of their embeddings, and how often that is right; without any the
    labels' descriptions are embedded. `name` and `revision` are the encoder's. Raises BadConfig for a label without examples.
    """

    asks_again = False

    def __init__(
        self,
        embed: Embed,
        taxonomy: Taxonomy,
        *,
        name: str = "encoder",
        revision: str = "",
        examples: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._embed = embed
        self._names = [label.name for label in taxonomy.labels if label.name != OTHER]
        self.name = f"the nearest {'examples' if examples else 'description'} by {name}"
        self._accuracy: float | None = None
        self._n = 0
        if examples:
            known = [(text, label) for text, label in examples if label in self._names]
            missing = sorted(set(self._names) - {label for _, label in known})
            if missing:
                raise BadConfig(
                    f"topics: there is no example of {', '.join(missing)}; add a task of each, or leave `examples` out."
                )
            vectors, labels = (
                np.asarray(embed([text for text, _ in known]), dtype=np.float64),
                [label for _, label in known],
            )
            self._centroids = centroids(vectors, labels, self._names)
            self._accuracy, self._n = cross_validated(vectors, labels, self._names), len(known)
        else:
            described = [f"{label.words}: {label.description}" for label in taxonomy.labels if label.name != OTHER]
            self._centroids = np.asarray(embed(described), dtype=np.float64)
        self.identity = {
            "engine": "nearest",
            "encoder": revision,
            "taxonomy": taxonomy.model_dump(mode="json"),
            "examples": hashlib.sha256(canonical_json([list(pair) for pair in examples])).hexdigest()
            if examples
            else None,
        }

    @property
    def about(self) -> Mapping[str, Any]:
        """See `Judge.about`."""
        return {"last_resort": True, "examples": self._n, "cross_validated_accuracy": self._accuracy}

    def question(self, text: str, *, plainly: bool = False) -> Asked:
        """See `Judge.question`."""
        return Asked(hashlib.sha256(canonical_json([dict(self.identity), text])).hexdigest()[:32], text, plainly)

    def answer(self, questions: Sequence[Asked], save: Save) -> None:
        """See `Judge.answer`."""
        for start in range(0, len(questions), _PART):
            part = questions[start : start + _PART]
            cosines = np.asarray(self._embed([q.text for q in part]), dtype=np.float64) @ self._centroids.T
            save(
                [
                    Answer(q.id, json_bytes(np.round(row, 6).tolist()).decode())
                    for q, row in zip(part, cosines, strict=True)
                ]
            )

    def read(self, answer: Answer) -> Reading:
        """The nearest label and the next one; a cosine is no probability, so that there is no confidence."""
        cosines = np.array(read_json(answer.raw.encode()))
        best, *others = np.argsort(-cosines, kind="stable")
        return Reading(self._names[best], self._names[others[0]] if others else None, None, "nearest")


def centroids(vectors: Vectors, labels: Sequence[str], names: Sequence[str]) -> Vectors:
    """(k, d) the means of each label's vectors (n, d), brought to unit length."""
    of = np.array(labels)
    means = np.stack([vectors[of == name].mean(0) for name in names])
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True))


def cross_validated(vectors: Vectors, labels: Sequence[str], names: Sequence[str]) -> float | None:
    """The share of examples that are nearest to their own label's centroid, of examples of the other folds alone.

    Folds are dealt out within each label, in the order that the examples have. None if a label has one example only.
    """
    of = np.array(labels)
    fold = np.empty(len(of), dtype=int)
    for name in names:
        mine = np.flatnonzero(of == name)
        fold[mine] = np.arange(len(mine)) % _FOLDS
    if min((of == name).sum() for name in names) < 2:
        return None
    right = 0
    for k in range(_FOLDS):
        held = fold == k
        means = centroids(vectors[~held], of[~held].tolist(), names)
        right += int((np.array(names)[(vectors[held] @ means.T).argmax(1)] == of[held]).sum())
    return right / len(of)
