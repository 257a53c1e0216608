import numpy as np
import pytest

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.probes.aligned import align


def inputs(**changes):
    given = {
        "layers": {4: np.arange(10.0).reshape(5, 2)},
        "task_ids": np.array(["e", "b", "x", "a", "d"]),
        "train": {"d": 4.0, "b": 2.0},
        "eval_": {"e": 5.0, "a": 1.0},
        "topics": {"a": "math", "b": "prose", "d": "math", "e": "prose"},
    }
    return given | changes


def test_sets_are_sorted_and_point_at_their_rows():
    train, evaluation = align(**inputs())
    assert train.ids.tolist() == ["b", "d"]
    assert train.mu.tolist() == [2, 4]
    assert train.topics.tolist() == ["prose", "math"]
    assert train.rows.tolist() == [1, 4]
    assert evaluation.ids.tolist() == ["a", "e"]
    assert evaluation.rows.tolist() == [3, 0]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"eval_": {"e": 5.0, "b": 2.0}}, BadConfig, "task b is in train and in eval"),
        ({"train": {"d": 4.0, "ghost": 2.0}}, InputMissing, "train task ghost has no features"),
        ({"eval_": {"a": 4.0, "ghost": 2.0}}, InputMissing, "eval task ghost has no features"),
        ({"topics": {"a": "math", "d": "math", "e": "prose"}}, InputMissing, "train task b has no topic"),
        ({"topics": {"a": None, "b": "math", "d": "math", "e": "prose"}}, InputMissing, "eval task a has no topic"),
        ({"train": {"b": 4.0, "d": float("nan")}}, BadConfig, "utility of train task d"),
        ({"task_ids": np.array(["e", "b", "b", "a", "d"])}, BadConfig, "task b has two rows"),
        ({"task_ids": np.array(["e", "b", "a", "d"])}, BadConfig, "layer 4 has 5 rows for 4 task ids"),
        ({"layers": {}}, BadConfig, "not one layer"),
    ],
)
def test_inputs_that_do_not_fit_together_are_refused_by_name(changes, error, message):
    with pytest.raises(error, match=message):
        align(**inputs(**changes))
