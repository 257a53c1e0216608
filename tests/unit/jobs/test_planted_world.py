"""A world in which the truth is known, through the whole of the shift analysis.

Every task has a latent utility, and a system prompt adds a known amount to the utility of tasks with certain labels.
Choices follow the logistic model, with a position bias. Activations hold the utility along one direction among many;
an encoder sees the words of system prompt and task. Probes of both are trained on other tasks of this world.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from scipy.special import expit

from prefprobe.probes.heldout import HeldoutResult, heldout_probe
from prefprobe.probes.probe import Probe
from prefprobe.shift.behaviour import behavioural_shift, comparison_tasks
from prefprobe.shift.experiments import Experiment, ShiftPrompt, ShiftTask
from prefprobe.shift.points import shift_points
from prefprobe.shift.scores import probe_scores
from prefprobe.shift.statistics import shift_statistics

BASE = "baseline"
LABELS = ("sea", "art", "sums", "cats")
VERBS = {"love": 0.9, "hate": -0.9, "know": 0.0}
"""What each adds to the utility of a task that says it: who sees words can learn that."""
OTHERS = tuple(f"word{i}" for i in range(12))
VOCABULARY = ("you", *VERBS, *LABELS, *OTHERS)
DIMENSIONS = 24
LAYER = 5
NEUTRAL = ("neutral-1", "neutral-2")
FAST: dict[str, Any] = {"permutations": 300}


@dataclass(frozen=True)
class World:
    """8 prompts, of which each loves or hates one of 4 labels; 12 tasks with one label each, 8 comparison tasks."""

    shift: float = 1.0
    """What a prompt adds to the utility of its tasks, or takes from it."""
    spill: float = 0.0
    """Share of it that goes to the next label, and is taken from the one before: no target says so."""
    per_prompt: bool = False
    """Whether it does so for every task, whatever its label."""
    bias: float = 1.5
    """Logit in favour of the task that is shown first."""
    logit_noise: float = 0.1
    score_noise: float = 0.15
    seed: int = 0
    reverse: bool = False
    """Whether prompts and tasks are listed backwards."""

    @cached_property
    def experiment(self) -> Experiment:
        prompts = [
            ShiftPrompt(id=f"{label}-{verb}", text=f"you {verb} {label}", targets={label: sign})
            for label in LABELS
            for verb, sign in (("love", 1), ("hate", -1))
        ]
        tasks = [
            ShiftTask(id=f"{label}-{i}", text=f"{label} {OTHERS[i]}", topic=label, labels=(label,))
            for label in LABELS
            for i in range(3)
        ]
        step = -1 if self.reverse else 1
        return Experiment("planted", tuple(prompts[::step]), tuple(tasks[::step]))

    @cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, 1])

    @cached_property
    def utility(self) -> dict[str, float]:
        ids = sorted(t.id for t in self.experiment.tasks)
        return dict(zip(ids, np.random.default_rng([self.seed, 2]).normal(0, 0.5, len(ids)).tolist(), strict=True))

    @cached_property
    def pool(self) -> dict[str, float]:
        """Utilities of the measured tasks: "c-000" to "c-159" are the train set, the rest is the eval set."""
        own = np.random.default_rng([self.seed, 3]).normal(size=240)
        return {f"c-{i:03d}": float(u) + VERBS[self.words(f"c-{i:03d}")[0]] for i, u in enumerate(own)}

    @cached_property
    def train(self) -> dict[str, float]:
        return {c: self.pool[c] for c in list(self.pool)[:160]}

    @cached_property
    def topics(self) -> dict[str, str]:
        return {c: f"topic {c[-1]}" for c in self.pool}

    @cached_property
    def comparisons(self) -> dict[str, float]:
        return {c: self.pool[c] for c in comparison_tasks(self.train, self.topics, 8, self.seed)}

    def words(self, task: str) -> list[str]:
        """The text of a task; that of a measured one is of a verb and two other words."""
        if not task.startswith("c-"):
            return next(t.text.split() for t in self.experiment.tasks if t.id == task)
        i = int(task[2:])
        return [list(VERBS)[i % 3], OTHERS[i % 12], OTHERS[i * 7 // 12 % 12]]

    def added(self, prompt: str, task: str) -> float:
        if prompt in (BASE, *NEUTRAL):
            return 0.0
        loved, _, verb = prompt.partition("-")
        steps = (LABELS.index(task.partition("-")[0]) - LABELS.index(loved)) % len(LABELS)
        share = 1.0 if self.per_prompt else (1.0, self.spill, 0.0, -self.spill)[steps]
        return share * (self.shift if verb == "love" else -self.shift)

    @cached_property
    def cells(self) -> list[tuple[str, str]]:
        """(prompt, task), with the baseline and its paraphrases; sorted, so that noise does not depend on the listing."""
        prompts = [*(p.id for p in self.experiment.prompts), BASE, *NEUTRAL]
        return sorted((p, t.id) for p in prompts for t in self.experiment.tasks)

    @cached_property
    def choices(self) -> pa.Table:
        """Both orders of every task and comparison: log P(A)/P(B) = u_A - u_B + bias + noise."""
        rows = []
        for prompt, task in self.cells:
            for c, u_c in self.comparisons.items():
                difference = self.utility[task] + self.added(prompt, task) - u_c
                for a, b, sign in ((task, c, 1), (c, task, -1)):
                    logit = sign * difference + self.bias + self.logit_noise * self.rng.normal()
                    rows.append({"prompt_id": prompt, "task_a": a, "task_b": b, "outcome": "exact", "logit": logit})
        return pa.Table.from_pylist(rows)

    def true_dp(self, prompt: str, task: str) -> float:
        against = self.utility[task] - np.array(list(self.comparisons.values()))
        return float((expit(against + self.added(prompt, task)) - expit(against)).mean())

    @cached_property
    def activations(self) -> np.ndarray[Any, Any]:
        """(cells, DIMENSIONS): the utility under the prompt along `direction`, and noise along all."""
        return self.residual(np.array([self.utility[t] + self.added(p, t) for p, t in self.cells]), 4)

    def residual(self, utility: np.ndarray[Any, Any], stream: int) -> np.ndarray[Any, Any]:
        noise = self.score_noise * np.random.default_rng([self.seed, stream]).normal(size=(len(utility), DIMENSIONS))
        return utility[:, None] * self.direction + noise

    def embedding(self, cells: list[tuple[str, str]]) -> np.ndarray[Any, Any]:
        """(cells, d): the sum of the vectors of all words of system prompt and task, at length 1."""
        vectors = dict(zip(VOCABULARY, np.random.default_rng(7).normal(size=(len(VOCABULARY), 32)), strict=True))
        prompts = {p.id: p.text.split() for p in self.experiment.prompts} | {id_: ["you"] for id_ in (BASE, *NEUTRAL)}
        x = np.array([np.sum([vectors[w] for w in (*prompts[p], *self.words(t))], axis=0) for p, t in cells])
        return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))

    def probe(self, features: np.ndarray[Any, Any]) -> HeldoutResult:
        """Trained on (pool, d) features by the project's own protocol, beside a layer that knows nothing."""
        ids, rng = np.array(list(self.pool)), np.random.default_rng([self.seed, 8])
        layers = {0: rng.normal(size=(len(ids), DIMENSIONS)), LAYER: features}
        eval_ = {c: u for c, u in self.pool.items() if c not in self.train}
        a, b = rng.choice(list(eval_), size=(2, 400))
        p_a = expit([eval_[i] - eval_[j] for i, j in zip(a, b, strict=True)])
        return heldout_probe(layers, ids, self.train, eval_, self.topics, (a, b, p_a), permutations=0)

    @cached_property
    def model_probe(self) -> HeldoutResult:
        return self.probe(self.residual(np.array(list(self.pool.values())), 7))

    @cached_property
    def encoder_probe(self) -> HeldoutResult:
        return self.probe(self.embedding([(BASE, c) for c in self.pool]))

    def probed(self, features: np.ndarray[Any, Any], probe: HeldoutResult) -> pa.Table:
        """Scores of (cells, d) features."""
        ids = np.array([f"{p}\t{t}" for p, t in self.cells])
        return probe_scores({"task_ids": ids, f"layer_{LAYER}": features}, Probe.of(probe.probes, LAYER))

    @cached_property
    def direction(self) -> np.ndarray[Any, Any]:
        w = np.random.default_rng([self.seed, 5]).normal(size=DIMENSIONS)
        return w / np.linalg.norm(w)

    def orthogonal(self) -> np.ndarray[Any, Any]:
        w = np.random.default_rng([self.seed, 6]).normal(size=DIMENSIONS)
        w -= (w @ self.direction) * self.direction
        return w / np.linalg.norm(w)

    def scores(self, w: np.ndarray[Any, Any]) -> pa.Table:
        prompts, tasks = zip(*self.cells, strict=True)
        return pa.table({"prompt_id": prompts, "task_id": tasks, "score": self.activations @ w + 0.7})

    @cached_property
    def behaviour(self) -> pa.Table:
        return behavioural_shift(self.choices, BASE, list(self.comparisons))

    def points(self, w: np.ndarray[Any, Any] | None = None, encoder: np.ndarray[Any, Any] | None = None) -> pa.Table:
        scores = self.scores(self.direction if w is None else w)
        control = None if encoder is None else self.scores(encoder)
        return shift_points([self.experiment], self.behaviour, scores, BASE, control, NEUTRAL)

    def found(self, w: np.ndarray[Any, Any] | None = None, permutations: int = 300) -> Any:
        return shift_statistics(self.points(w), encoder=None, permutations=permutations)["planted"]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_planted_shifts_are_recovered_within_their_error(world):
    """The error of Δp is that of 2 x 2 logits for each comparison, whatever the position bias."""
    z = []
    for row in world.behaviour.to_pylist():
        against = world.utility[row["task_id"]] - np.array(list(world.comparisons.values()))
        slopes = [p * (1 - p) for p in (expit(against), expit(against + world.added(row["prompt_id"], row["task_id"])))]
        error = world.logit_noise / np.sqrt(2) * np.sqrt(sum((s**2).sum() for s in slopes)) / len(against)
        z.append((row["dp"] - world.true_dp(row["prompt_id"], row["task_id"])) / error)
    assert len(z) == 120
    assert np.sqrt(np.mean(np.square(z))) == pytest.approx(1.0, abs=0.2)
    assert np.abs(z).max() < 4.5


