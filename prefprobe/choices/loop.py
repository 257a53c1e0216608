"""The active-learning loop: measure pairs, fit utilities, choose the next pairs, stop when more would change little."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from prefprobe.choices.engine import Spend
from prefprobe.choices.log import ChoiceLog, comparisons, nothing_said
from prefprobe.choices.pairs import Pairs, initial_pairs, select_pairs
from prefprobe.errors import BadConfig
from prefprobe.settings import ActiveLearningSettings
from prefprobe.store.formats import json_bytes, read_json
from prefprobe.store.steps import StepStore
from prefprobe.thurstonian.fit import Utilities, fit_utilities
from prefprobe.thurstonian.reliability import additive_r2, split_half

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What the loop gives: every choice, the utilities, and the diagnostics of `measure.json`."""

    choices: pa.Table
    utilities: Utilities
    summary: dict[str, Any]


@dataclass(frozen=True)
class Round:
    """A finished round, as it is saved: where a loop that was killed goes on."""

    pairs: Pairs
    """(k, 2) the pairs that were new in it, as task numbers in the order of their ids."""
    mu: Floats
    """(n,) utilities after it, from which the next pairs follow."""
    log_sigma: Floats
    """(n,)"""
    diagnostics: dict[str, Any]

    @classmethod
    def of(cls, data: bytes) -> "Round":
        """From the bytes of its part."""
        saved = read_json(data)
        pairs = np.array(saved["pairs"], dtype=np.int64).reshape(-1, 2)
        return cls(pairs, np.array(saved["mu"]), np.array(saved["log_sigma"]), saved["diagnostics"])

    def data(self) -> bytes:
        """The bytes of its part; every number comes back as it was."""
        arrays = {"pairs": self.pairs.tolist(), "mu": self.mu.tolist(), "log_sigma": self.log_sigma.tolist()}
        return json_bytes(arrays | {"diagnostics": self.diagnostics})


def measure_utilities(
    log: ChoiceLog, settings: ActiveLearningSettings, *, store: StepStore | None = None, seed: int = 0
) -> Measured:
    """Measure the tasks of `log` until converged, out of rounds, or out of budget.

    With a `store` rounds are saved as its parts, from which a loop that was killed goes on.

    A round counts as converged if its utilities rank the tasks as the round before did (`rank_threshold`), agree between
    random halves of the pairs (`reliability_threshold`), and rest on new information: at least half a batch of new pairs.
    The generator of a round is seeded by its number, so that a resumed loop asks for the same pairs.
    Raises BadConfig for fewer than 2 tasks, and if the budget covers no choice at all.
    """
    if len(log.texts) < 2:
        raise BadConfig(f"there are {len(log.texts)} tasks to compare, and a choice takes two; add tasks.")
    ids = np.array(sorted(log.texts))
    saved = {} if store is None else store.parts()
    rounds: list[Round] = []
    tables: list[pa.Table] = []
    stopped = "max_rounds"
    while len(rounds) < settings.max_rounds:
        number, name = len(rounds), f"round-{len(rounds):03d}.json"
        before = rounds[-1] if rounds else None
        done = Round.of(store.read_part(name)) if store is not None and name in saved else None
        pairs = (
            done.pairs if done else _next_pairs(rounds, len(ids), settings, np.random.default_rng([seed, 2, number]))
        )
        if len(pairs) == 0:
            stopped = "no pairs left"
            break
        questions = log.questions((("", str(ids[i]), str(ids[j])) for i, j in pairs.tolist()), settings.samples)
        tables.append(log.measure(questions, number))
        if done is None:
            done = _finished(number, pairs, pa.concat_tables(tables), tables[-1], log, ids, before, seed)
            if store is not None and tables[-1].num_rows == len(questions):
                store.write_part(name, done.data())
        rounds.append(done)
        if tables[-1].num_rows < len(questions):
            stopped = "budget"
            break
        if _converged(done.diagnostics, settings):
            stopped = "converged"
            break
    choices = pa.concat_tables(tables)
    # the last fit starts from zero like anyone's who fits the log again
    utilities = fit_utilities(comparisons(choices, ids))
    return Measured(choices, utilities, _summary(choices, utilities, rounds, log, stopped))


