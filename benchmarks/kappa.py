"""What intervals of Cohen's kappa and of Cramér's V cover: 95 % of planted values, if they are right.

Two judges label tasks of several topics; each errs with a given probability, towards a neighbour. The planted kappa and V are
those of the probabilities themselves. Printed is the share of samples whose interval holds the planted value.
"""

import argparse

import numpy as np
import numpy.typing as npt

from prefprobe.topics.agreement import cramers_v, kappa

Floats = npt.NDArray[np.float64]


def judges(topics: int, errs: float, skew: float) -> Floats:
    """(k, k) probabilities of both labels; `skew` makes some topics rarer, of which the rarest is exp(-skew) as likely."""
    share = np.exp(-skew * np.linspace(0, 1, topics))
    said = (1 - errs) * np.eye(topics) + errs * np.roll(np.eye(topics), 1, axis=1)
    return np.asarray((share / share.sum())[:, None, None] * (said[:, :, None] * said[:, None, :])).sum(0)


def origins(rows: int, topics: int, told: float) -> Floats:
    """(r, c) probabilities: a share `told` of an origin's tasks is of topics of its own."""
    own = np.zeros((rows, topics))
    for topic in range(topics):
        own[topic % rows, topic] = 1.0
    own /= own.sum(1, keepdims=True)
    return np.asarray((told * own + (1 - told) / topics) / rows)


def true_kappa(p: Floats) -> float:
    """Kappa of probabilities."""
    chance = p.sum(1) @ p.sum(0)
    return float((np.trace(p) - chance) / (1 - chance))


def true_v(p: Floats) -> float:
    """V of probabilities."""
    expected = np.outer(p.sum(1), p.sum(0))
    return float(np.sqrt(((p - expected) ** 2 / expected).sum() / (min(p.shape) - 1)))


def draw(p: Floats, n: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Both columns of n rows."""
    cells = rng.choice(p.size, n, p=p.ravel() / p.sum())
    return [str(c // p.shape[1]) for c in cells], [str(c % p.shape[1]) for c in cells]


def main(samples: int, seed: int) -> None:
    """Print a line for every planted table."""
    rng = np.random.default_rng(seed)
    for n in (100, 400):
        for topics, errs, skew in (
            (13, 0.02, 2.0),
            (13, 0.1, 0.0),
            (13, 0.1, 2.0),
            (13, 0.3, 2.0),
            (3, 0.1, 2.0),
            (13, 0.6, 0.0),
        ):
            p = judges(topics, errs, skew)
            truth, held = true_kappa(p), 0
            for _ in range(samples):
                found = kappa(*draw(p, n, rng))
                held += (
                    found["low"] is not None and found["high"] is not None and found["low"] <= truth <= found["high"]
                )
            print(f"kappa {truth:.3f}, {topics} topics, skew {skew:g}, n {n}: {100 * held / samples:.1f} %")
    for n in (200, 400, 3000):
        for told in (0.0, 0.05, 0.1, 0.3, 0.7, 0.95):
            p = origins(5, 13, told)
            truth, held = true_v(p), 0
            for _ in range(samples):
                v = cramers_v(*draw(p, n, rng))["v"]
                held += (
                    v is not None
                    and v["low"] is not None
                    and v["high"] is not None
                    and v["low"] - 1e-9 <= truth <= v["high"] + 1e-9
                )
            print(f"V {truth:.3f}, 5 origins, 13 topics, n {n}: {100 * held / samples:.1f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    main(args.samples, args.seed)
