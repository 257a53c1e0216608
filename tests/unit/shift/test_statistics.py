import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest
import scipy.stats

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.shift.cells import Cells
from prefprobe.shift.experiments import Experiment, ShiftPrompt, ShiftTask
from prefprobe.shift.jackknife import blocks_of, difference_interval, r_interval
from prefprobe.shift.permutation import Orders, permutation_p
from prefprobe.shift.points import NUMBERS, POINTS, shift_points
from prefprobe.shift.statistics import shift_statistics

BASE = "baseline"
FAST: dict[str, Any] = {"permutations": 200}
KINDS = ("on_target", "pooled", "centred", "corrected", "corrected_grid")


def table(dp, ds, on=None, name="e", noise=0.01, **columns):
    """Points of a full grid out of matrices (prompts, tasks), and of a neutral prompt that moves tasks by ± `noise`."""
    dp, ds = np.asarray(dp, dtype=float), np.asarray(ds, dtype=float)
    on = np.ones(dp.shape, dtype=bool) if on is None else on
    defaults = {"dp_se": np.full(dp.shape, 0.01), "intended": np.where(on, np.sign(dp), 0), "ds_encoder": None}
    columns = (
        defaults
        | {"dp": dp, "ds": ds, "on_target": on, "p_baseline": np.full(dp.shape, 0.5), "p_prompt": dp + 0.5}
        | columns
    )
    rows = [
        {"experiment": name, "prompt_id": f"p-{p:02d}", "task_id": f"t-{t:02d}", "n": 6, "neutral": False}
        | {key: None if of is None else np.asarray(of)[p, t].item() for key, of in columns.items()}
        for p, t in np.ndindex(dp.shape)
    ]
    still = {"prompt_id": "neutral-1", "neutral": True, "on_target": False, "intended": 0, "ds": 3 * (noise or 0.0)}
    still |= {"ds_encoder": None if columns["ds_encoder"] is None else 0.0}
    if noise is not None:
        rows += [r | still | {"dp": (-1) ** i * noise} for i, r in enumerate(rows[: dp.shape[1]])]
    return pa.Table.from_pylist([r | {"intended": int(r["intended"])} for r in rows], schema=POINTS)


def statistics(points, encoder=None, **options):
    (found,) = shift_statistics(points, encoder=encoder, **(FAST | options)).values()
    return found


def study(prompts=6, tasks=9, seed=0, noise=0.3):
    """Δs follows Δp, with effects of prompts and of tasks in both; a third of the cells is on target."""
    rng = np.random.default_rng(seed)
    on = (np.arange(prompts)[:, None] - np.arange(tasks)) % 3 == 0
    effects = [rng.normal(size=(prompts, 1)) + rng.normal(size=(1, tasks)) for _ in range(2)]
    dp = 0.02 * effects[0] + on * rng.choice([-0.2, 0.2], size=(prompts, 1)) + 0.02 * rng.normal(size=(prompts, tasks))
    ds = 4 * dp + 0.1 * effects[1] + noise * rng.normal(size=(prompts, tasks))
    return SimpleNamespace(dp=dp, ds=ds, on=on)


def within(m):
    return m - m.mean(axis=1, keepdims=True)


def corrected(m, on):
    return np.array([row - row[~of].mean() for row, of in zip(m, on, strict=True)])


