"""Utilities under a prompt: planted truth, an independent optimiser, saturation, and the order of rows."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.optimize import minimize
from scipy.special import log_ndtr, logit, ndtr

from prefprobe.errors import BadConfig
from prefprobe.shift.experiments import Experiment, ShiftPrompt, ShiftTask, refitted_prompts
from prefprobe.shift.refitted import modes, refitted_shift, refitted_statistics, with_dmu

BASE = "baseline"
MU = {"t-1": (-0.5, 1.0), "t-2": (0.3, 0.3), "t-3": (0.0, -2.0)}
"""Of each task under the baseline and under the prompt."""


def comparisons(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return {f"c-{i:02}": (float(rng.normal()), float(np.exp(0.3 * rng.normal()))) for i in range(n)}


def exact(truth=MU, known=None, sigma=1.0, bias=0.0):
    """A choice in both orders of each task against each comparison, read off the truth, with a position bias."""
    rows = []
    for task, mus in truth.items():
        for prompt, mu in zip((BASE, "p"), mus, strict=True):
            for c, (mu_c, sigma_c) in (known or comparisons()).items():
                p = ndtr((mu - mu_c) / np.hypot(sigma, sigma_c))
                rows += [(prompt, task, c, logit(p) + bias), (prompt, c, task, -logit(p) + bias)]
    return rows


def table(rows):
    names = ("prompt_id", "task_a", "task_b", "logit")
    found = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    return found.append_column("outcome", pa.array(["exact"] * len(rows)))


def sampled(rows):
    names = ("prompt_id", "task_a", "task_b", "outcome")
    found = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    p_a = [{"a": 1.0, "b": 0.0}.get(row[3]) for row in rows]
    return found.append_column("p_a", pa.array(p_a, pa.float64()))


def shift(choices, known=None, prompts=("p",)):
    return refitted_shift(choices, BASE, known or comparisons(), prompts)


def test_planted_utilities_are_recovered_whatever_the_position_bias():
    """To what the priors on μ and σ take of them."""
    for bias in (0.0, 1.5):
        found = shift(table(exact(bias=bias))).to_pylist()
        assert [(r["prompt_id"], r["task_id"]) for r in found] == [("p", task) for task in MU]
        for row, (before, after) in zip(found, MU.values(), strict=True):
            assert row["mu_baseline"] == pytest.approx(before, abs=0.03)
            assert row["mu_prompt"] == pytest.approx(after, abs=0.03)
            assert row["dmu"] == row["mu_prompt"] - row["mu_baseline"]


def test_sampled_answers_recover_them_within_their_noise():
    rng = np.random.default_rng(1)
    rows = [(p, a, b, "ab"[int(rng.random() > 1 / (1 + np.exp(-x)))]) for p, a, b, x in exact() for _ in range(8)]
    for row in shift(sampled(rows)).to_pylist():
        before, after = MU[row["task_id"]]
        assert row["dmu"] == pytest.approx(after - before, abs=0.4)
    refused = [(p, a, b, "refusal") for p, a, b, _ in rows[:50]]
    assert shift(sampled(rows + refused)).equals(shift(sampled(rows)))


@pytest.mark.parametrize("seed", range(4))
def test_the_mode_is_that_of_an_independent_optimiser(seed):
    rng = np.random.default_rng(seed)
    n, k = 6, 12
    mu_c, sigma_c = rng.normal(size=n * k), np.exp(0.4 * rng.normal(size=n * k))
    count, of = rng.integers(1, 5, size=n * k).astype(float), np.repeat(np.arange(n), k)
    wins = count * rng.choice([0.0, 0.2, 0.5, 1.0], size=n * k)
    mu, log_sigma = modes(of, mu_c, sigma_c, wins, count - wins, n)

    def objective(theta, t):
        mine = of == t
        z = (theta[0] - mu_c[mine]) / np.sqrt(np.exp(2 * theta[1]) + sigma_c[mine] ** 2)
        fit = wins[mine] * log_ndtr(z) + (count - wins)[mine] * log_ndtr(-z)
        return -fit.sum() + theta[0] ** 2 / 200 + theta[1] ** 2

    for t in range(n):
        best = minimize(
            objective, np.zeros(2), args=(t,), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}
        )
        assert (mu[t], log_sigma[t]) == pytest.approx(tuple(best.x), abs=1e-5)


def test_what_always_wins_has_a_finite_utility_above_all_and_more_so_with_more_choices():
    known = comparisons(10)
    top = max(mu for mu, _ in known.values())

    def always(times):
        rows = [(p, *pair, 600.0 if pair[0] == "t" else -600.0)
                for p in (BASE, "p") for c in known for pair in (("t", c), (c, "t")) for _ in range(times)]  # fmt: skip
        (row,) = shift(table(rows), known).to_pylist()
        return row

    one, five = always(1), always(5)
    assert one["dmu"] == five["dmu"] == 0.0
    assert top < one["mu_prompt"] < five["mu_prompt"] < 30


def test_saturated_shifts_are_told_apart_where_probabilities_are_not():
    """From .999 to .99999 is nothing in Δp, and a rise in utility, though ten pairs leave most of it to the priors."""
    known = {f"c-{i}": (float(i) / 10, 1.0) for i in range(10)}
    (row,) = shift(table(exact({"t": (5.0, 7.0)}, known)), known).to_pylist()
    assert 0.2 < row["dmu"] < 2.0
    before, after = (np.mean([ndtr((mu - c) / np.sqrt(2)) for c, _ in known.values()]) for mu in (5.0, 7.0))
    assert after - before < 0.002


def test_no_number_depends_on_the_order_of_rows():
    rows = exact(bias=0.4)
    turned = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    for a, b in zip(shift(table(turned)).to_pylist(), shift(table(rows)).to_pylist(), strict=True):
        assert a["dmu"] == pytest.approx(b["dmu"], abs=1e-9)


def test_prompts_that_are_not_named_are_left_out():
    rows = exact() + [("q", *row[1:]) for row in exact() if row[0] == "p"]
    assert set(shift(table(rows), prompts={"q"}).column("prompt_id").to_pylist()) == {"q"}
    assert shift(table(rows), prompts=()).num_rows == 0
    assert shift(table(rows), prompts=("p", "q")).num_rows == 6


def test_bad_rows_are_named():
    rows = exact()
    with pytest.raises(BadConfig, match=r"choice t-1 \| t-2: expected a task and a comparison task"):
        shift(table([*rows, ("p", "t-1", "t-2", 0.0)]))
    with pytest.raises(BadConfig, match="logit = nan, expected a finite number"):
        shift(table([*rows, ("p", "t-1", "c-00", np.nan)]))
    with pytest.raises(BadConfig, match=r"comparison task c-00 has μ = nan and σ = 1\.0"):
        shift(table(rows), comparisons() | {"c-00": (np.nan, 1.0)})


def test_what_drew_refusals_alone_is_left_out():
    for prompt in (BASE, "p"):
        rows = [(p, a, b, "refusal" if p == prompt and "t-1" in (a, b) else "a") for p, a, b, _ in exact()]
        assert shift(sampled(rows)).column("task_id").to_pylist() == ["t-2", "t-3"]


def test_kinds_of_choices_are_not_mixed():
    both = sampled([("p", "t-1", "c-01", "exact"), ("p", "c-01", "t-1", "a")])
    with pytest.raises(BadConfig, match="some choices are exact and some sampled"):
        shift(both)


def test_names_of_prompts_and_of_experiments():
    prompts = tuple(ShiftPrompt(id=f"p-{i}", text="You.", targets={"a": 1}) for i in range(3))
    tasks = (ShiftTask(id="t", text="Do.", topic="a", labels=("a",)),)
    both = [Experiment("one", prompts[:2], tasks), Experiment("two", prompts[2:], tasks)]
    assert refitted_prompts(["one"], both) == {"p-0", "p-1"}
    assert refitted_prompts(["p-1", "two"], both) == {"p-1", "p-2"}
    assert refitted_prompts([], both) == set()
    with pytest.raises(BadConfig, match=r"^shift\.refitted: 'three' is neither .* experiments one, two, or a prompt"):
        refitted_prompts(["one", "three"], both)


def test_correlations_are_of_on_target_points_that_were_refitted():
    refitted = shift(table(exact()))
    ds = {"t-1": 1.0, "t-2": 0.1, "t-3": -2.0, "t-4": 9.0}
    rows = [
        {"experiment": "e", "prompt_id": p, "task_id": t, "on_target": t != "t-2" or p == "p", "ds": ds[t]}
        for p in ("p", "q")
        for t in ds
    ]
    points = with_dmu(pa.Table.from_pylist(rows), refitted)
    assert [row["dmu"] is None for row in points.to_pylist()] == [False] * 3 + [True] * 5
    found = refitted_statistics(points)
    dmu = refitted.column("dmu").to_numpy()
    r = np.corrcoef(dmu, [1.0, 0.1, -2.0])[0, 1]
    assert found == {"e": {"pearson": pytest.approx(r), "spearman": pytest.approx(1.0), "n": 3}}
    nothing = with_dmu(pa.Table.from_pylist(rows), refitted.slice(0, 0))
    assert refitted_statistics(nothing) == {}
