"""The power that is promised against simulated experiments, in which the interval is made from its definition."""

import numpy as np
import pytest
from scipy.special import stdtrit

from prefprobe.settings import ShiftSubset
from prefprobe.shift.experiments import Experiment, ShiftPrompt, ShiftTask, builtin_paths, load_experiments
from prefprobe.shift.jackknife import MIN_BLOCKS
from prefprobe.shift.power import SHARES, SMALLEST, design, subjects_of
from prefprobe.shift.subset import subset_of

WHOLE = load_experiments(builtin_paths())


def world(subjects, r, rng):
    """Δp and Δs, (2, prompts, tasks): on target the four parts, off target the noise of single cells alone."""
    shape = subjects.shape
    parts = {"cell": shape, "prompt": (shape[0], 1), "task": (1, shape[1])}
    mixed = np.linalg.cholesky([[1, r], [r, 1]])

    def drawn(size):
        return np.einsum("ij,j...->i...", mixed, rng.normal(size=(2, *size)))

    values = {name: np.sqrt(SHARES[name]) * drawn(size) for name, size in parts.items()}
    values["subject"] = np.sqrt(SHARES["subject"]) * drawn((subjects.max() + 1,))[:, subjects]
    return np.where(subjects > 0, sum(values.values()), values["cell"])


def corrected(x, y, on, kept):
    """atanh r of the kept on-target cells, each less the mean of its prompt's kept off-target cells."""
    off = kept & ~on
    some = np.maximum(off.sum(axis=1), 1)
    cells = kept & on
    values = [(m - (np.where(off, m, 0).sum(axis=1) / some)[:, None])[cells] for m in (x, y)]
    return np.arctanh(np.corrcoef(*values)[0, 1])


def shown(x, y, subjects):
    """Whether the lower bound is above the smallest effect: blocks left out, or prompts and tasks two ways."""
    on = subjects > 0
    everything = np.ones_like(on)

    def variance(groups):
        z = np.array([corrected(x, y, on, everything & ~group) for group in groups])
        return (len(z) - 1) / len(z) * ((z - z.mean()) ** 2).sum()

    def of(axis, indices):
        group = np.zeros_like(on)
        np.moveaxis(group, axis, 0)[indices] = True
        return group

    # blocks of these designs are subjects where no cell is of two
    blocks = [(subjects == k).any(axis=1) for k in range(1, subjects.max() + 1)]
    if np.sum(blocks, axis=0).max() == 1 and len(blocks) >= MIN_BLOCKS:
        masks = [of(0, rows) | of(1, (subjects == k + 1).any(axis=0)) for k, rows in enumerate(blocks)]
        se, df = np.sqrt(variance(masks)), len(blocks) - 1
    else:
        prompts, tasks = (variance([of(axis, [i]) for i in range(on.shape[axis])]) for axis in (0, 1))
        cells = variance([of(0, [p]) & of(1, [t]) for p, t in np.ndindex(on.shape)])
        se, df = np.sqrt(max(prompts, tasks, prompts + tasks - cells)), min(on.shape) - 1
    return corrected(x, y, on, everything) - stdtrit(df, 0.975) * se > np.arctanh(SMALLEST)


def part(name, prompts, tasks):
    parts = subset_of(WHOLE, ShiftSubset(prompts=prompts, tasks=tasks))
    return subjects_of(next(p for p in parts if p.name == name))


PURE = np.kron(np.arange(1, 9)[:, None] * np.eye(8, dtype=np.int64), np.ones((2, 2), dtype=np.int64))
"""Eight subjects, each of two prompts with two tasks."""
DIAGONAL = np.diag(np.arange(1, 9))


@pytest.mark.parametrize(
    ("subjects", "r"),
    [
        pytest.param(part("category", 8, 10), 0.7, id="8 x 10"),
        pytest.param(part("competing", 8, 10), 0.6, id="competing 8 x 10"),
        pytest.param(PURE, 0.75, id="blocks of 2 x 2"),
        pytest.param(DIAGONAL, 0.85, id="diagonal"),
        pytest.param(subjects_of(WHOLE[1]), 0.5, id="the whole of targeted"),
    ],
)
def test_power_is_what_a_simulation_finds(subjects, r):
    rng, n = np.random.default_rng(1), 150
    worlds = (world(subjects, r, rng) for _ in range(n))
    found = np.mean([shown(dp, ds, subjects) for dp, ds in worlds])
    expected = design(subjects).power(r)
    assert found == pytest.approx(expected, abs=0.1 + 2 * np.sqrt(expected * (1 - expected) / n))
    assert 0.1 < expected < 0.95  # else it would be no test


@pytest.mark.parametrize("experiment", WHOLE, ids=lambda e: e.name)
def test_the_packaged_experiments_can_show_a_correlation_of_07(experiment):
    found = design(subjects_of(experiment))
    assert found.power(0.7) >= 0.9
    assert found.shows is not None
    assert found.shows < 0.7
    assert found.power(found.shows) == pytest.approx(0.9)


def test_power_is_that_of_chance_at_the_smallest_effect_and_grows():
    found = design(part("crossed", 8, 10))
    assert 0.01 < found.power(SMALLEST) < 0.05
    powers = [found.power(r) for r in (0.2, 0.4, 0.6, 0.8)]
    assert powers == sorted(powers)
    sizes = [design(part("targeted", 2 * k, 2 * k)).power(0.7) for k in (2, 4, 6, 8)]
    assert sizes == sorted(sizes)


def test_crossed_cells_show_more_than_as_many_on_a_diagonal():
    assert design(PURE).power(0.7) > design(DIAGONAL).power(0.7) + 0.2
    assert (design(DIAGONAL).shows or 1.0) > 0.9


@pytest.mark.parametrize("subjects", [np.zeros((3, 3), dtype=np.int64), np.diag([1, 1]), np.array([[1, 1, 1, 0]])])
def test_what_has_no_interval_shows_nothing(subjects):
    found = design(subjects)
    assert (found.power(0.9), found.shows) == (0.0, None)


def test_subjects_are_the_labels_that_prompt_and_task_share():
    prompts = [ShiftPrompt(id=f"p{i}", text="You.", targets=t) for i, t in enumerate([{"a": 1, "b": -1}, {"b": 1}, {}])]
    tasks = [ShiftTask(id=f"t{i}", text="Do.", topic="x", labels=t) for i, t in enumerate([("a",), ("b", "a"), ("c",)])]
    found = subjects_of(Experiment("e", tuple(prompts), tuple(tasks)))
    assert (found > 0).tolist() == [[True, True, False], [False, True, False], [False, False, False]]
    assert len({found[0, 0], found[0, 1], found[1, 1]}) == 3