class TestValues:
    def test_correlations_are_those_of_scipy(self):
        s = study()
        other = np.random.default_rng(1).normal(size=s.dp.shape)
        found = statistics(table(s.dp, s.ds, s.on, ds_encoder=other), "minilm")
        for block, score in ((found, s.ds), (found["encoder"], other)):
            for name, x, y in (
                ("on_target", s.dp[s.on], score[s.on]),
                ("pooled", s.dp.ravel(), score.ravel()),
                ("centred", within(s.dp).ravel(), within(score).ravel()),
                ("corrected", corrected(s.dp, s.on)[s.on], corrected(score, s.on)[s.on]),
                ("corrected_grid", corrected(s.dp, s.on).ravel(), corrected(score, s.on).ravel()),
            ):
                assert block[name]["pearson"]["value"] == pytest.approx(scipy.stats.pearsonr(x, y)[0])
                assert block[name]["spearman"] == pytest.approx(scipy.stats.spearmanr(x, y)[0])
                assert block[name]["n"] == len(x)
        assert found["encoder"]["name"] == "minilm"
        grids = (block["corrected_grid"]["pearson"]["value"] for block in (found, found["encoder"]))
        assert found["advantage"]["value"] == pytest.approx(next(grids) - next(grids))
        line = scipy.stats.linregress(s.dp[s.on], s.ds[s.on])
        assert found["fit"] == pytest.approx({"slope": line.slope, "intercept": line.intercept})

    def test_counts_and_effect(self):
        on = np.array([[True, True, False], [False, False, True]])
        dp, se = np.array([[0.3, -0.1, 0.0], [0.2, -0.4, 0.2]]), np.array([[0.03, 0.04, 0.5], [0.5, 0.5, 0.0]])
        found = statistics(table(dp, dp, on, dp_se=se, noise=0.05))
        assert [found[f"n_{of}"] for of in ("prompts", "tasks", "points", "on_target", "neutral")] == [2, 3, 6, 3, 1]
        assert found["effect"] == pytest.approx(
            {
                "rms_on_target": np.sqrt((0.09 + 0.01 + 0.04) / 3),
                "rms_off_target": np.sqrt((0 + 0.04 + 0.16) / 3),
                "max": 0.4,
                "noise": 0.05,
                "signal_to_noise": np.sqrt(0.14 / 3) / 0.05,
                "noise_ds": 0.15,
                "comparison_se": np.sqrt(0.0025 / 3),
            }
        )
        assert found["noise_from"] == "neutral prompts"

    def test_signs_are_compared_on_target_where_choices_moved(self):
        dp = np.array([[0.30, 0.02, -0.0199, -0.5, 0.4, 0.1]])
        ds = np.array([[1.0, -1.0, 5.0, -2.0, 0.0, 3.0]])
        aim = np.array([[1, -1, -1, 1, 0, 0]])
        on = np.array([[True, True, True, True, True, False]])
        found = statistics(table(dp, ds, on, intended=aim))
        # moved: .30 (agrees), .02 (not), -.5 (agrees), .4 (a score that stays is no agreement)
        assert found["sign_agreement"] == {"value": 0.5, "n": 4, "threshold": 0.02}
        assert found["intended_behaviour"] == {"value": pytest.approx(1 / 3), "n": 3}
        assert found["intended_probe"] == {"value": pytest.approx(2 / 3), "n": 3}

    def test_nothing_moved_leaves_no_share(self):
        found = statistics(table(np.full((3, 3), 0.01), np.ones((3, 3))))
        assert found["sign_agreement"] == {"value": None, "n": 0, "threshold": 0.02}
        assert found["intended_behaviour"] == found["intended_probe"] == {"value": None, "n": 0}

    def test_what_is_undefined_is_none_and_never_nan(self):
        nowhere = np.zeros((3, 4), dtype=bool)
        rng = np.random.default_rng(0)
        for points in (
            table(np.zeros((3, 4)), rng.normal(size=(3, 4)), noise=0.0),
            table(rng.normal(size=(3, 4)), np.ones((3, 4))),
            table(rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), nowhere),
            table([[0.1]], [[0.2]]),
        ):
            found = statistics(points)
            json.dumps(found, allow_nan=False)
            assert not found["estimable"]
            assert found["on_target"]["pearson"] is found["on_target"]["spearman"] is found["on_target"]["p"] is None
            assert found["fit"] == {"slope": None, "intercept": None}
        found = statistics(table(rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), nowhere, noise=None))
        assert found["effect"]["noise"] is found["effect"]["noise_ds"] is found["effect"]["comparison_se"] is None

    def test_shifts_of_whole_prompts_leave_nothing_to_centre(self):
        """Not even the rounding of their means, which would correlate."""
        whole = np.repeat(np.random.default_rng(0).normal(size=(6, 1)), 9, axis=1)
        s = study()
        for dp, ds in ((whole, 3 * whole + 0.1), (s.dp, whole), (whole, s.ds)):
            found = statistics(table(dp, ds))
            assert found["pooled"]["pearson"] is not None
            assert found["centred"] == {"pearson": None, "spearman": None, "p": None, "n": 54}

    def test_scores_that_oppose_choices_have_a_negative_r(self):
        s = study()
        found, mirrored = (statistics(table(s.dp, sign * s.ds, s.on)) for sign in (-1, 1))
        for name in ("on_target", "pooled", "centred"):
            one, two = found[name]["pearson"], mirrored[name]["pearson"]
            assert one["value"] == pytest.approx(-two["value"])
            assert [one["low"], one["high"]] == pytest.approx([-two["high"], -two["low"]])
        assert found["on_target"]["pearson"]["high"] < 0
        assert found["fit"]["slope"] < 0
        assert found["estimable"]
        assert found["sign_agreement"]["value"] < 0.5 < mirrored["sign_agreement"]["value"]

    def test_everything_is_plain_json(self):
        s = study()
        found = shift_statistics(table(s.dp, s.ds, s.on, ds_encoder=s.ds), encoder="x", **FAST)
        assert json.loads(json.dumps(found, allow_nan=False)) == found


