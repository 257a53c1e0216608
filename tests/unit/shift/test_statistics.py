import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from prefprobe.errors import BadConfig, InputMissing
from prefprobe.shift.experiments import Experiment, ShiftPrompt, ShiftTask
from prefprobe.shift.resampling import Draws, interval, permutation_p
from prefprobe.shift.statistics import NUMBERS, POINTS, shift_points, shift_statistics

BASE = "baseline"
FAST: dict[str, Any] = {"bootstrap": 200, "permutations": 200}


def table(dp, ds, on=None, name="e", **columns):
    """Points of a full grid out of matrices (prompts, tasks)."""
    dp, ds = np.asarray(dp, dtype=float), np.asarray(ds, dtype=float)
    on = np.ones(dp.shape, dtype=bool) if on is None else on
    defaults = {"dp_se": np.full(dp.shape, 0.01), "intended": np.where(on, np.sign(dp), 0), "ds_encoder": None}
    columns = (
        defaults
        | {"dp": dp, "ds": ds, "on_target": on, "p_baseline": np.full(dp.shape, 0.5), "p_prompt": dp + 0.5}
        | columns
    )
    rows = [
        {"experiment": name, "prompt_id": f"p-{p:02d}", "task_id": f"t-{t:02d}", "n": 6}
        | {key: None if of is None else np.asarray(of)[p, t].item() for key, of in columns.items()}
        for p, t in np.ndindex(dp.shape)
    ]
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
            ):
                assert block[name]["pearson"]["value"] == pytest.approx(scipy.stats.pearsonr(x, y)[0])
                assert block[name]["spearman"] == pytest.approx(scipy.stats.spearmanr(x, y)[0])
                assert block[name]["n"] == len(x)
        assert found["encoder"]["name"] == "minilm"
        line = scipy.stats.linregress(s.dp[s.on], s.ds[s.on])
        assert found["fit"] == pytest.approx({"slope": line.slope, "intercept": line.intercept})

    def test_counts_and_effect(self):
        on = np.array([[True, True, False], [False, False, True]])
        dp, se = np.array([[0.3, -0.1, 0.0], [0.2, -0.4, 0.2]]), np.array([[0.03, 0.04, 0.5], [0.5, 0.5, 0.0]])
        found = statistics(table(dp, dp, on, dp_se=se))
        assert [found[f"n_{of}"] for of in ("prompts", "tasks", "points", "on_target")] == [2, 3, 6, 3]
        assert found["effect"] == pytest.approx(
            {
                "rms_on_target": np.sqrt((0.09 + 0.01 + 0.04) / 3),
                "rms_off_target": np.sqrt((0 + 0.04 + 0.16) / 3),
                "max": 0.4,
                "noise": np.sqrt(0.0025 / 3),
                "signal_to_noise": np.sqrt(0.14 / 0.0025),
            }
        )

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
            table(np.zeros((3, 4)), rng.normal(size=(3, 4)), dp_se=np.zeros((3, 4))),
            table(rng.normal(size=(3, 4)), np.ones((3, 4))),
            table(rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), nowhere),
            table([[0.1]], [[0.2]]),
        ):
            found = statistics(points)
            json.dumps(found, allow_nan=False)
            assert not found["estimable"]
            assert found["on_target"]["pearson"] is found["on_target"]["spearman"] is found["on_target"]["p"] is None
            assert found["fit"] == {"slope": None, "intercept": None}
        assert statistics(table(rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), nowhere))["effect"]["noise"] is None

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


