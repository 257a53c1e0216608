"""How often the verdict's intervals hold what is true, and how often a claim is made where there is nothing.

Every line is one statistic in one planted world, measured with this project's own functions on many draws of that world:
`covers` is the share of 95 % intervals that hold the truth, `false` the share of draws in which the claim is made although
it does not hold, `power` the share in which it is made and holds. Nothing is timed.

    python benchmarks/calibration.py [--worlds 200] [--only folds] [--jobs 2]
"""

import argparse
import importlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

MODULES = ("heldout", "folds", "shifts", "family")
"""Files in benchmarks/worlds/; each has `WORLDS`: a list of `World`."""

BOUNDS = {"covers": (0.93, 0.97), "false": (0.0, 0.05), "power": (0.0, 1.0)}
"""Between what a rate is to lie; power is printed, and bound by nothing."""


@dataclass(frozen=True)
class World:
    """One planted world, and what one draw of it tells."""

    name: str
    draw: Callable[[int], dict[tuple[str, str], bool | None]]
    """Seed → {(claim or statistic, `covers`, `false` or `power`): whether it did so}; None: not estimable in this draw."""
    share: float = 1.0
    """Part of --worlds that is drawn: less where a draw is dear."""


def rates(world: World, n: int, run: Callable[[Any, Iterable[int]], Iterable[dict[Any, Any]]]) -> Iterator[str]:
    """The lines of one world over `n` draws: rate, its Monte Carlo standard error, n, and whether it is within bounds."""
    drawn = list(run(world.draw, range(max(1, round(n * world.share)))))
    for statistic, kind in sorted({key for found in drawn for key in found}):
        known = np.array([f[statistic, kind] for f in drawn if f.get((statistic, kind)) is not None], dtype=np.float64)
        if not len(known):
            yield f"{world.name:34} {statistic:26} {kind:7}  not estimable in any of {len(drawn)}"
            continue
        rate, low, high = known.mean(), *BOUNDS[kind]
        error = np.sqrt(max(rate * (1 - rate), 0.25 / len(known)) / len(known))
        said = "" if kind == "power" else "ok" if low - 2 * error <= rate <= high + 2 * error else "OUT OF BOUNDS"
        yield f"{world.name:34} {statistic:26} {kind:7} {rate:6.3f} ± {error:.3f}  n = {len(known):5}  {said}".rstrip()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--only", choices=MODULES)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    with ProcessPoolExecutor(args.jobs, initializer=threadpool_limits, initargs=(1,)) as pool:
        run = partial(pool.map, chunksize=max(1, args.worlds // (8 * args.jobs)))
        for module in (args.only,) if args.only else MODULES:
            for world in importlib.import_module(f"worlds.{module}").WORLDS:
                for line in rates(world, args.worlds, run):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