class TestCorrected:
    def test_what_a_prompt_does_to_all_tasks_alike_is_no_part_of_it(self):
        s = study()
        alike = np.random.default_rng(1).normal(size=(2, len(s.dp), 1))
        one, two = (
            statistics(table(s.dp + a, s.ds + b, s.on, ds_encoder=s.dp + b), "x") for a, b in (alike, 0 * alike)
        )
        for key in ("corrected", "corrected_grid"):
            assert one[key]["pearson"] == pytest.approx(two[key]["pearson"])
            assert one[key]["p"] == two[key]["p"]
        assert one["advantage"] == pytest.approx(two["advantage"])
        assert one["pooled"]["pearson"]["value"] < two["pooled"]["pearson"]["value"] - 0.1

    def test_scores_of_valence_alone_have_none(self):
        """Every task's score moves as the prompt's own tasks do in choices."""
        s = study(12, 18)
        noise = 0.05 * np.random.default_rng(2).normal(size=s.dp.shape)
        found = statistics(table(s.dp, np.sign((s.dp * s.on).sum(axis=1, keepdims=True)) + noise, s.on))
        assert found["on_target"]["pearson"]["low"] > 0.8
        assert found["corrected"]["pearson"]["low"] < 0.2
        assert found["corrected"]["p"] > 0.05

    def test_scores_that_hear_what_an_encoder_hears_have_no_advantage(self):
        s = study(12, 18)
        one, two = 0.1 * np.random.default_rng(3).normal(size=(2, *s.dp.shape))
        found = statistics(table(s.dp, s.dp + one, s.on, ds_encoder=s.dp + two), "x")
        assert found["corrected"]["pearson"]["low"] > 0.2
        assert found["corrected"]["p"] < 0.05
        assert found["advantage"]["low"] < 0 < found["advantage"]["high"]
        better = statistics(table(s.dp, s.dp + one, s.on, ds_encoder=two), "x")
        assert better["advantage"]["low"] > 0

    def test_without_off_target_points_there_is_none_and_a_reason(self):
        s = study()
        every, some = np.ones_like(s.on), s.on.copy()
        some[2] = True
        for on, said in (
            (every, "6 of 6 prompts, such as p-00, have no off-target point"),
            (some, "1 of 6 prompts, such as p-02, have no off-target point"),
            (~every, "No point is on target."),
        ):
            found = statistics(table(s.dp, s.ds, on, ds_encoder=s.ds), "x")
            assert found["why_not_corrected"].startswith(said)
            assert found["corrected"] is found["corrected_grid"] is found["advantage"] is None
            assert found["encoder"]["corrected"] is None
        found = statistics(table(s.dp, s.ds, s.on))
        assert found["why_not_corrected"] is found["advantage"] is None  # no encoder
        assert found["corrected"]["n"] == s.on.sum()

    def test_scores_without_variance_have_no_advantage(self):
        s = study()
        found = statistics(table(s.dp, s.ds, s.on, ds_encoder=np.ones_like(s.ds)), "x")
        assert found["encoder"]["corrected"]["pearson"] is found["advantage"] is None


