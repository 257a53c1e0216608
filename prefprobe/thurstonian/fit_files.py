"""`prefprobe fit`: utilities from a file of choices, as files in a new folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from prefprobe.errors import BadConfig
from prefprobe.store.formats import csv_bytes, json_bytes, parquet_bytes
from prefprobe.store.new_files import require_new_folder, write_folder
from prefprobe.thurstonian.bootstrap import bootstrap_errors
from prefprobe.thurstonian.choice_files import Choices, read_choices
from prefprobe.thurstonian.fit import TOLERANCE, Comparisons, FitReport, Utilities, fit_utilities
from prefprobe.thurstonian.published import published_objective
from prefprobe.thurstonian.reliability import split_half
from prefprobe.thurstonian.task_lists import read_task_ids

_SEED = 0
_LEAST_RESAMPLES = 20


def fit_choices(path: Path, out: Path, *, tasks: Path | None = None, compat: bool, resamples: int) -> str:
    """Fit the choices of `path` and write utilities.parquet, utilities.csv and fit.json into the folder `out`.

    The files depend on the choices alone, not on their format or order. `tasks` is a file of all task ids in the order that
    the result shall have; without it they are sorted, which no order of rows can change. `compat` is the published
    procedure, with refusals as choices of task_b. `resamples` > 0 adds `se_bootstrap` to the tables. All files are written
    or none. Returns a sentence about the fit. Raises BadConfig for bad input and for a folder that is not new or empty.
    """
    require_new_folder(out)
    if resamples and resamples < _LEAST_RESAMPLES:
        raise BadConfig(f"--bootstrap is {resamples}, expected 0 or at least {_LEAST_RESAMPLES}; ask for 200, say.")
    task_ids = read_task_ids(tasks) if tasks else ()
    choices = read_choices(path, task_ids)
    comparisons = choices.comparisons(task_ids, refusals_lose=compat)
    utilities = fit_utilities(comparisons, compat=compat)
    columns: dict[str, Any] = {
        "task_id": pa.array(utilities.task_ids, pa.string()),
        "mu": utilities.mu,
        "sigma": utilities.sigma,
        "se": utilities.se,
    }
    if resamples:
        columns["se_bootstrap"] = bootstrap_errors(comparisons, utilities, samples=resamples, seed=_SEED)
    table = pa.table(columns)
    about = _about(choices, comparisons, utilities, compat)
    files = {
        "utilities.parquet": parquet_bytes(table),
        "utilities.csv": csv_bytes(table),
        "fit.json": json_bytes(about),
    }
    write_folder(files, out)
    return f"{len(table)} tasks, {about['comparisons']:g} choices; {about['why']} {', '.join(files)} are in {out}."


def _about(choices: Choices, comparisons: Comparisons, utilities: Utilities, compat: bool) -> dict[str, Any]:
    """`fit.json`. Objectives are in nats, summed over observations."""
    report = utilities.report
    return {
        "procedure": "reference" if compat else "default",
        "objective": report.objective,
        "objective_without_penalty": -report.log_likelihood,
        "objective_published_form": published_objective(comparisons, utilities.mu, np.log(utilities.sigma)),
        "max_gradient": report.max_gradient,
        "iterations": report.iterations,
        "converged": report.converged,
        "why": _why(report, compat),
        "tasks": len(utilities.task_ids),
        "pairs": len(comparisons.i),
        "comparisons": float(np.sum(comparisons.count)),
        "refusals": float(np.sum(np.sort(choices.count[choices.refused]))),
        "agreement": report.agreement,
        "reliability": split_half(comparisons, seed=_SEED),
        "components": report.components,
        "connected": report.components == 1,
        "never_compared": [utilities.task_ids[k] for k in np.flatnonzero(utilities.comparisons == 0)],
        "always_win": list(report.always_win),
        "always_lose": list(report.always_lose),
    }


def _why(report: FitReport, compat: bool) -> str:
    """A sentence on why the fit ended where it did."""
    steps = f"after {report.iterations} steps"
    if compat:
        ended = "met its own loose criterion" if report.converged else "stopped short of its own criterion"
        return f"The published procedure {ended} {steps}, with a largest free gradient of {report.max_gradient:.2g}."
    if report.converged:
        return f"Converged {steps}: no entry of the gradient exceeds {TOLERANCE:g} (largest {report.max_gradient:.1g})."
    return f"Not converged {steps}: an entry of the gradient is {report.max_gradient:.2g}, above {TOLERANCE:g}."
