"""What an experiment can show before it is run: its power for an on-target correlation that counts.

The rule is the verdict's: the lower bound of the 95 % interval of r, on Fisher's z, lies above the smallest effect. Its
power follows from how many on-target cells there are and from what these share. Assumed is that Δp and Δs of an on-target
cell, less the mean of the prompt's off-target cells, are normal with correlation r, made of four parts that correlate
alike: one of the subject that the cell is about, one of its prompt, one of its task, one of its own (SHARES of variance).
The influence of a cell on atanh r is a quadratic form with variance 1, so two cells whose values correlate with ρ
have influences that correlate with ρ² (Isserlis 1918, Biometrika 12:134), and over n on-target cells

    1 / m = Σ ρ² over all pairs of cells, in both orders and with themselves, / n²

says how many independent cells, m, they are worth; their atanh r has variance 1 / (m - 3) (Fisher 1921, Metron 1:3).
`tests/unit/shift/test_power.py` holds the power that follows against simulated experiments: it is within 0.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import nctdtr, nctdtrinc, stdtrit

from prefprobe.probes.intervals import fisher
from prefprobe.shift.experiments import Experiment
from prefprobe.shift.jackknife import blocks_of

Ints = npt.NDArray[np.int64]

SMALLEST = 0.2
"""The smallest correlation that counts."""
SHARES = {"subject": 0.2, "prompt": 0.2, "task": 0.2, "cell": 0.4}
POWER, TYPICAL = 0.9, 0.7
"""The power at which an experiment is said to be able to show something, and the r that it is expected to show."""


@dataclass(frozen=True)
class Design:
    """The on-target cells of an experiment, as far as its power depends on them."""

    n: int
    """On-target cells."""
    se: float
    """Standard error of atanh r."""
    estimated: float
    """The standard error that the interval takes: less than `se` where few subjects are as good as given."""
    df: int
    """Degrees of freedom of the interval."""

    def power(self, r: float) -> float:
        """Probability that the lower bound lies above SMALLEST where the true correlation is `r`."""
        if not self._estimable:
            return 0.0
        return float(1.0 - nctdtr(self.df, (fisher(r) - fisher(SMALLEST)) / self.se, self._reach))

    @property
    def shows(self) -> float | None:
        """The least true correlation that has a power of POWER; None if not even .99 has."""
        if not self._estimable or self.power(0.99) < POWER:
            return None
        return float(np.tanh(fisher(SMALLEST) + self.se * nctdtrinc(self.df, 1.0 - POWER, self._reach)))

    @property
    def _estimable(self) -> bool:
        return self.df >= 2 and np.isfinite(self.se)

    @property
    def _reach(self) -> float:
        return float(stdtrit(self.df, 0.975)) * self.estimated / self.se


def subjects_of(experiment: Experiment) -> Ints:
    """(prompts, tasks): 0 off target, else a number for what the cell is about, the labels that prompt and task share."""
    found = [
        [tuple(sorted(prompt.targets.keys() & set(task.labels))) for task in experiment.tasks]
        for prompt in experiment.prompts
    ]
    codes = {labels: i for i, labels in enumerate(sorted({labels for row in found for labels in row} | {()}))}
    return np.array([[codes[labels] for labels in row] for row in found], dtype=np.int64)


def design(subjects: Ints) -> Design:
    """The design of the matrix that `subjects_of` gives, (prompts, tasks)."""
    on = subjects > 0
    n, (prompt, task) = int(on.sum()), np.nonzero(on)
    if not n:
        return Design(0, np.inf, np.inf, 0)
    subject = subjects[on]
    off = (~on).sum(axis=1)[prompt]
    own = SHARES["cell"]
    # the noise of the mean that is taken away is the prompt's
    total = 1.0 + float(np.mean(own / np.maximum(off, 1)))
    of_prompt, of_task, of_subject = (SHARES[name] / total for name in ("prompt", "task", "subject"))
    of_prompt += 1.0 - 1.0 / total
    rho = of_prompt * _same(prompt) + of_task * _same(task) + of_subject * _same(subject)
    np.fill_diagonal(rho, 1.0)
    squares = rho * rho
    se = _error(squares.sum() / n**2)
    blocks = blocks_of(on)
    if blocks is not None:
        return Design(n, se, se, blocks.n_on_target - 1)
    # two ways, only cells of one prompt or of one task are seen to go together
    estimated = _error(squares[_same(prompt) | _same(task)].sum() / n**2)
    return Design(n, se, estimated, min(len(set(prompt)), len(set(task))) - 1)


def _error(variance: float) -> float:
    """Standard error of atanh r of 1 / `variance` independent cells; infinite of three or fewer."""
    return float(1.0 / np.sqrt(1.0 / variance - 3.0)) if variance < 1.0 / 3.0 else np.inf


def _same(of: Sequence[int] | Ints) -> npt.NDArray[np.bool_]:
    codes = np.asarray(of)
    return np.asarray(codes[:, None] == codes)