def test_position_bias_cancels():
    assert World(bias=0.0).behaviour.column("dp").to_pylist() == pytest.approx(
        World(bias=4.0).behaviour.column("dp").to_pylist()
    )


def test_standard_errors_tell_apart_what_moved(world):
    off = [r for r in world.behaviour.to_pylist() if not world.added(r["prompt_id"], r["task_id"])]
    z = np.array([r["dp"] / r["dp_se"] for r in off])
    assert len(z) == 96
    assert np.mean(np.abs(z) < scipy.stats.t(7).ppf(0.975)) > 0.85
    assert all(
        r["dp"] / r["dp_se"] > 8 for r in world.behaviour.to_pylist() if world.added(r["prompt_id"], r["task_id"]) > 0
    )


def test_the_true_probe_follows_choices(world):
    found = world.found()
    assert found["estimable"]
    assert found["n_on_target"] == 24
    assert found["on_target"]["pearson"]["value"] > 0.9
    assert found["on_target"]["pearson"]["low"] > 0.8
    assert found["on_target"]["spearman"] > 0.7
    assert found["pooled"]["pearson"]["value"] > 0.8
    assert found["centred"]["pearson"]["value"] > 0.8
    assert found["corrected"]["pearson"]["low"] > 0.8
    for name in ("on_target", "pooled", "centred", "corrected", "corrected_grid"):
        assert found[name]["p"] == 1 / 301
    assert found["sign_agreement"]["value"] > 0.95
    assert found["intended_behaviour"] == {"value": 1.0, "n": 24}
    assert found["intended_probe"]["value"] > 0.95
    assert found["effect"]["signal_to_noise"] > 5
    assert found["effect"]["rms_off_target"] < 0.1 * found["effect"]["rms_on_target"]
    on = [(p, t) for p, t in world.cells if world.added(p, t)]
    planted = scipy.stats.linregress([world.true_dp(p, t) for p, t in on], [world.added(p, t) for p, t in on])
    assert found["fit"]["slope"] == pytest.approx(planted.slope, rel=0.1)
    assert found["fit"]["intercept"] == pytest.approx(0.0, abs=0.15)