class TestEstimable:
    @pytest.mark.parametrize(
        ("size", "noise", "expected", "said"),
        [
            (0.1, 0.01, True, "0.1 over 12 points, 10 times that of neutral prompts (0.01), so it stands above"),
            (0.1, 0.06, False, "1.7 times that of neutral prompts (0.06); to stand above"),
            (0.019, 0.001, False, "it needs 0.02 and 2 times"),
            (0.1, 0.0, True, "and that of neutral prompts is 0, so"),
            (0.1, None, False, "but no neutral prompt has a Δp, so the model's own noise was not measured"),
        ],
    )
    def test_the_shift_stands_above_noise_and_above_a_floor(self, size, noise, expected, said):
        dp = size * np.tile([1.0, -1.0], (3, 2))
        found = statistics(table(dp, dp + 0.01 * np.arange(4), noise=noise, dp_se=np.full(dp.shape, 9.0)))
        assert found["estimable"] is expected
        assert said in found["why"]
        assert found["why"].endswith(".")
        assert found["on_target"]["pearson"]["value"] > 0.5  # shown all the same
        assert found["on_target"]["p"] is not None

    def test_what_is_just_enough(self):
        dp = 0.25 * np.tile([1.0, -1.0], (3, 2))  # powers of 2: the ratio is 2 to the bit
        ds = dp + 0.01 * np.arange(4)
        assert statistics(table(dp, ds, noise=0.125))["estimable"]
        assert not statistics(table(dp, ds, noise=0.126))["estimable"]
        for size, expected in ((0.0201, True), (0.0199, False)):
            assert statistics(table(dp / 0.25 * size, ds, noise=0.0))["estimable"] is expected
        four, three = (np.arange(12).reshape(3, 4) % 3 == 0, np.arange(12).reshape(3, 4) % 5 == 0)
        assert (four.sum(), three.sum()) == (4, 3)
        assert statistics(table(dp, ds, four))["estimable"]
        assert not statistics(table(dp, ds, three))["estimable"]

    def test_a_standard_error_is_noise_only_where_that_is_asked_for(self):
        dp = 0.1 * np.tile([1.0, -1.0], (3, 2))
        for se, expected in ((0.04, True), (0.06, False)):
            points = table(dp, dp + 0.01 * np.arange(4), noise=None, dp_se=np.full(dp.shape, se))
            assert not statistics(points)["estimable"]
            found = statistics(points, dp_se_is_noise=True)
            assert found["estimable"] is expected
            assert f"its standard error over comparison tasks ({se})" in found["why"]
            assert (found["noise_from"], found["effect"]["noise"]) == ("dp_se", pytest.approx(se))
        both = table(dp, dp + 0.01 * np.arange(4), noise=0.001, dp_se=np.full(dp.shape, 9.0))
        assert statistics(both, dp_se_is_noise=True) == statistics(both)
        assert statistics(both)["estimable"]
        neither = table(dp, dp + 0.01 * np.arange(4), noise=None, dp_se=None)
        found = statistics(neither, dp_se_is_noise=True)
        assert found["noise_from"] is found["effect"]["noise"] is found["effect"]["comparison_se"] is None
        assert not found["estimable"]

    def test_neutral_points_are_noise_and_nothing_else(self):
        s = study()
        quiet, loud, none = (statistics(table(s.dp, s.ds, s.on, noise=noise)) for noise in (0.001, 9.0, None))
        for key in (*KINDS, "n_prompts", "n_points", "fit", "sign_agreement", "advantage"):
            assert quiet[key] == loud[key] == none[key]
        assert quiet["effect"]["max"] == loud["effect"]["max"] < 9
        assert (quiet["estimable"], loud["estimable"], none["estimable"]) == (True, False, False)
        alone = table(s.dp, s.ds, s.on).filter(pa.compute.field("neutral"))
        assert statistics(alone)["why"].startswith("No point is on target")

    def test_off_target_points_have_no_say(self):
        s = study()
        quiet = np.where(s.on, s.dp, 0.0)
        assert statistics(table(quiet, s.ds, s.on))["estimable"]
        assert not statistics(table(s.dp * ~s.on, s.ds, s.on))["estimable"]

    def test_few_points_and_points_that_do_not_vary(self):
        s = study(3, 3, noise=0.1)
        assert statistics(table(s.dp, s.ds, s.on))["why"].startswith("Only 3 points are on target")
        flat = np.full((3, 3), 0.1)
        assert statistics(table(flat, s.ds))["why"].startswith("Δp is the same at all 9 on-target points")
        assert statistics(table(s.dp, flat))["why"].startswith("Δs is the same at all 9 on-target points")


