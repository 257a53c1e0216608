"""A world whose truth is known, through the whole path: choices and activations in, statistics out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from scipy.special import expit

from prefprobe.jobs.shift_score import probe_scores
from prefprobe.probes.heldout import heldout_probe
from prefprobe.shift.behaviour import behavioural_shift, comparison_tasks
from prefprobe.shift.experiments import Experiment, ShiftPrompt, ShiftTask
from prefprobe.shift.statistics import shift_points, shift_statistics

Floats = npt.NDArray[np.float64]

BASE = "baseline"
SUBJECTS = ("cheese", "rain", "cats", "music", "gardens", "stars", "soup", "ruins")
KINDS = ("math", "coding", "fiction", "science", "travel", "clerical")
FRAMES = {"love": 0.9, "hate": -0.9, "know": 0.0}
"""Verbs of tasks, and what each adds to utility: a reader of words learns these from the train tasks."""
OTHERS = tuple(f"word{i}" for i in range(12))
VOCABULARY = ("you", *FRAMES, *SUBJECTS, *KINDS, *OTHERS)
DIMENSIONS = 16
DIRECTION = np.linalg.qr(np.random.default_rng(99).normal(size=(DIMENSIONS, DIMENSIONS)))[0][0]
"""Along it the model's activations hold the present utility of a task."""

Read = Callable[[Floats], Floats]