def test_a_probe_that_was_trained_on_utilities_follows_choices(world):
    raw = world.model_probe.targets["raw"]
    assert raw["best_layer"] == LAYER
    assert raw["r"]["value"] > 0.9
    scores = world.probed(world.activations, world.model_probe)
    points = shift_points([world.experiment], world.behaviour, scores, BASE, None, NEUTRAL)
    found = shift_statistics(points, encoder=None, **FAST)["planted"]
    assert found["estimable"]
    assert found["on_target"]["pearson"]["value"] > 0.9
    assert found["on_target"]["pearson"]["low"] > 0.8
    assert found["on_target"]["p"] == 1 / 301
    assert found["centred"]["pearson"]["value"] > 0.8
    assert found["fit"]["slope"] == pytest.approx(world.found()["fit"]["slope"], rel=0.1)  # in units of utility
    assert found["sign_agreement"]["value"] > 0.95
    assert found["intended_probe"]["value"] > 0.95


def test_an_encoder_follows_the_words_of_prompts_and_not_what_moves_off_target():
    """It hears love or hate in the prompt, whatever the task is about."""
    world = World(spill=0.5)
    assert world.encoder_probe.targets["raw"]["r"]["value"] > 0.3
    model, encoder = (
        world.probed(world.activations, world.model_probe),
        world.probed(world.embedding(world.cells), world.encoder_probe),
    )
    points = shift_points([world.experiment], world.behaviour, model, BASE, encoder, NEUTRAL)
    found = shift_statistics(points, encoder="words", **FAST)["planted"]
    assert found["encoder"]["on_target"]["pearson"]["value"] > 0.8
    assert found["encoder"]["pooled"]["pearson"]["value"] < 0.6 < 0.8 < found["pooled"]["pearson"]["value"]
    assert found["encoder"]["centred"]["pearson"]["value"] < 0.3 < 0.8 < found["centred"]["pearson"]["value"]
    assert found["advantage"]["low"] > 0.05
    hears_the_same = points.set_column(points.column_names.index("ds"), "ds", points.column("ds_encoder"))
    heard = shift_statistics(hears_the_same, encoder="words", **FAST)["planted"]
    assert heard["on_target"]["pearson"]["low"] > 0.2
    assert heard["advantage"]["value"] == heard["advantage"]["low"] == 0.0
    off = points.filter(pa.array([not row["on_target"] and not row["neutral"] for row in points.to_pylist()]))
    dp, ds, ds_encoder = (off.column(c).to_numpy() for c in ("dp", "ds", "ds_encoder"))
    assert np.corrcoef(dp, ds)[0, 1] > 0.8
    assert abs(np.corrcoef(dp, ds_encoder)[0, 1]) < 0.2


