"""Merging small topics, of which no fold could be made."""

from collections import Counter
from collections.abc import Iterable, Mapping

OTHER = "other"
"""The topic of what was merged; tasks that are called so already are in it too."""


def merged(topics: Mapping[str, str], train: Iterable[str], min_tasks: int) -> tuple[dict[str, str], dict[str, int]]:
    """`topics` (task id → topic) with those of fewer than `min_tasks` train tasks called OTHER, and {merged: train tasks}.

    Tasks of the ids in `train` are counted, those of eval follow. 1 merges nothing.
    """
    in_train = Counter(topics[id_] for id_ in train)
    small = {t: in_train[t] for t in sorted(set(topics.values())) if 1 < min_tasks > in_train[t] and t != OTHER}
    return {id_: OTHER if topic in small else topic for id_, topic in topics.items()}, small