@dataclass(frozen=True)
class World:
    """Tasks with texts and latent utilities; prompts that move those of one subject by a known amount.

    A prompt that loves a subject also moves the next subject up by half as much, and the one before down: no label says
    so, and these points are off target.
    """

    seed: int = 0
    size: float = 1.5
    """Planted shift of utility on target, times what each prompt's strength is."""
    noise: float = 0.2
    """Of each logit."""
    bias: float = 1.5
    """Logits favour the task shown first by as much."""

    @cached_property
    def texts(self) -> dict[str, tuple[str, ...]]:
        rng = np.random.default_rng([self.seed, 1])
        shifted = {f"s-{s}-{k}": (s, k) for i, s in enumerate(SUBJECTS) for k in KINDS[i % 2 :: 2]}
        known = {f"t-{i:03d}": (list(FRAMES)[i % 3], KINDS[i % 6]) for i in range(240)}
        return {id_: (*words, *rng.choice(OTHERS, size=2)) for id_, words in (known | shifted).items()}

    @cached_property
    def utility(self) -> dict[str, float]:
        rng = np.random.default_rng([self.seed, 2])
        kinds = dict(zip(KINDS, 0.6 * rng.normal(size=len(KINDS)), strict=True))
        own = 0.6 * rng.normal(size=len(self.texts))
        return {
            id_: float(o + sum(FRAMES.get(w, 0.0) + kinds.get(w, 0.0) for w in words))
            for o, (id_, words) in zip(own, self.texts.items(), strict=True)
        }

    @cached_property
    def experiment(self) -> Experiment:
        prompts = [
            ShiftPrompt(id=f"p-{verb}-{s}", text=f"you {verb} {s}", targets={s: 1 if verb == "love" else -1})
            for s in SUBJECTS
            for verb in ("love", "hate")
        ]
        tasks = [
            ShiftTask(id=id_, text=" ".join(words), topic=words[1], labels=(words[0],))
            for id_, words in self.texts.items()
            if id_.startswith("s-")
        ]
        return Experiment("planted", tuple(prompts), tuple(tasks))

    @cached_property
    def shift(self) -> dict[tuple[str, str], float]:
        """Planted shift of the utility of every task under every prompt."""
        rng = np.random.default_rng([self.seed, 3])
        found = {(BASE, id_): 0.0 for id_ in self.texts}
        for p in self.experiment.prompts:
            strength = self.size * rng.uniform(0.6, 1.4)
            ((subject, sign),) = p.targets.items()
            i = SUBJECTS.index(subject)
            moved = {subject: 1.0, SUBJECTS[(i + 1) % 8]: 0.5, SUBJECTS[i - 1]: -0.5}
            found |= {(p.id, id_): sign * strength * moved.get(words[0], 0.0) for id_, words in self.texts.items()}
        return found

    @property
    def train(self) -> list[str]:
        return [f"t-{i:03d}" for i in range(160)]

    @property
    def topics(self) -> dict[str, str]:
        return {id_: words[1] for id_, words in self.texts.items()}

    @cached_property
    def comparisons(self) -> list[str]:
        return comparison_tasks({id_: self.utility[id_] for id_ in self.train}, self.topics, 8, self.seed)

    @cached_property
    def cells(self) -> list[tuple[str, str]]:
        prompts = [BASE, *(p.id for p in self.experiment.prompts)]
        return [(p, t.id) for p in prompts for t in self.experiment.tasks]

    def p(self, prompt_id: str, task_id: str) -> Floats:
        """P(task over each comparison) that is planted."""
        value = self.utility[task_id] + self.shift[prompt_id, task_id]
        return expit(value - np.array([self.utility[c] for c in self.comparisons]))

    def behaviour(self) -> pa.Table:
        """Δp from logistic choices in both orders."""
        rng = np.random.default_rng([self.seed, 4])
        rows = []
        for p, t in self.cells:
            for c in self.comparisons:
                advantage = self.utility[t] + self.shift[p, t] - self.utility[c]
                for a, b, x in ((t, c, advantage), (c, t, -advantage)):
                    logit = x + self.bias + self.noise * rng.normal()
                    rows.append({"prompt_id": p, "task_a": a, "task_b": b, "logit": logit})
        return behavioural_shift(pa.Table.from_pylist(rows), BASE, self.comparisons)

    def activations(self, cells: list[tuple[str, str]], stream: int) -> np.ndarray:
        """(n, d): present utility along DIRECTION, what each prompt alone does, and noise in every dimension."""
        rng = np.random.default_rng([self.seed, 5, stream])
        value = np.array([self.utility[t] + self.shift[p, t] for p, t in cells])
        of_prompt = {p: 0.5 * rng.normal(size=DIMENSIONS) for p in sorted({p for p, _ in cells})}
        own = np.stack([of_prompt[p] - of_prompt[p] @ DIRECTION * DIRECTION for p, _ in cells])
        x = 5.0 + np.outer(value, DIRECTION) + own + 0.25 * rng.normal(size=own.shape)
        return x.astype(np.float32)

    def words(self, cells: list[tuple[str, str]]) -> np.ndarray:
        """(n, d): the direction of the sum of word vectors of system prompt and task, as an encoder sees them."""
        vectors = np.random.default_rng(7).normal(size=(len(VOCABULARY), DIMENSIONS * 2))
        at = {word: vector for word, vector in zip(VOCABULARY, vectors, strict=True)}
        prompts = {p.id: p.text.split() for p in self.experiment.prompts} | {BASE: ["you"]}
        x = np.stack([sum(at[w] for w in (*prompts[p], *self.texts[t])) for p, t in cells])
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    def probe(self, read: Callable[[list[tuple[str, str]]], np.ndarray], layer: int):
        """A probe of the utilities, trained and selected on tasks without any prompt; layer 0 knows nothing."""
        ids = [id_ for id_ in self.texts if id_.startswith("t-")]
        knows_nothing = np.random.default_rng([self.seed, 6]).normal(size=(len(ids), DIMENSIONS))
        layers = {0: knows_nothing, layer: read([(BASE, id_) for id_ in ids])}
        held_out = [id_ for id_ in ids if id_ not in self.train]
        a, b = (np.random.default_rng([self.seed, 7, i]).choice(held_out, size=500) for i in (0, 1))
        p_a = expit(np.array([self.utility[i] - self.utility[j] for i, j in zip(a, b, strict=True)]))
        train, eval_ = ({i: self.utility[i] for i in some} for some in (self.train, held_out))
        return heldout_probe(layers, np.array(ids), train, eval_, self.topics, (a, b, p_a), permutations=0)

    @cached_property
    def model_probe(self):
        return self.probe(lambda cells: self.activations(cells, 0), 5)

    @cached_property
    def encoder_probe(self):
        return self.probe(self.words, 5)

    def scores(self, x: np.ndarray, probes: dict[str, np.ndarray]) -> pa.Table:
        return probe_scores({"task_ids": np.array([f"{p}\t{t}" for p, t in self.cells]), "layer_5": x}, 5, probes)

    def points(self, probes: dict[str, np.ndarray] | None = None, encoder: bool = False) -> pa.Table:
        scores = self.scores(self.activations(self.cells, 1), probes or self.model_probe.probes)
        control = self.scores(self.words(self.cells), self.encoder_probe.probes) if encoder else None
        return shift_points([self.experiment], self.behaviour(), scores, BASE, control)


def statistics(points, encoder=None):
    return shift_statistics(points, encoder=encoder, bootstrap=400, permutations=400)["planted"]


def column(points, name, where=None):
    values = np.array(points.column(name).to_pylist())
    return values if where is None else values[where]