def test_a_probe_orthogonal_to_the_shift_does_not():
    r, p = [], []
    for seed in range(10):
        world = World(seed=seed)
        found = world.found(world.orthogonal())
        assert found["estimable"]
        assert found["intended_behaviour"]["value"] == 1.0
        r.append([found[name]["pearson"]["value"] for name in ("on_target", "pooled", "centred")])
        p.append(found["on_target"]["p"])
    assert np.abs(np.mean(r, axis=0)).max() < 0.15
    assert np.abs(r).max() < 0.6
    assert 0.2 < np.mean(p) < 0.8


def test_without_a_shift_nothing_is_estimable_and_p_is_uniform():
    worlds = [World(shift=0.0, seed=seed).found(permutations=199) for seed in range(40)]
    assert not any(found["estimable"] for found in worlds)
    assert all("to stand above the noise" in found["why"] for found in worlds)
    for name in ("on_target", "pooled", "centred"):
        p = [found[name]["p"] for found in worlds]
        assert np.mean(p) == pytest.approx(0.5, abs=3.3 * np.sqrt(1 / 12 / 40))
        assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
        assert min(p) >= 1 / 200


def test_a_shift_without_noise_in_choices_is_not_estimable_if_it_is_too_small():
    tiny, quiet = World(shift=0.02, logit_noise=0.0).found(), World(shift=0.3, logit_noise=0.0).found()
    assert tiny["effect"]["noise"] == 0.0  # a paraphrase moves nothing
    assert not tiny["estimable"]
    assert quiet["estimable"]


