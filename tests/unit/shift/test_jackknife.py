from typing import Any

import numpy as np
import pytest
from scipy.special import stdtrit

from prefprobe.probes.intervals import fisher, jackknife_se
from prefprobe.shift.cells import Cells
from prefprobe.shift.jackknife import MIN_BLOCKS, blocks_of, difference_interval, r_interval

EVERYWHERE = np.ones((7, 9), dtype=bool)
THIRD = (np.arange(7)[:, None] - np.arange(9)) % 3 == 0
CHAIN = (np.arange(7)[:, None] - np.arange(9)) % 4 < 2
"""On-target cells of which all are linked."""


def grids(seed: int = 0, shape: tuple[int, ...] = (7, 9), slope: float = 1.0) -> Any:
    rng = np.random.default_rng(seed)
    x, y, z = (rng.normal(size=(shape[0], 1)) + rng.normal(size=shape) for _ in "xyz")
    return x, slope * x + y, 0.5 * slope * x + z


def interval(x: Any, y: Any, cells: Cells, blocks: Any = None) -> Any:
    r = cells.pearson(x, y)
    assert r is not None
    return r_interval(r, x, y, cells, blocks)


def blocked(on: Any) -> Any:
    return blocks_of(on)


def of_blocks(n: int, prompts: int = 2, tasks: int = 3) -> Any:
    return np.kron(np.eye(n), np.ones((prompts, tasks))) > 0


def refit(x: Any, y: Any, cells: Cells, keep: Any) -> Any:
    """The correlation over the cells of `keep`, every mean taken again, prompt by prompt and by hand."""
    left, right = [], []
    for p in range(len(x)):
        of = cells.of[p] & keep[p]
        if of.any():
            away = (
                [0.0, 0.0] if cells.reference is None else [m[p][cells.reference[p] & keep[p]].mean() for m in (x, y)]
            )
            left += (x[p][of] - away[0]).tolist()
            right += (y[p][of] - away[1]).tolist()
    return np.corrcoef(left, right)[0, 1]


def leaving(shape: Any, prompts: Any = (), tasks: Any = (), cell: Any = None) -> Any:
    keep = np.ones(shape, dtype=bool)
    keep[list(prompts)] = False
    keep[:, list(tasks)] = False
    if cell is not None:
        keep[cell] = False
    return keep


def two_ways(statistic: Any, cells: Cells) -> Any:
    """Variance by the definition: one refit for each prompt, task and cell that is left out."""
    shape = cells.of.shape
    kept = (
        [leaving(shape, prompts=[p]) for p in range(shape[0])],
        [leaving(shape, tasks=[t]) for t in range(shape[1])],
        [leaving(shape, cell=cell) for cell in zip(*np.nonzero(cells.used), strict=True)],
    )
    prompts, tasks, single = (float(jackknife_se([statistic(keep) for keep in of]) or 0.0) ** 2 for of in kept)
    return max(prompts, tasks, prompts + tasks - single)


KINDS = {
    "on_target": Cells(CHAIN),
    "pooled": Cells(EVERYWHERE),
    "centred": Cells(EVERYWHERE, EVERYWHERE),
    "corrected": Cells(CHAIN, ~CHAIN),
    "corrected_grid": Cells(EVERYWHERE, ~CHAIN),
}


@pytest.mark.parametrize("kind", KINDS)
def test_two_ways_are_refits_without_a_prompt_a_task_and_a_cell(kind):
    cells = KINDS[kind]
    x, y, z = grids()
    found: Any = interval(x, y, cells)
    variance = two_ways(lambda keep: fisher(refit(x, y, cells, keep)), cells)
    assert found["se"] == pytest.approx(np.sqrt(variance))
    assert found["df"] == 6
    reach, z_of_r = stdtrit(6, 0.975) * np.sqrt(variance), float(fisher(found["value"]))
    assert [found["low"], found["high"]] == pytest.approx([np.tanh(z_of_r - reach), np.tanh(z_of_r + reach)])
    found = difference_interval(0.25, x, y, z, cells, None)
    variance = two_ways(lambda keep: refit(x, y, cells, keep) - refit(x, z, cells, keep), cells)
    assert found["se"] == pytest.approx(np.sqrt(variance))
    assert found["high"] - 0.25 == pytest.approx(0.25 - found["low"])


@pytest.mark.parametrize("corrected", [False, True])
def test_blocks_are_left_out_whole(corrected):
    on = of_blocks(7)
    on = np.hstack([on, np.zeros((14, 2), dtype=bool)])  # two tasks that no prompt is about
    cells = Cells(on, ~on if corrected else None)
    x, y, _ = grids(shape=on.shape)
    kept = [leaving(on.shape, [2 * b, 2 * b + 1], [3 * b, 3 * b + 1, 3 * b + 2]) for b in range(7)]
    kept += [leaving(on.shape, tasks=[t]) for t in (21, 22)]
    se = jackknife_se([float(fisher(refit(x, y, cells, keep))) for keep in kept])
    found = interval(x, y, cells, blocks_of(on))
    assert found["se"] == pytest.approx(se)
    assert found["df"] == 6


def test_a_diagonal_is_resampled_by_pairs():
    """Two ways, by blocks, or the jackknife of eight points that textbooks have: all the same."""
    on = np.eye(8, dtype=bool)
    x, y, _ = grids(shape=on.shape)
    points = np.array([x[on], y[on]])
    se = jackknife_se([float(fisher(np.corrcoef(np.delete(points, i, axis=1))[0, 1])) for i in range(8)])
    for blocks in (None, blocks_of(on)):
        found = interval(x, y, Cells(on), blocks)
        assert (found["se"], found["df"]) == (pytest.approx(se), 7)