def r(x, y):
    return np.corrcoef(x, y)[0, 1]


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.mark.parametrize("bias", [-3.0, 0.0, 1.5])
def test_choices_give_back_the_planted_shift(bias):
    world = World(noise=0.0, bias=bias)
    found = world.behaviour()
    assert found.num_rows == 16 * 24
    for row in found.to_pylist():
        planted = world.p(row["prompt_id"], row["task_id"]) - world.p(BASE, row["task_id"])
        assert row["dp"] == pytest.approx(planted.mean(), abs=1e-9)
        assert row["dp_se"] == pytest.approx(planted.std(ddof=1) / np.sqrt(8), abs=1e-9)
    assert np.abs(found.column("dp").to_numpy()).max() > 0.3


def test_noisy_choices_give_back_the_planted_shift(world):
    found = world.behaviour().to_pylist()
    planted = [(world.p(row["prompt_id"], row["task_id"]) - world.p(BASE, row["task_id"])).mean() for row in found]
    error = np.array([row["dp"] for row in found]) - planted
    assert np.abs(error).max() < 0.05
    assert abs(error.mean()) < 0.002


def test_a_probe_of_the_utilities_follows_the_choices(world):
    raw = world.model_probe.targets["raw"]
    assert raw["best_layer"] == 5
    assert raw["r"]["value"] > 0.9
    found = statistics(world.points())
    assert (found["n_prompts"], found["n_tasks"], found["n_on_target"]) == (16, 24, 48)
    assert found["estimable"]
    assert found["effect"]["signal_to_noise"] > 3
    for name in ("on_target", "pooled", "centred"):
        assert found[name]["pearson"]["value"] > 0.9
        assert found[name]["pearson"]["low"] > 0.8
        assert found[name]["p"] == 1 / 401
    assert found["sign_agreement"]["value"] > 0.95
    assert found["intended_behaviour"]["value"] > 0.95
    assert found["intended_probe"]["value"] > 0.95


def test_probe_shifts_are_the_planted_ones_in_units_of_utility(world):
    points = world.points()
    planted = [world.shift[cell] for cell in zip(column(points, "prompt_id"), column(points, "task_id"), strict=True)]
    slope, _ = np.polyfit(planted, column(points, "ds"), 1)
    assert slope == pytest.approx(1.0, abs=0.1)


def test_without_a_shift_nothing_is_estimable():
    """Noise alone moves choices by more than the floor, and by its own standard error."""
    ratios = []
    for seed in range(6):
        found = statistics(World(seed=seed, size=0.0, noise=0.4).points())
        assert not found["estimable"]
        assert "to stand above the model's own noise" in found["why"]
        assert found["effect"]["rms_on_target"] > 0.02
        ratios.append(found["effect"]["signal_to_noise"])
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.2)


def test_without_shift_and_noise_there_is_nothing_to_correlate():
    found = statistics(World(size=0.0, noise=0.0).points())
    assert not found["estimable"]
    assert found["why"].startswith("Δp is the same at all 48 on-target points")
    assert found["on_target"]["pearson"] is found["pooled"]["p"] is None


def test_a_probe_orthogonal_to_the_shift_does_not_follow(world):
    probes = dict(world.model_probe.probes)
    w = probes["raw_5_w"]
    probes["raw_5_w"] = w - w @ DIRECTION * DIRECTION
    points = world.points(probes)
    found = statistics(points)
    assert found["estimable"]
    assert found["intended_behaviour"]["value"] > 0.95
    assert column(points, "ds").std() > 0.01
    for name in ("on_target", "pooled", "centred"):
        assert abs(found[name]["pearson"]["value"]) < 0.25
        assert found[name]["pearson"]["low"] < 0 < found[name]["pearson"]["high"]
        assert found[name]["p"] > 0.05
    assert 0.3 < found["sign_agreement"]["value"] < 0.7


def test_an_encoder_follows_words_on_target_and_nothing_off_target(world):
    """It hears love or hate in the prompt, whatever the task is about."""
    assert world.encoder_probe.targets["raw"]["r"]["value"] > 0.5
    points = world.points(encoder=True)
    found = statistics(points, "words")
    encoder = found["encoder"]
    assert encoder["on_target"]["pearson"]["value"] > 0.75
    assert encoder["pooled"]["pearson"]["value"] < 0.5
    assert encoder["centred"]["pearson"]["value"] < 0.3
    off = ~column(points, "on_target")
    assert r(column(points, "dp", off), column(points, "ds", off)) > 0.8
    assert abs(r(column(points, "dp", off), column(points, "ds_encoder", off))) < 0.15