class TestInterval:
    def test_bounds_take_three_prompts_and_three_tasks(self):
        rng = np.random.default_rng(0)
        for shape in ((2, 9), (9, 2), (1, 20)):
            found = statistics(table(*rng.normal(size=(2, *shape))))["pooled"]["pearson"]
            assert found["low"] is found["high"] is None
            assert found["value"] is not None
        found = statistics(table(*rng.normal(size=(2, 3, 3))))["pooled"]["pearson"]
        assert found["low"] < found["value"] < found["high"]

    @pytest.mark.parametrize("sign", [1, -1])
    def test_bounds_are_never_beyond_one(self, sign):
        rng = np.random.default_rng(0)
        for _ in range(30):
            dp = rng.normal(size=(5, 7))
            found = statistics(table(dp, sign * rng.uniform(0.01, 100) * dp + rng.normal()), permutations=2)
            for name in ("on_target", "pooled", "centred"):
                pearson = found[name]["pearson"]
                assert all(-1 <= pearson[key] <= 1 for key in ("value", "low", "high"))
                assert [pearson[key] for key in ("value", "low", "high")] == pytest.approx([sign] * 3)

    def test_more_of_the_same_narrows_it(self):
        wide, narrow = (statistics(self.like(n))["pooled"]["pearson"] for n in (8, 32))
        assert narrow["high"] - narrow["low"] < 0.7 * (wide["high"] - wide["low"])

    @staticmethod
    def like(n):
        x, e = np.random.default_rng(0).normal(size=(2, n, n))
        return table(x, x + e)


class TestPermutation:
    def test_is_one_sided_and_never_zero(self):
        s = study(noise=0.0)
        follows, opposes = statistics(table(s.dp, s.ds, s.on)), statistics(table(s.dp, -s.ds, s.on))
        for name in KINDS:
            assert follows[name]["p"] == 1 / 201
            assert opposes[name]["p"] > 0.9

    def test_leaves_out_the_prompt_or_the_task_of_a_gap(self):
        s = study(noise=0.0)
        points = table(s.dp, s.ds, s.on)
        prompt, task = (points.column(n)[0].as_py() for n in ("prompt_id", "task_id"))
        found = statistics(points.slice(1))
        longer = "task_id" if s.dp.shape[1] >= s.dp.shape[0] else "prompt_id"
        lacking = {"task_id": task, "prompt_id": prompt}[longer]
        without = statistics(points.filter(pa.compute.not_equal(points.column(longer), lacking)))
        for name in KINDS:
            assert found[name]["p"] == without[name]["p"] == 1 / 201
            assert found[name]["n"] > without[name]["n"]
        pairs = np.eye(*s.dp.shape) > 0
        gappy = points.filter(pa.array([*pairs.ravel(), *[True] * (points.num_rows - pairs.size)]))
        assert statistics(gappy)["pooled"]["p"] is None

    def test_of_gaps_correlations_are_of_the_points_that_there_are(self):
        s = study()
        points = table(s.dp, s.ds, s.on).slice(1)
        found = statistics(points)
        points = points.filter(pa.compute.invert(points.column("neutral")))
        assert found["n_points"] == s.dp.size - 1
        for name in KINDS:
            assert found[name]["pearson"]["low"] is not None
        x, y = (np.array(points.column(c).to_pylist()) for c in ("dp", "ds"))
        assert found["pooled"]["pearson"]["value"] == pytest.approx(np.corrcoef(x, y)[0, 1])
        rows = np.array(points.column("prompt_id").to_pylist())
        x, y = (np.concatenate([v[rows == p] - v[rows == p].mean() for p in np.unique(rows)]) for v in (x, y))
        assert found["centred"]["pearson"]["value"] == pytest.approx(np.corrcoef(x, y)[0, 1])


@pytest.mark.parametrize("in_blocks", [False, True])
def test_intervals_and_p_are_those_of_the_grid_of_dp_and_ds(in_blocks):
    s = study(12, 12, noise=2.0)
    if in_blocks:
        s.on = np.kron(np.eye(6), np.ones((2, 2))) > 0
    other = np.random.default_rng(1).normal(size=s.dp.shape)
    found, everywhere = statistics(table(s.dp, s.ds, s.on, ds_encoder=other), "x", seed=3), np.ones_like(s.on)
    orders, blocks = Orders.of((12, 12), 200, 3), blocks_of(s.on)
    assert (blocks is not None) is in_blocks
    grid = Cells(everywhere, ~s.on)
    cells = (Cells(s.on), Cells(everywhere), Cells(everywhere, everywhere), Cells(s.on, ~s.on), grid)
    for name, of in zip(KINDS, cells, strict=True):
        for block, y in ((found, s.ds), (found["encoder"], other)):
            r = block[name]["pearson"]["value"]
            assert block[name]["pearson"] == r_interval(r, s.dp, y, of, blocks)
            assert block[name]["p"] == permutation_p(r, s.dp, y, of, orders)
    advantage = found["advantage"]
    assert advantage == difference_interval(advantage["value"], s.dp, s.ds, other, grid, blocks)


