"""The active-learning loop: measure pairs, fit utilities, choose the next pairs, stop when more would change little."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import spearmanr

from prefprobe.choices.log import ChoiceLog, Request
from prefprobe.choices.pairs import initial_pairs, select_pairs
from prefprobe.config import ActiveLearningSettings
from prefprobe.utilities import thurstonian
from prefprobe.utilities.reliability import additive_r2, split_half
from prefprobe.utilities.thurstonian import Comparisons, Utilities


@dataclass(frozen=True)
class Measured:
    """What the loop gives: every choice, the utilities, and the diagnostics of `measure.json`."""

    choices: pa.Table
    utilities: Utilities
    summary: dict[str, Any]


def measure_utilities(task_ids: list[str], settings: ActiveLearningSettings, log: ChoiceLog, seed: int) -> Measured:
    """Measure `task_ids` until converged or out of rounds.

    A round counts as converged if its utilities rank the tasks as the round before did (`rank_threshold`), agree between
    random halves of the pairs (`reliability_threshold`), and rest on new information: at least half a batch of new pairs.
    Every random draw is seeded by the round, so that a resumed loop asks for the same pairs.
    """
    task_ids = sorted(task_ids)
    ids = np.array(task_ids)
    pairs = np.empty((0, 2), dtype=np.int64)
    tables: list[pa.Table] = []
    rounds: list[dict[str, Any]] = []
    utilities: Utilities | None = None
    stopped = "max_rounds"
    for number in range(settings.max_rounds):
        rng = np.random.default_rng([seed, 2, number])
        if utilities is None:
            new = initial_pairs(len(ids), settings.initial_degree, rng)
        else:
            new = select_pairs(
                utilities.mu, pairs, settings.batch, rng, percentile=settings.percentile, relax=settings.relax
            )
        if len(new) == 0:
            stopped = "no pairs left"
            break
        requests = [Request("", ids[i], ids[j]) for pair in new for i, j in (pair, pair[::-1])]
        tables.append(log.measure(requests, number))
        pairs = np.concatenate([pairs, new])
        choices = pa.concat_tables(tables)
        comparisons = _comparisons(choices, task_ids)
        before = utilities
        start = None if before is None else (before.mu, np.log(before.sigma))
        utilities = thurstonian.fit(comparisons, start=start)
        halves = split_half(comparisons, seed=seed)
        rounds.append(_diagnostics(number, new, tables[-1], before, utilities, halves))
        if _converged(rounds[-1], halves, settings):
            stopped = "converged"
            break
    assert utilities is not None
    # the last fit starts from zero like anyone's who fits the log again
    utilities = thurstonian.fit(comparisons)
    return Measured(choices, utilities, _summary(choices, pairs, utilities, rounds, halves, stopped, len(ids)))


def _comparisons(choices: pa.Table, task_ids: list[str]) -> Comparisons:
    a, b, logit = (choices.column(c).to_pylist() for c in ("task_a", "task_b", "logit"))
    return Comparisons.from_logits(a, b, logit, task_ids=task_ids)


def _diagnostics(
    number: int, new: np.ndarray, table: pa.Table, before: Utilities | None, now: Utilities, halves: dict[str, Any]
) -> dict[str, Any]:
    return {
        "round": number,
        "new_pairs": len(new),
        "new_choices": table.num_rows,
        "rank_correlation": None if before is None else float(spearmanr(before.mu, now.mu).statistic),
        "split_half": halves["spearman_brown"],
        "median_se": float(np.median(now.se)),
        "p_first": float(np.mean(table.column("p_a").to_numpy())),
        "label_mass": float(np.mean(table.column("label_mass").to_numpy())),
    }


def _converged(round_: dict[str, Any], halves: dict[str, Any], settings: ActiveLearningSettings) -> bool:
    rank, reliability = round_["rank_correlation"], halves["spearman_brown"]
    informed = 2 * round_["new_pairs"] >= settings.batch
    return bool(
        rank is not None
        and reliability is not None
        and rank >= settings.rank_threshold
        and reliability >= settings.reliability_threshold
        and informed
    )


def _summary(
    choices: pa.Table,
    pairs: np.ndarray,
    utilities: Utilities,
    rounds: list[dict[str, Any]],
    halves: dict[str, Any],
    stopped: str,
    n_tasks: int,
) -> dict[str, Any]:
    logit, p_a, mass = (choices.column(c).to_numpy() for c in ("logit", "p_a", "label_mass"))
    a, b = choices.column("task_a").to_pylist(), choices.column("task_b").to_pylist()
    return {
        "n_tasks": n_tasks,
        "n_pairs": len(pairs),
        "n_choices": choices.num_rows,
        "rounds": rounds,
        "stopped": stopped,
        "converged": stopped == "converged",
        "reliability": halves,
        "position_bias": {
            "p_first": float(p_a.mean()),
            "mean_logit": float(logit.mean()),
            "sd_logit": float(logit.std()),
        },
        "label_mass": {"mean": float(mass.mean()), "min": float(mass.min()), "p05": float(np.quantile(mass, 0.05))},
        "additive_r2": additive_r2(a, b, logit),
    }
