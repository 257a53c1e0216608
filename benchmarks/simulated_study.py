"""Answers needed to rank simulated tasks as well as the published rule does: forward passes, or samples.

Nothing is timed. Every rule measures the same 2,000 tasks; a rule's cost is the number of answers it has asked for when
the rank correlation of its utilities with the true ones reaches that of the published rule. Between rounds the cost is
interpolated (log error against log cost), before the first round it is not: the first round is what it costs at least.
In brackets: how many times fewer than published, in the median world and in the worst and the best.

    python benchmarks/simulated_study.py [--seeds 4]
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, ndtr
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from prefprobe.choices.pairs import Pairs, initial_pairs, select_pairs
from prefprobe.thurstonian.comparisons import Comparisons
from prefprobe.thurstonian.fit import fit_mu, posterior_of
from prefprobe.thurstonian.published import fit_published

Floats = npt.NDArray[np.float64]
First = npt.NDArray[np.bool_] | bool
Rng = np.random.Generator

TASKS = 2_000
WORLDS = ((3.0, 0.125), (3.0, 0.25), (3.0, 0.5), (1.0, 0.5))
"""Standard deviation of mu in units of a typical sigma, and that of a pair's own preference as a share of it.

With sd 3 and a share of .125 two published runs agree at r = .933, published is .947; sd 1 is a model of weak preferences.
"""
BIAS, BIAS_SD, REFUSALS = 1.2, 0.5, 0.05
MAX_PAIRS = 60 * TASKS

ASSUMED = f"""\
Assumed: {TASKS:,} tasks; mu normal, sigma lognormal with log sd 0.3 (median 1); a pair's own preference,
the same in every repeat and antisymmetric, is added to mu_i - mu_j; the task shown first gains {BIAS} +- {BIAS_SD} (sd over
pairs) in the logit; {REFUSALS:.0%} of sampled answers are refusals. An answer is a forward pass (exact) or a sample.
Published: a random 5-regular graph, then up to 10 batches of {TASKS // 2:,} pairs (percentile 0.3, relaxed by 1.5), 5 samples a
pair, each in an order of its own drawn at random, refusals count as wins for B, published fit, stop at a rank correlation
of .995 between rounds. Earlier implementations showed a pair in one order only, which costs precision: a row of its own.
Ours: default fit, refusals are left out, same selection of pairs. "5 then 1,000" is the degree of the first graph and the
pairs of a batch. With one order a pair, each batch's mean logit is taken for the bias."""


class World:
    """What is true: `mu` and `sigma` (n,), and for each pair i < j its own preference and position bias (n, n)."""

    def __init__(self, seed: int, mu_sd: float, noise: float) -> None:
        rng = np.random.default_rng([seed, 0])
        mu = rng.normal(0.0, mu_sd, TASKS)
        self.mu = mu - mu.mean()
        self.sigma = np.exp(rng.normal(0.0, 0.3, TASKS))
        self.own = rng.normal(0.0, noise * mu_sd, (TASKS, TASKS))
        self.bias = rng.normal(BIAS, BIAS_SD, (TASKS, TASKS))

    def logits(self, pairs: Pairs, first: First) -> Floats:
        """Log odds of i over j, (m,) for (m, 2) `pairs` i < j, if i (`first`) or j is shown first."""
        i, j = pairs.T
        z = (self.mu[i] - self.mu[j] + self.own[i, j]) / np.hypot(self.sigma[i], self.sigma[j])
        return np.asarray(logit(np.clip(ndtr(z), 1e-12, 1.0 - 1e-12)) + np.where(first, 1.0, -1.0) * self.bias[i, j])

    def p_first(self, pairs: Pairs) -> float:
        """Mean probability of the task shown first."""
        return float(np.mean(expit(self.logits(pairs, True)) + expit(-self.logits(pairs, False))) / 2.0)


@dataclass
class Seen:
    """All that a rule has seen, and how well it did after each round."""

    pairs: Pairs = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    wins: Floats = field(default_factory=lambda: np.zeros(0))
    count: Floats = field(default_factory=lambda: np.zeros(0))
    answers: int = 0
    path: list[tuple[int, int, float]] = field(default_factory=list)
    """Pairs, answers and correlation after each round."""
    mu: Floats = field(default_factory=lambda: np.zeros(TASKS))

    def add(self, pairs: Pairs, wins: Floats, count: Floats, answers: int) -> None:
        """Soft wins of i (m,) out of `count` (m,) observations."""
        self.pairs, self.answers = np.concatenate([self.pairs, pairs]), self.answers + answers
        self.wins, self.count = np.concatenate([self.wins, wins]), np.concatenate([self.count, count])

    def fitted(self, mu: Floats, world: World) -> None:
        """The end of a round."""
        self.mu = mu
        self.path.append((len(self.pairs), self.answers, float(spearmanr(world.mu, mu).statistic)))

    def comparisons(self) -> Comparisons:
        """Pairs of which something is known, in canonical order."""
        order = np.argsort(self.pairs[:, 0] * TASKS + self.pairs[:, 1])
        order = order[self.count[order] > 0.0]
        ids = tuple(f"{k:05d}" for k in range(TASKS))
        i, j = self.pairs[order].T
        return Comparisons(ids, i, j, self.wins[order], self.count[order])

    def cost(self, goal: float) -> tuple[float, float] | None:
        """Pairs and answers at which the correlation reaches `goal`; None if it never does."""
        at = next((k for k, (_, _, reached) in enumerate(self.path) if reached >= goal), None)
        if not at:
            return None if at is None else self.path[0][:2]
        (pairs, answers, low), (pairs_after, answers_after, high) = self.path[at - 1 : at + 1]
        share = np.log((1.0 - low) / (1.0 - goal)) / np.log((1.0 - low) / (1.0 - high))
        return pairs * (pairs_after / pairs) ** share, answers * (answers_after / answers) ** share


Answers = tuple[Floats, Floats, int]
"""Soft wins of i (m,), observations (m,) and answers asked for."""


def half(pairs: Pairs, rng: Rng) -> npt.NDArray[np.bool_]:
    """Whether i is shown first: in half of the pairs."""
    return rng.permutation(np.arange(len(pairs)) % 2 == 0)


def exact_both(world: World, pairs: Pairs, rng: Rng) -> Answers:
    """The average of both orders' logits."""
    p = expit((world.logits(pairs, True) + world.logits(pairs, False)) / 2.0)
    return 2.0 * p, np.full(len(pairs), 2.0), 2 * len(pairs)


def exact_one(world: World, pairs: Pairs, rng: Rng) -> Answers:
    """One order a pair; the mean logit of the batch is its bias."""
    first = half(pairs, rng)
    sign = np.where(first, 1.0, -1.0)
    seen = world.logits(pairs, first)
    return expit(seen - sign * np.mean(sign * seen)), np.ones(len(pairs)), len(pairs)


def sampled(world: World, pairs: Pairs, first: First, rng: Rng) -> tuple[Floats, Floats]:
    """One sample of each pair: whether i is chosen, and whether that is known."""
    answered = rng.random(len(pairs)) >= REFUSALS
    chosen = rng.random(len(pairs)) < expit(world.logits(pairs, first))
    return (chosen & answered).astype(np.float64), answered.astype(np.float64)


def sampled_both(world: World, pairs: Pairs, rng: Rng) -> Answers:
    """One sample in each order."""
    (w, c), (v, d) = sampled(world, pairs, True, rng), sampled(world, pairs, False, rng)
    return w + v, c + d, 2 * len(pairs)


def sampled_one(world: World, pairs: Pairs, rng: Rng) -> Answers:
    """One sample a pair."""
    return *sampled(world, pairs, half(pairs, rng), rng), len(pairs)


def ours(world: World, name: str, goal: float, rng: Rng) -> Seen:
    """Rounds of the rule of that name until the correlation reaches `goal`."""
    seen, (ask, degree, batch) = Seen(), OURS[name]
    while not seen.path or (seen.path[-1][2] < goal and len(seen.pairs) < MAX_PAIRS):
        new = select_pairs(seen.mu, seen.pairs, batch, rng) if seen.path else initial_pairs(TASKS, degree, rng)
        seen.add(new, *ask(world, new, rng))
        seen.fitted(fit_mu(seen.comparisons()), world)
    return seen


def published(world: World, one_order: bool, rng: Rng) -> Seen:
    """The published rule, to the round where it stops."""
    seen, samples = Seen(), 5
    for number in range(11):
        new = select_pairs(seen.mu, seen.pairs, TASKS // 2, rng) if number else initial_pairs(TASKS, 5, rng)
        wins, first = np.zeros(len(new)), half(new, rng)
        for _ in range(samples):
            first = first if one_order else rng.random(len(new)) < 0.5
            chosen, known = sampled(world, new, first, rng)
            wins += np.where(known > 0.0, chosen, ~first)  # a refusal is a win for B, the task shown second
        seen.add(new, wins, np.full(len(new), float(samples)), samples * len(new))
        before = seen.mu
        seen.fitted(fit_published(posterior_of(seen.comparisons()), 1000)[0][0], world)
        if number and spearmanr(before, seen.mu).statistic >= 0.995:
            break
    return seen


OURS: dict[str, tuple[Callable[[World, Pairs, Rng], Answers], int, int]] = {
    "sampled, both orders, 5 then 1,000": (sampled_both, 5, 1_000),
    "sampled, one order a pair, 5 then 2,000": (sampled_one, 5, 2_000),
    "exact, both orders, 5 then 1,000": (exact_both, 5, 1_000),
    "exact, both orders, 2 then 500": (exact_both, 2, 500),
    "exact, one order a pair, 3 then 1,000": (exact_one, 3, 1_000),
}


def study(case: tuple[tuple[float, float], int]) -> dict[str, Any]:
    """All rules in one world."""
    kind, seed = case
    with threadpool_limits(1):
        world = World(seed, *kind)
        rule = published(world, False, np.random.default_rng([seed, 1]))
        other = published(world, True, np.random.default_rng([seed, 2]))
        goals = [rule.path[k][2] for k in (0, len(rule.path) // 2, -1)]
        runs = {"published": rule, "published, one order a pair": other}
        for k, name in enumerate(OURS):
            runs[name] = ours(world, name, goals[-1], np.random.default_rng([seed, 3 + k]))
        return {
            "goals": goals,
            "agreement": float(np.corrcoef(rule.mu, other.mu)[0, 1]),
            "p_first": world.p_first(rule.pairs),
            "costs": {name: [run.cost(goal) for goal in goals] for name, run in runs.items()},
        }


def show(kind: tuple[float, float], results: list[dict[str, Any]]) -> None:
    """The tables of one kind of world: medians over seeds, and the range of each ratio."""
    agreement, p_first = (np.median([r[key] for r in results]) for key in ("agreement", "p_first"))
    goals = np.median([r["goals"] for r in results], axis=0)
    print(
        f"\nsd of mu {kind[0]:g}, pair noise {kind[1]:g} of it. Two published runs agree at r = {agreement:.3f}; the task "
        f"shown first is chosen with P = {p_first:.2f}.\n{'answers to reach a rank correlation of':40}"
        + "".join(f"{goal:>28.3f}" for goal in goals)
        + f"{'pairs':>9}"
    )
    for name in results[0]["costs"]:
        costs = [r["costs"][name] for r in results]
        cells = []
        for k in range(len(goals)):
            ratios = [r["costs"]["published"][k][1] / c[k][1] for r, c in zip(results, costs, strict=True) if c[k]]
            if len(ratios) < len(costs):
                cells.append(f"reached in {len(ratios)} of {len(costs)}")
            else:
                answers = np.median([c[k][1] for c in costs])
                cells.append(f"{answers:,.0f} ({np.median(ratios):.1f}, {min(ratios):.1f} to {max(ratios):.1f})")
        last = [c[-1][0] for c in costs if c[-1]]
        print(f"{name:40}" + "".join(f"{c:>28}" for c in cells) + (f"{np.median(last):9,.0f}" if last else ""))


def main() -> None:
    """Run every kind of world with every seed, two at a time."""
    parser = argparse.ArgumentParser(description="Answers needed to rank tasks as well as the published rule does.")
    parser.add_argument("--seeds", type=int, default=4, help="simulated worlds of each kind")
    seeds = range(parser.parse_args().seeds)
    print(ASSUMED, flush=True)
    with ProcessPoolExecutor(2) as pool:
        results = list(pool.map(study, product(WORLDS, seeds)))
    for k, kind in enumerate(WORLDS):
        show(kind, results[k * len(seeds) : (k + 1) * len(seeds)])


if __name__ == "__main__":
    main()
