from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.shift.behaviour import MIDDLE, behavioural_shift, comparison_tasks

BASE = "baseline"
COMPARISONS = ["c-1", "c-2", "c-3"]
COLUMNS = ["prompt_id", "task_a", "task_b", "logit"]


def rows(prompts=("p-1", "p-2", BASE), tasks=("t-1", "t-2"), seed=0, repeats=1):
    """[prompt, task shown first, task shown second, logit] for every cell in both orders."""
    rng = np.random.default_rng(seed)
    pairs = [(p, *pair) for p in prompts for t in tasks for c in COMPARISONS for pair in ((t, c), (c, t))]
    return [[*pair, rng.normal()] for pair in pairs for _ in range(repeats)]


def shift(choices, comparisons=COMPARISONS):
    table = pa.table({name: [row[i] for row in choices] for i, name in enumerate(COLUMNS)})
    table = table.append_column("outcome", pa.array(["exact"] * len(choices)))
    return behavioural_shift(table, BASE, comparisons)


def sampled(choices):
    """Rows [prompt, first, second, outcome] of sampled answers."""
    table = pa.table({name: [row[i] for row in choices] for i, name in enumerate([*COLUMNS[:3], "outcome"])})
    p_a = pa.array([{"a": 1.0, "b": 0.0}.get(row[3]) for row in choices], pa.float64())
    return behavioural_shift(table.append_column("p_a", p_a), BASE, COMPARISONS).to_pylist()


def by_hand(choices, prompt, task):
    """p of every comparison under prompt and baseline, straight from the definition."""

    def p(prompt_id, c):
        first = [r[3] for r in choices if r[:3] == [prompt_id, task, c]]
        second = [-r[3] for r in choices if r[:3] == [prompt_id, c, task]]
        return 1 / (1 + np.exp(-(np.mean(first) + np.mean(second)) / 2))

    return tuple(np.array([p(which, c) for c in COMPARISONS]) for which in (prompt, BASE))


@pytest.mark.parametrize("repeats", [1, 3])
def test_is_the_definition(repeats):
    choices = rows(repeats=repeats)
    found = shift(choices).to_pylist()
    assert [(r["prompt_id"], r["task_id"]) for r in found] == [(p, t) for p in ("p-1", "p-2") for t in ("t-1", "t-2")]
    for row in found:
        p, base = by_hand(choices, row["prompt_id"], row["task_id"])
        assert row["n"] == 3
        assert row["p_prompt"] == pytest.approx(p.mean())
        assert row["p_baseline"] == pytest.approx(base.mean())
        assert row["dp"] == pytest.approx((p - base).mean())
        assert row["dp_se"] == pytest.approx(np.std(p - base, ddof=1) / np.sqrt(3))


def test_orders_weigh_the_same_however_often_each_was_asked():
    choices = rows()
    # position bias of +2 in all, and the order in which it favours the task asked five times
    biased = [[p, a, b, x + 2] for p, a, b, x in choices]
    uneven = biased + 4 * [r for r in biased if r[1].startswith("t")]
    for column in ("p_prompt", "dp", "dp_se"):
        assert shift(uneven).column(column).to_pylist() == pytest.approx(shift(choices).column(column).to_pylist())


def test_schema():
    assert shift(rows()).schema == pa.schema(
        [
            *(("prompt_id", pa.string()), ("task_id", pa.string()), ("n", pa.int32())),
            *((name, pa.float64()) for name in ("p_baseline", "p_prompt", "dp", "dp_se")),
        ]
    )


def test_a_prompt_like_the_baseline_shifts_nothing():
    choices = rows(prompts=[BASE])
    found = shift(choices + [["same", *r[1:]] for r in choices])
    assert found.column("prompt_id").to_pylist() == ["same", "same"]
    assert found.column("dp").to_pylist() == [0.0, 0.0]
    assert found.column("dp_se").to_pylist() == [0.0, 0.0]


@settings(deadline=None, max_examples=30)
@given(st.randoms(use_true_random=False))
def test_no_bit_depends_on_the_order_of_rows_or_comparisons(random):
    choices = rows(repeats=4)
    expected = shift(choices)
    random.shuffle(choices)
    assert shift(choices, random.sample(COMPARISONS, 3)).equals(expected)


def test_experiments_may_have_different_tasks():
    """A task is wanted only under the prompts that have it, and a baseline alone makes no row."""
    found = shift(rows(["p-1", BASE], ["t-1"]) + rows(["p-2", BASE], ["t-2"]) + rows([BASE], ["t-3"]))
    assert [(r["prompt_id"], r["task_id"]) for r in found.to_pylist()] == [("p-1", "t-1"), ("p-2", "t-2")]
    assert shift(rows([BASE])).num_rows == 0