class TestEstimable:
    @pytest.mark.parametrize(
        ("size", "noise", "expected", "said"),
        [
            (0.1, 0.01, True, "0.1 over 12 points, 10 times its standard error of 0.01, so it stands above"),
            (0.1, 0.06, False, "1.7 times its standard error of 0.06; to stand above"),
            (0.019, 0.001, False, "it needs 0.02 and 2 times"),
            (0.1, 0.0, True, "with no standard error"),
        ],
    )
    def test_the_shift_stands_above_noise_and_above_a_floor(self, size, noise, expected, said):
        dp = size * np.tile([1.0, -1.0], (3, 2))
        found = statistics(table(dp, dp + 0.01 * np.arange(4), dp_se=np.full(dp.shape, noise)))
        assert found["estimable"] is expected
        assert said in found["why"]
        assert found["why"].endswith(".")
        assert found["on_target"]["pearson"]["value"] > 0.5  # shown all the same
        assert found["on_target"]["p"] is not None

    def test_what_is_just_enough(self):
        dp = 0.25 * np.tile([1.0, -1.0], (3, 2))  # powers of 2: the ratio is 2 to the bit
        ds = dp + 0.01 * np.arange(4)
        assert statistics(table(dp, ds, dp_se=np.full(dp.shape, 0.125)))["estimable"]
        assert not statistics(table(dp, ds, dp_se=np.full(dp.shape, 0.126)))["estimable"]
        for size, expected in ((0.0201, True), (0.0199, False)):
            assert statistics(table(dp / 0.25 * size, ds, dp_se=np.zeros(dp.shape)))["estimable"] is expected
        four, three = (np.arange(12).reshape(3, 4) % 3 == 0, np.arange(12).reshape(3, 4) % 5 == 0)
        assert (four.sum(), three.sum()) == (4, 3)
        assert statistics(table(dp, ds, four))["estimable"]
        assert not statistics(table(dp, ds, three))["estimable"]

    def test_off_target_points_have_no_say(self):
        s = study()
        quiet = np.where(s.on, s.dp, 0.0)
        loud = np.where(s.on, 0.01, 5.0)
        assert statistics(table(quiet, s.ds, s.on, dp_se=loud))["estimable"]
        assert not statistics(table(s.dp * ~s.on, s.ds, s.on, dp_se=loud))["estimable"]

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

    @pytest.mark.parametrize(("size", "known"), [(4, False), (16, True)])
    def test_there_is_none_where_few_resamples_hold_enough_cells(self, size, known):
        """On the diagonal of 4 x 4, most resamples keep two points or fewer, and two always correlate perfectly."""
        dp, ds = np.random.default_rng(0).normal(size=(2, size, size))
        found = statistics(table(dp, ds, np.eye(size, dtype=bool)))
        assert (found["on_target"]["pearson"]["low"] is not None) is known
        assert (found["on_target"]["pearson"]["high"] is not None) is known
        assert found["pooled"]["pearson"]["low"] is not None

    @pytest.mark.parametrize("sign", [1, -1])
    def test_bounds_are_never_beyond_one(self, sign):
        rng = np.random.default_rng(0)
        for _ in range(30):
            dp = rng.normal(size=(5, 7))
            found = statistics(table(dp, sign * rng.uniform(0.01, 100) * dp + rng.normal()), bootstrap=50)
            for name in ("on_target", "pooled", "centred"):
                pearson = found[name]["pearson"]
                assert all(-1 <= pearson[key] <= 1 for key in ("value", "low", "high"))
                assert list(pearson.values()) == pytest.approx([sign] * 3)

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
        for name in ("on_target", "pooled", "centred"):
            assert follows[name]["p"] == 1 / 201
            assert opposes[name]["p"] > 0.9

    def test_takes_a_full_grid(self):
        s = study()
        points = table(s.dp, s.ds, s.on).slice(1)
        found = statistics(points)
        assert found["n_points"] == s.dp.size - 1
        for name in ("on_target", "pooled", "centred"):
            assert found[name]["p"] is None
            assert found[name]["pearson"]["low"] is not None
        x, y = (np.array(points.column(c).to_pylist()) for c in ("dp", "ds"))
        assert found["pooled"]["pearson"]["value"] == pytest.approx(np.corrcoef(x, y)[0, 1])
        rows = np.array(points.column("prompt_id").to_pylist())
        x, y = (np.concatenate([v[rows == p] - v[rows == p].mean() for p in np.unique(rows)]) for v in (x, y))
        assert found["centred"]["pearson"]["value"] == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_intervals_and_p_are_those_of_the_experiments_own_draws():
    s = study(noise=2.0)
    found, everywhere = statistics(table(s.dp, s.ds, s.on), seed=3), np.ones_like(s.on)
    draws = Draws.of(everywhere, 200, 200, 3)
    for name, x, y, cells in (
        ("on_target", s.dp, s.ds, s.on),
        ("pooled", s.dp, s.ds, everywhere),
        ("centred", within(s.dp), within(s.ds), everywhere),
    ):
        r = found[name]["pearson"]["value"]
        assert found[name]["pearson"] == pytest.approx(interval(r, x, y, cells, draws, centred=name == "centred"))
        assert found[name]["p"] == permutation_p(r, x, y, cells, draws)


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

    def test_seeds_move_intervals_and_p_only(self):
        s = study(noise=2.0)
        one, two = (statistics(table(s.dp, s.ds, s.on), seed=seed)["pooled"] for seed in (0, 1))
        assert one["pearson"]["value"] == two["pearson"]["value"]
        assert one["pearson"]["low"] != two["pearson"]["low"]

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
