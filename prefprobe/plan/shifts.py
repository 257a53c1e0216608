"""What the experiments under system prompts can show, before anything is spent."""

from collections.abc import Sequence
from dataclasses import dataclass

from prefprobe.shift.experiments import Experiment
from prefprobe.shift.power import POWER, SMALLEST, TYPICAL, design, subjects_of
from prefprobe.shift.subset import part_of


@dataclass(frozen=True)
class Shows:
    """One experiment, as much of it as is run."""

    experiment: str
    part: str
    """As in "8 of 38 prompts, 10 of 60 tasks"."""
    on_target: int
    """Cells, (prompt, task), that a correlation is over."""
    power: float
    """Probability of showing a true correlation of TYPICAL."""
    shows: float | None
    """The least true correlation that is shown with a probability of POWER; None if none is."""

    @property
    def said(self) -> str:
        """In one sentence."""
        about = f"Experiment {self.experiment}: {self.part}; {self.on_target} cells on target"
        if self.shows is None:
            return f"{about} cannot show any correlation (power {self.power:.2f} at r = {TYPICAL:g})."
        can = (
            f"{about} show an on-target r of {self.shows:.2f} or more (lower bound above {SMALLEST:g}, power {POWER:g})"
        )
        return (
            f"{can}." if self.shows <= TYPICAL else f"{can}; they cannot show r = {TYPICAL:g} (power {self.power:.2f})."
        )


def shows(experiments: Sequence[tuple[Experiment, Experiment]]) -> list[Shows]:
    """One for each of (the part that is run, the whole), in their order."""
    found = []
    for part, whole in experiments:
        cells = design(subjects_of(part))
        found.append(Shows(part.name, part_of(part, whole), cells.n, cells.power(TYPICAL), cells.shows))
    return found