def test_extreme_logits_are_certain_choices():
    choices = [[p, a, b, (900.0 if p == "p-1" else -900.0) * (1 if a == "t-1" else -1)] for p, a, b, _ in rows()]
    row = shift(choices).to_pylist()[0]
    assert (row["p_prompt"], row["p_baseline"], row["dp"], row["dp_se"]) == (1.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (("p-1", "t-2", "c-3"), "task t-2 against c-3 under prompt p-1 with the task shown first"),
        (("p-1", "c-3", "t-2"), "task t-2 against c-3 under prompt p-1 with the task shown second"),
        ((BASE, "c-1", "t-1"), "task t-1 against c-1 under prompt baseline with the task shown second"),
    ],
)
def test_a_gap_is_named(gone, said):
    with pytest.raises(InputMissing, match=said) as raised:
        shift([r for r in rows() if tuple(r[:3]) != gone])
    assert "(1 such gaps)" in str(raised.value)


def test_a_baseline_that_was_never_measured_is_named():
    with pytest.raises(InputMissing, match=r"under prompt baseline .*\(12 such gaps\)"):
        shift(rows(prompts=["p-1", "p-2"]))
    with pytest.raises(InputMissing, match="task t-9 against c-1 under prompt baseline"):
        shift(rows() + rows(["p-1"], ["t-9"]))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["p-1", "t-1", "t-2", 0.0], "t-1 | t-2 under prompt p-1: neither task is a comparison"),
        (["p-1", "c-1", "c-2", 0.0], "c-1 | c-2 under prompt p-1: both tasks are comparisons"),
        (["p-1", "t-1", "c-2", np.nan], "t-1 | c-2 under prompt p-1: the logit is nan"),
        (["p-1", "t-1", "c-2", np.inf], "the logit is inf"),
        (["p-1", "t-1", "c-2", None], "the logit is nan"),
    ],
)
def test_bad_rows_are_named(row, said):
    with pytest.raises(BadConfig) as raised:
        shift([*rows(), row])
    assert said in str(raised.value)


@pytest.mark.parametrize("comparisons", [[], ["c-1"], ["c-1", "c-2", "c-2"]])
def test_an_error_takes_two_different_comparisons(comparisons):
    with pytest.raises(BadConfig, match="expected 2 or more, each named once"):
        shift(rows(), comparisons)


def pool(n=240, topics=12, seed=0):
    rng = np.random.default_rng(seed)
    ids = [f"task-{i:03d}" for i in range(n)]
    mu = dict(zip(ids, (3 * rng.standard_t(3, size=n)).tolist(), strict=True))
    return mu, {id_: f"topic-{i % topics}" for i, id_ in enumerate(ids)}


def ranks(mu):
    return {id_: (i + 0.5) / len(mu) for i, id_ in enumerate(sorted(mu, key=mu.__getitem__))}


@pytest.mark.parametrize("n", [2, 4, 6, 12, 30, 50])
@pytest.mark.parametrize("seed", [0, 1])
def test_comparisons_are_spread_over_utilities_and_topics(n, seed):
    mu, topics = pool()
    chosen = comparison_tasks(mu, topics, n, seed)
    assert len(set(chosen)) == n
    assert chosen == sorted(chosen)
    counts = Counter(topics[id_] for id_ in chosen)
    by_topic = [counts[topic] for topic in sorted(set(topics.values()))]
    assert max(by_topic) - min(by_topic) <= 1
    rank = np.sort([ranks(mu)[id_] for id_ in chosen])
    assert MIDDLE[0] <= rank.min()
    assert rank.max() <= MIDDLE[1]
    # one in each n-th of the middle, give or take what a topic has to offer there
    steps = (rank - 0.1) / 0.8 * n - np.arange(n)
    assert steps.min() > -0.75
    assert steps.max() < 1.75


def test_comparisons_depend_on_values_and_seed_alone():
    mu, topics = pool()
    chosen = comparison_tasks(mu, topics, 6, 3)
    backwards = dict(reversed(mu.items())), dict(reversed(topics.items()))
    assert comparison_tasks(*backwards, 6, 3) == chosen
    assert comparison_tasks({i: 5 * m - 7 for i, m in mu.items()}, topics | {"other": "x"}, 6, 3) == chosen
    assert len({tuple(comparison_tasks(mu, topics, 6, seed)) for seed in range(6)}) == 6
    one_topic = dict.fromkeys(mu, "x")
    assert len({tuple(comparison_tasks(mu, one_topic, 6, seed)) for seed in range(6)}) == 6  # a random start


