"""How often a study stops since its endpoint is taken for another model, in simulated worlds: false stops, and power.

Own weights give exact P(A) of as many pairs as by default, in both orders. The other side is sampled, with so many answers
to an order, or exact. Nothing is timed.

    python benchmarks/agreement.py [--worlds 1000]
"""

import argparse
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import expit
from threadpoolctl import threadpool_limits

from prefprobe.choices.agreement import Agreement, agreement
from prefprobe.choices.log import SCHEMA
from prefprobe.choices.pairs import few_pairs
from prefprobe.settings.api import ApiSettings

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator

BOUNDS = {name: ApiSettings.model_fields[name].default for name in ("min_agreement", "max_difference")}
PAIRS = ApiSettings.model_fields["compare"].default
OWN = {"decisive": (2.5, 0.5, 0.5), "mild": (1.0, 1.2, 0.5), "constant": (0.3, 1.9, 0.2)}
"""Of own weights: sd of a pair's preference, mean and sd of the position bias, all in the logit of P(A)."""
SAME = {"same weights": (1.0, 0.0, 0.0), "in 16 bits": (1.0, 0.0, 0.05), "in 4 bits": (1.0, 0.3, 0.4)}
"""Of the other side: correlation of its preferences with own ones, what is added to its bias, and sd of noise in the logit."""
OTHER = {"another prompt": (0.8, 1.0, 0.7), "another revision": (0.5, -0.5, 0.5), "another model": (0.0, -1.2, 0.5)}
MASSES = (0.95, 0.5)
SAMPLES = (0, 4, 8, 12, 16)
"""Answers to each order; 0 is exact."""

ASSUMED = f"""\
Assumed: {PAIRS} pairs, both orders; own preferences, position bias: decisive sd 2.5, 0.5 +- 0.5; mild sd 1, 1.2 +- 0.5; constant
sd 0.3, 1.9 +- 0.2 (sd of P(A) .05, as SmolLM2-135M has). A question's label mass is drawn around its mean; 5 % of questions
are refused in half of their answers. "In 4 bits" adds 0.3 to the bias and noise of sd 0.4; "another prompt" has preferences
that correlate at .8 with own ones, 1.0 more bias and noise of sd 0.7; "another revision" .5, -0.5 and 0.5; "another model" 0,
-1.2 and 0.5. Percent of worlds in which the study stops, by answers to each order:"""


def world(
    rng: Rng, own: tuple[float, float, float], other: tuple[float, float, float], mass: float, samples: int
) -> tuple[pa.Table, pa.Table]:
    """Choices of own weights, and of the other side."""
    sd, bias, bias_sd = own
    like, more, noise = other
    pairs = few_pairs([f"t{i:03d}" for i in range(3 * PAIRS)], PAIRS, int(rng.integers(2**31)))
    likes = rng.normal(0.0, sd, PAIRS)
    theirs = like * likes + np.sqrt(1 - like**2) * rng.normal(0.0, sd, PAIRS)
    first = rng.normal(bias, bias_sd, PAIRS)
    asked = [(k, a, b, sign) for k, pair in enumerate(pairs) for sign, (a, b) in ((1, pair), (-1, pair[::-1]))]
    here, there = [], []
    for k, a, b, sign in asked:
        labelled = rng.beta(4 * mass, 4 * (1 - mass))
        refuses = 0.5 if rng.random() < 0.05 else 0.0
        logit = first[k] + sign * likes[k]
        here.append(_row(a, b, 0, "exact", float(expit(logit)), labelled))
        p = float(expit(first[k] + more + sign * theirs[k] + rng.normal(0.0, noise)))
        if not samples:
            there.append(_row(a, b, 0, "exact", p, labelled))
        for repeat in range(samples):
            said = "ab"[int(rng.random() > p)] if rng.random() < labelled else "unparsed"
            said = "refusal" if rng.random() < refuses else said
            there.append(_row(a, b, repeat, said, {"a": 1.0, "b": 0.0}.get(said), None))
    return pa.Table.from_pylist(here, schema=SCHEMA), pa.Table.from_pylist(there, schema=SCHEMA)


def _row(a: str, b: str, repeat: int, outcome: str, p_a: float | None, label_mass: float | None) -> dict[str, object]:
    about = {"choice_id": f"{a} {b} {repeat}", "round": 0, "prompt_id": "", "task_a": a, "task_b": b, "repeat": repeat}
    about |= {"outcome": outcome, "p_a": p_a, "logit": None, "label_mass": label_mass}
    return about | {"judged": False, "bounded": False}


def verdicts(own: str, other: str, mass: float, samples: int, worlds: int) -> list[Agreement]:
    """What is found in so many worlds."""
    rng = np.random.default_rng([list(OWN).index(own), list(SAME | OTHER).index(other), int(100 * mass), samples])
    return [agreement(*world(rng, OWN[own], (SAME | OTHER)[other], mass, samples), **BOUNDS) for _ in range(worlds)]


def stops(case: tuple[str, str, float, int, int]) -> float:
    """Share of worlds in which a study stops."""
    with threadpool_limits(1):
        return float(np.mean([found.verdict == "different" for found in verdicts(*case)]))


def table(rates: Mapping[tuple[str, str, float, int, int], float], worlds: int) -> None:
    """Print the rates, a row for every kind of own weights, other side and label mass."""
    print(f"{'own weights':<12}{'other side':<18}{'mass':>5}" + "".join(f"{s or 'exact':>8}" for s in SAMPLES))
    for other, own, mass in product(SAME | OTHER, OWN, MASSES):
        cells = "".join(f"{100 * rates[own, other, mass, s, worlds]:>7.1f}%" for s in SAMPLES)
        print(f"{own:<12}{other:<18}{mass:>5}{cells}")


def main() -> None:
    """Simulate all kinds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", type=int, default=1000)
    worlds = parser.parse_args().worlds
    cases = [(*case, worlds) for case in product(OWN, SAME | OTHER, MASSES, SAMPLES)]
    with ProcessPoolExecutor() as pool:
        rates = dict(zip(cases, pool.map(stops, cases), strict=True))
    print(ASSUMED)
    table(rates, worlds)


if __name__ == "__main__":
    main()