def _next_pairs(rounds: list[Round], n: int, settings: ActiveLearningSettings, rng: np.random.Generator) -> Pairs:
    if not rounds:
        return initial_pairs(n, settings.initial_degree, rng)
    seen = np.concatenate([r.pairs for r in rounds])
    return select_pairs(rounds[-1].mu, seen, settings.batch, rng, percentile=settings.percentile, relax=settings.relax)


def _finished(
    number: int,
    pairs: Pairs,
    choices: pa.Table,
    new: pa.Table,
    log: ChoiceLog,
    ids: npt.NDArray[np.str_],
    before: Round | None,
    seed: int,
) -> Round:
    if not new.num_rows:
        raise BadConfig(f"the budget covers no choice of round {number}; raise it, or leave it out.")
    compared = comparisons(choices, ids)
    utilities = fit_utilities(compared, start=None if before is None else (before.mu, before.log_sigma))
    halves = split_half(compared, seed=seed)
    diagnostics = {
        "round": number,
        "new_pairs": len(pairs),
        "new_choices": new.num_rows,
        "rank_correlation": None if before is None else _rank_correlation(before.mu, utilities.mu),
        "split_half": halves["spearman_brown"],
        "reliability": halves,
        "median_se": float(np.median(utilities.se)),
        "p_first": pc.mean(new.column("p_a")).as_py(),
        "label_mass": pc.mean(new.column("label_mass")).as_py(),
        **nothing_said(new),
        "spend": asdict(Spend.of(log.asked[id_] for id_ in new.column("choice_id").to_pylist())),
    }
    return Round(pairs, utilities.mu, np.log(utilities.sigma), diagnostics)


def _rank_correlation(before: Floats, after: Floats) -> float | None:
    """Spearman's, of utilities (n,) after two rounds; None where one of them puts no task before another."""
    if np.ptp(before) == 0.0 or np.ptp(after) == 0.0:
        return None
    from scipy.stats import spearmanr  # here, as in `probes.metrics`

    return float(spearmanr(before, after).statistic)


def _converged(round_: dict[str, Any], settings: ActiveLearningSettings) -> bool:
    rank, reliability = round_["rank_correlation"], round_["split_half"]
    return bool(
        rank is not None
        and reliability is not None
        and rank >= settings.rank_threshold
        and reliability >= settings.reliability_threshold
        and 2 * round_["new_pairs"] >= settings.batch
    )


def _summary(
    choices: pa.Table, utilities: Utilities, rounds: list[Round], log: ChoiceLog, stopped: str
) -> dict[str, Any]:
    mass = choices.column("label_mass").drop_null().to_numpy()
    logit = choices.column("logit").drop_null().to_numpy()
    exact = choices.filter(pc.is_valid(choices.column("logit")))
    return {
        "n_tasks": len(utilities.task_ids),
        "n_pairs": sum(len(r.pairs) for r in rounds),
        "n_choices": choices.num_rows,
        **log.account(choices),
        "rounds": [r.diagnostics for r in rounds],
        "stopped": stopped,
        "converged": stopped == "converged",
        "reliability": rounds[-1].diagnostics["reliability"],
        "position_bias": {
            "p_first": pc.mean(choices.column("p_a")).as_py(),
            "mean_logit": float(logit.mean()) if len(logit) else None,
            "sd_logit": float(logit.std()) if len(logit) else None,
        },
        "label_mass": {
            "mean": float(mass.mean()) if len(mass) else None,
            "min": float(mass.min()) if len(mass) else None,
            "p05": float(np.quantile(mass, 0.05)) if len(mass) else None,
        },
        "additive_r2": additive_r2(*(exact.column(c).to_pylist() for c in ("task_a", "task_b", "logit")))
        if exact.num_rows
        else None,
    }
