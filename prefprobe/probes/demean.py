"""Taking out of the utilities what their topics alone explain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TopicMeans:
    """Ordinary least squares of utilities on topic indicators, whose fitted values are the topics' means."""

    means: dict[str, float]
    """Mean of y for each topic seen in the fit."""
    grand: float
    """Mean of y over all rows of the fit: what is taken off where the fit did not see the topic."""

    @classmethod
    def fit(cls, y: Floats, topics: Sequence[str] | npt.NDArray[np.str_]) -> Self:
        """Fit on y (n,) and the topic of each row (n,)."""
        names, of = np.unique(np.asarray(topics), return_inverse=True)
        means = np.bincount(of, y) / np.bincount(of)
        return cls(dict(zip(names.tolist(), means.tolist(), strict=True)), float(y.mean()))

    def residual(self, y: Floats, topics: Sequence[str] | npt.NDArray[np.str_]) -> Floats:
        """What is left of y (n,) without its topic's mean; the grand mean stands in for a topic not seen in the fit."""
        return np.asarray(y - np.array([self.means.get(str(topic), self.grand) for topic in topics]))