def test_blocks_are_found_by_what_on_target_cells_link():
    on = of_blocks(MIN_BLOCKS)
    rng = np.random.default_rng(0)
    mixed = on[rng.permutation(len(on))][:, rng.permutation(on.shape[1])]
    for cells in (on, mixed, np.pad(on, 1)):
        found = blocked(cells)
        assert found.n_on_target == MIN_BLOCKS
        assert (found.prompts.sum(axis=0) == 1).all()
        assert (found.tasks.sum(axis=0) == 1).all()
        inside = found.prompts.T.astype(int) @ found.tasks > 0
        assert (inside | ~cells).all()
        assert len(found.prompts) == MIN_BLOCKS + sum(cells.shape) - sum(on.shape)
    assert blocks_of(of_blocks(MIN_BLOCKS - 1)) is None
    linked = on.copy()
    linked[0, -1] = True
    assert blocks_of(linked) is None
    assert blocks_of(np.zeros((3, 4), dtype=bool)) is None


def test_there_are_no_bounds_where_a_part_left_out_leaves_nothing():
    x, y, _ = grids(shape=(3, 4))
    every, nothing = np.ones((3, 4), dtype=bool), {"value": 0.5, "low": None, "high": None, "se": None, "df": None}
    assert r_interval(0.5, x, y, Cells(every), None)["low"] is not None
    assert r_interval(0.5, x[:2], y[:2], Cells(every[:2]), None) == nothing  # two prompts
    assert r_interval(0.5, x[:, :2], y[:, :2], Cells(every[:, :2]), None) == nothing
    alone = every.copy()
    alone[0, 1:] = False  # the first prompt has one cell to take its mean from: without it there is none
    assert r_interval(0.5, x, y, Cells(every, alone), None) == nothing
    still = x.copy()
    still[1:] = 0.0  # without the first prompt Δp does not vary
    assert r_interval(0.5, still, y, Cells(every), None) == nothing


def test_a_variance_of_two_ways_is_no_less_than_of_either():
    """Δp and Δs in which every cell is worth as much as its prompt and its task: there V can be below 0."""
    lower = 0
    for seed in range(40):
        x, y, _ = np.random.default_rng(seed).normal(size=(3, 5, 6))
        cells = Cells(np.ones((5, 6), dtype=bool))
        one_way: list[Any] = [
            jackknife_se([float(fisher(refit(x, y, cells, leaving((5, 6), **{way: [i]})))) for i in range(n)])
            for way, n in (("prompts", 5), ("tasks", 6))
        ]
        found = interval(x, y, cells)
        assert found["se"] >= max(one_way) * (1 - 1e-9)
        lower += found["se"] <= max(one_way) * (1 + 1e-9)
    assert 0 < lower < 40


@pytest.mark.parametrize(("prompt_part", "rho"), [(0.7, 0.0), (0.7, 0.8), (0.0, 0.8)])
def test_covers_the_truth_where_prompts_differ(prompt_part, rho):
    """Resampling cells as if independent covers in 59 % and 54 % of the first two worlds, in 97 % of the third."""
    rng = np.random.default_rng(0)
    mixing = np.linalg.cholesky([[1, rho], [rho, 1]])
    cells, hits = Cells(np.ones((10, 12), dtype=bool)), []
    for _ in range(400):
        prompt, cell = (np.einsum("ij,jpt->ipt", mixing, rng.normal(size=(2, 10, n))) for n in (1, 12))
        x, y = np.sqrt(prompt_part) * prompt + np.sqrt(1 - prompt_part) * cell
        found = interval(x, y, cells)
        hits.append(found["low"] <= rho <= found["high"])
    assert 0.91 <= np.mean(hits) <= 0.99


def test_covers_the_truth_where_subjects_differ():
    """What all cells of a subject share makes prompts and tasks of one block dependent."""
    rng, on = np.random.default_rng(0), of_blocks(8, 4, 4)
    hits: dict[str, list[bool]] = {"blocks": [], "two ways": []}
    blocks, cells = blocked(on), Cells(on, ~on)
    for _ in range(300):
        subject, cell = rng.normal(size=(2, 2, 8)), rng.normal(size=(2, *on.shape))
        shared = 0.5 * subject[0] + np.sqrt(0.75) * subject[1]  # of two subjects' parts, r = .5
        x, y = (
            np.where(on, blocks.prompts.T @ (of[:, None] * blocks.tasks) + e, 0.1 * e)
            for of, e in zip((subject[0][0], shared[0]), cell, strict=True)
        )
        for name, how in (("blocks", blocks), ("two ways", None)):
            found = interval(x, y, cells, how)
            hits[name].append(found["low"] <= 0.25 <= found["high"])  # half of the variance is the subject's
    assert np.mean(hits["blocks"]) >= 0.91
    assert np.mean(hits["two ways"]) < np.mean(hits["blocks"])


def test_scale_and_offset_of_scores_change_nothing():
    x, y, z = grids()
    for cells in KINDS.values():
        one, two = (r_interval(0.5, x, of, cells, None) for of in (y, 1e6 * y + 1e5))
        assert two == pytest.approx(one)
        one, two = (difference_interval(0.5, x, of, z, cells, None) for of in (y, 1e6 * y + 1e5))
        assert two == pytest.approx(one)