class TestInvariance:
    def test_no_bit_depends_on_the_order_of_rows(self):
        s = study()
        points = table(s.dp, s.ds, s.on, ds_encoder=s.dp)
        shuffled = points.take(np.random.default_rng(0).permutation(points.num_rows))
        assert shift_statistics(shuffled, encoder="x", **FAST) == shift_statistics(points, encoder="x", **FAST)

    def test_an_experiment_does_not_depend_on_the_others(self):
        one, two = study(seed=1), study(seed=2)
        tables = [table(s.dp, s.ds, s.on, name=name) for s, name in ((one, "b"), (two, "a"))]
        both = shift_statistics(pa.concat_tables(tables), encoder=None, **FAST)
        assert list(both) == ["a", "b"]
        assert both["b"] == statistics(tables[0])
        assert both["a"] == statistics(tables[1])

    def test_seeds_move_p_only(self):
        s = study(noise=2.0)
        one, two = (statistics(table(s.dp, s.ds, s.on), seed=seed)["pooled"] for seed in (0, 1))
        assert one["p"] != two["p"]
        assert one | {"p": two["p"]} == two

    def test_scale_and_offset_of_scores_change_nothing(self):
        s = study()
        one, two = (statistics(table(s.dp, y, s.on)) for y in (s.ds, 1e6 * s.ds + 1e5))
        assert two["on_target"]["pearson"] == pytest.approx(one["on_target"]["pearson"])
        assert two["centred"]["p"] == one["centred"]["p"]