def test_shifts_of_whole_prompts_vanish_when_centred():
    found = World(per_prompt=True).found()
    assert found["pooled"]["pearson"]["value"] > 0.9
    assert abs(found["centred"]["pearson"]["value"]) < 0.3
    assert found["centred"]["pearson"]["low"] < 0 < found["centred"]["pearson"]["high"]
    assert found["centred"]["p"] > 0.05
    assert World().found()["centred"]["pearson"]["value"] > 0.8


def test_paraphrases_of_the_baseline_measure_the_noise(world):
    """Of Δp: that of the logits, as it is known; of Δs: that of two passes along the probe's direction."""
    errors = [r["dp"] - world.true_dp(r["prompt_id"], r["task_id"]) for r in world.behaviour.to_pylist()]
    effect = world.found()["effect"]
    assert effect["noise"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.35)
    assert effect["noise_ds"] == pytest.approx(np.sqrt(2) * world.score_noise, rel=0.35)
    assert World(logit_noise=0.4).found()["effect"]["noise"] > 3 * effect["noise"]
    assert world.found()["n_neutral"] == 2


def test_the_encoder_is_scored_by_the_same_rules(world):
    points = world.points(encoder=world.orthogonal())
    found = shift_statistics(points, encoder="minilm", **FAST)["planted"]
    alone = world.found(world.orthogonal())
    kinds = ("on_target", "pooled", "centred", "corrected", "corrected_grid")
    assert found["encoder"] == {"name": "minilm"} | {name: alone[name] for name in kinds}
    assert {key: found[key] for key in kinds} == {key: world.found()[key] for key in kinds}


def test_no_bit_depends_on_the_order_of_rows_prompts_or_tasks(world):
    backwards = World(reverse=True)
    assert [p.id for p in backwards.experiment.prompts] == [p.id for p in world.experiment.prompts][::-1]
    order = np.random.default_rng(0).permutation(world.choices.num_rows)
    behaviour = behavioural_shift(world.choices.take(order), BASE, list(world.comparisons)[::-1])
    assert behaviour.equals(world.behaviour)
    scores = world.scores(world.direction)
    scores = scores.take(np.random.default_rng(1).permutation(scores.num_rows))
    points = shift_points([backwards.experiment], behaviour, scores, BASE, None, NEUTRAL)
    assert points.equals(world.points())
    points = points.take(np.random.default_rng(2).permutation(points.num_rows))
    assert shift_statistics(points, encoder=None, **FAST)["planted"] == world.found()


def test_a_prompt_that_is_the_baseline_shifts_nothing(world):
    """The baseline's own rows under another name: Δp and Δs are 0 to the bit."""

    def renamed(table: pa.Table) -> pa.Table:
        rows = [r for r in table.to_pylist() if r["prompt_id"] == BASE]
        return pa.concat_tables([table, pa.Table.from_pylist([r | {"prompt_id": "twin"} for r in rows], table.schema)])

    twin = Experiment("twin", (ShiftPrompt(id="twin", text="You.", targets={"sea": 1}),), world.experiment.tasks)
    behaviour = behavioural_shift(renamed(world.choices), BASE, list(world.comparisons))
    points = shift_points([twin], behaviour, renamed(world.scores(world.direction)), BASE)
    assert points.num_rows == 12
    for column in ("dp", "dp_se", "ds"):
        assert set(points.column(column).to_pylist()) == {0.0}
    found = shift_statistics(points, encoder=None, **FAST)["twin"]
    assert not found["estimable"]
    assert found["pooled"]["pearson"] is None