def test_ties_in_utility_are_broken_by_id():
    mu, topics = {f"t{i:02d}": 0.0 for i in range(20)}, {f"t{i:02d}": "x" for i in range(20)}
    assert comparison_tasks(mu, topics, 4, 0) == comparison_tasks(dict(reversed(mu.items())), topics, 4, 0)


def test_a_small_topic_gives_what_it_has():
    mu, topics = pool(60, 3)
    rank = ranks(mu)
    in_middle = [id_ for id_ in mu if topics[id_] == "topic-0" and 0.1 <= rank[id_] <= 0.9]
    topics |= dict.fromkeys(in_middle[1:], "topic-1")
    counts = Counter(topics[id_] for id_ in comparison_tasks(mu, topics, 11, 0))
    assert counts == {"topic-0": 1, "topic-1": 5, "topic-2": 5}


def test_all_of_the_middle_can_be_taken_and_no_more():
    mu, topics = pool(20, 2)
    assert comparison_tasks(mu, topics, 16, 0) == sorted(id_ for id_, r in ranks(mu).items() if 0.1 <= r <= 0.9)
    for n in (17, 0):
        with pytest.raises(BadConfig, match=f"{n} comparison tasks were asked for, and 16 train tasks"):
            comparison_tasks(mu, topics, n, 0)
    with pytest.raises(BadConfig, match="and 0 train tasks"):
        comparison_tasks({}, {}, 1, 0)


def test_bad_utilities_and_topics_are_named():
    mu, topics = pool(20, 2)
    with pytest.raises(BadConfig, match="task-003 is not a finite"):
        comparison_tasks(mu | {"task-003": np.nan}, topics, 4, 0)
    with pytest.raises(InputMissing, match="task-005 has a utility and no topic"):
        comparison_tasks(mu, {id_: t for id_, t in topics.items() if id_ != "task-005"}, 4, 0)


def test_probability_is_of_the_mean_logit_not_the_mean_of_probabilities():
    """With logits of +3 and -1 the debiased one is +1."""
    choices = [[p, a, b, {BASE: 0.0}.get(p, 3.0 if a == "t-1" else 1.0)] for p, a, b, _ in rows(["p-1", BASE], ["t-1"])]
    assert shift(choices).column("p_prompt").to_pylist() == pytest.approx([expit(1.0)])


def test_sampled_answers_give_shares_with_both_orders_alike():
    # under p-1 t-1 is always chosen, under the baseline whatever stands first is
    shown = [(p, a, b) for p, a, b, _ in rows(["p-1", BASE], ["t-1"])]
    choices = [[p, a, b, "a" if p == BASE or a == "t-1" else "b"] for p, a, b in shown]
    (row,) = sampled(choices)
    assert (row["p_baseline"], row["p_prompt"], row["dp"], row["dp_se"], row["n"]) == (0.5, 1.0, 0.5, 0.0, 3)
    uneven = choices + 3 * [row for row in choices if row[1] == "t-1"]
    assert sampled(uneven) == [row]


def test_a_refusal_is_a_choice_of_neither():
    shown = [(p, a, b) for p, a, b, _ in rows(["p-1", BASE], ["t-1"])]
    choices = [[p, a, b, "a" if a == "t-1" else "b"] for p, a, b in shown]
    refused = [[*row[:3], "refusal"] if row[:3] == ["p-1", "t-1", "c-2"] else row for row in choices]
    (row,) = sampled(refused)
    assert (row["n"], row["p_prompt"], row["dp"]) == (2, 1.0, 0.0)  # c-2 is left out on both sides
    answered_once = [*refused, ["p-1", "t-1", "c-2", "a"]]
    assert sampled(answered_once)[0]["n"] == 3
    (row,) = sampled([[*row[:3], "refusal"] if row[0] == "p-1" else row for row in choices])
    assert (row["n"], row["dp"], row["p_prompt"]) == (0, None, None)


def test_exact_and_sampled_choices_are_not_mixed():
    choices = rows()
    table = pa.table({name: [row[i] for row in choices] for i, name in enumerate(COLUMNS)})
    outcome = pa.array(["a"] + ["exact"] * (len(choices) - 1))
    with pytest.raises(BadConfig, match="some choices are exact and some sampled"):
        behavioural_shift(table.append_column("outcome", outcome), BASE, COMPARISONS)