@pytest.mark.parametrize("column", NUMBERS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_named(column, value):
    s = study()
    matrices = {"dp": s.dp, "ds": s.ds, "dp_se": np.ones_like(s.dp), "ds_encoder": s.ds.copy()}
    matrices |= {"p_baseline": np.full(s.dp.shape, 0.5), "p_prompt": s.dp + 0.5}
    matrices[column] = matrices[column].copy()
    matrices[column][2, 4] = value
    points = table(matrices.pop("dp"), matrices.pop("ds"), s.on, **matrices)
    for encoder in ("minilm", None):
        with pytest.raises(BadConfig, match=f"shift: {column} of task t-04 under prompt p-02 is not a finite number"):
            shift_statistics(points, encoder=encoder, **FAST)


def test_an_encoder_without_scores_and_a_point_twice_are_named():
    s = study()
    points = table(s.dp, s.ds, s.on)
    assert statistics(points)["encoder"] is None
    with pytest.raises(BadConfig, match="ds_encoder of task t-00 under prompt p-00"):
        statistics(points, "minilm")
    with pytest.raises(BadConfig, match="task t-03 under prompt p-00 is two points"):
        statistics(pa.concat_tables([points, points.slice(3, 1)]))


def scores(values):
    rows = [{"prompt_id": p, "task_id": t, "score": s} for (p, t), s in values.items()]
    return pa.Table.from_pylist(
        rows, schema=pa.schema([*((c, pa.string()) for c in ("prompt_id", "task_id")), ("score", pa.float64())])
    )


@pytest.fixture
def parts():
    tasks = tuple(ShiftTask(id=f"t-{x}", text="Do.", topic=x, labels=(x,)) for x in ("sea", "art"))
    prompts = tuple(
        ShiftPrompt(id=f"p-{i}", text="You.", targets={x: s}) for i, (x, s) in enumerate((("sea", 1), ("art", -1)))
    )
    experiments = [Experiment("two", prompts, tasks), Experiment("one", prompts, tasks[:1])]
    cells = [(p.id, t.id) for p in prompts for t in tasks]
    behaviour = [
        {"prompt_id": p, "task_id": t, "n": 5, "p_baseline": 0.5, "p_prompt": 0.5 + i, "dp": float(i), "dp_se": 0.1}
        for i, (p, t) in enumerate(cells)
    ]
    values = {cell: 10.0 * i for i, cell in enumerate(cells)} | {(BASE, "t-sea"): 1.0, (BASE, "t-art"): 2.0}
    return SimpleNamespace(experiments=experiments, behaviour=pa.Table.from_pylist(behaviour), values=values)


class TestPoints:
    def test_join(self, parts):
        points = shift_points(parts.experiments, parts.behaviour, scores(parts.values), BASE)
        assert points.schema == POINTS
        assert not any(points.column("neutral").to_pylist())
        assert [tuple(r[c] for c in ("experiment", "prompt_id", "task_id", "on_target", "intended", "dp", "ds", "ds_encoder"))
                for r in points.to_pylist()] == [
            ("one", "p-0", "t-sea", True, 1, 0.0, -1.0, None),
            ("one", "p-1", "t-sea", False, 0, 2.0, 19.0, None),
            ("two", "p-0", "t-art", False, 0, 1.0, 8.0, None),
            ("two", "p-0", "t-sea", True, 1, 0.0, -1.0, None),
            ("two", "p-1", "t-art", True, -1, 3.0, 28.0, None),
            ("two", "p-1", "t-sea", False, 0, 2.0, 19.0, None),
        ]  # fmt: skip
        assert points.column("n").to_pylist() == [5] * 6
        assert points.column("p_prompt").to_pylist() == [0.5, 2.5, 1.5, 0.5, 3.5, 2.5]

    def test_neutral_prompts_are_in_every_experiment_and_never_on_target(self, parts):
        cells = [("neutral-1", t) for t in ("t-sea", "t-art")]
        more = [dict(parts.behaviour.to_pylist()[i], prompt_id=p, task_id=t) for i, (p, t) in enumerate(cells)]
        behaviour = pa.Table.from_pylist([*parts.behaviour.to_pylist(), *more])
        values = scores(parts.values | dict.fromkeys(cells, 7.0))
        points = shift_points(parts.experiments, behaviour, values, BASE, None, ["neutral-1"])
        known = ("experiment", "task_id", "on_target", "intended", "dp", "ds")
        assert [tuple(r[c] for c in known) for r in points.to_pylist() if r["neutral"]] == [
            ("one", "t-sea", False, 0, 0.0, 6.0),
            ("two", "t-art", False, 0, 1.0, 5.0),
            ("two", "t-sea", False, 0, 0.0, 6.0),
        ]
        rest = points.filter(pa.compute.invert(points.column("neutral")))
        assert rest.equals(shift_points(parts.experiments, parts.behaviour, values, BASE))
        with pytest.raises(InputMissing, match="no choices of task t-sea under prompt neutral-2"):
            shift_points(parts.experiments, behaviour, values, BASE, None, ["neutral-2"])

    def test_encoder(self, parts):
        double = scores({cell: 2 * s for cell, s in parts.values.items()})
        points = shift_points(parts.experiments, parts.behaviour, scores(parts.values), BASE, double)
        assert points.column("ds_encoder").to_pylist() == [2 * ds for ds in points.column("ds").to_pylist()]

    def test_no_bit_depends_on_any_order(self, parts):
        args = parts.behaviour, scores(parts.values), BASE
        turned = [Experiment(e.name, e.prompts[::-1], e.tasks[::-1]) for e in parts.experiments[::-1]]
        behaviour, given = (t.take(list(range(t.num_rows))[::-1]) for t in args[:2])
        assert shift_points(turned, behaviour, given, BASE).equals(shift_points(parts.experiments, *args))

    def test_gaps_are_named(self, parts):
        values = parts.values
        with pytest.raises(InputMissing, match="no choices of task t-art under prompt p-1"):
            shift_points(parts.experiments, parts.behaviour.slice(0, 3), scores(values), BASE)
        for gone, column in ((("p-1", "t-art"), "ds"), ((BASE, "t-art"), "ds_encoder")):
            some = scores({cell: s for cell, s in values.items() if cell != gone})
            given = (some, BASE) if column == "ds" else (scores(values), BASE, some)
            with pytest.raises(InputMissing, match=f"{column}: task t-art has no score under prompt {gone[0]}"):
                shift_points(parts.experiments, parts.behaviour, *given)

    def test_scores_that_are_not_finite_or_stand_twice_are_refused(self, parts):
        for value in (np.nan, None):
            bad = scores(parts.values | {(BASE, "t-art"): value})
            with pytest.raises(BadConfig, match="ds of task t-art under prompt p-0 is not a finite number"):
                shift_points(parts.experiments, parts.behaviour, bad, BASE)
        twice = pa.concat_tables([scores(parts.values), scores({("p-0", "t-sea"): 5.0})])
        with pytest.raises(BadConfig, match="7 scores are of only 6 prompts and tasks"):
            shift_points(parts.experiments, parts.behaviour, twice, BASE)
