"""All figures of a run. A figure whose rows are missing is left out."""

from collections.abc import Callable

from matplotlib.figure import Figure

from prefprobe.findings.results import Results
from prefprobe.numbers import slug
from prefprobe.report import rows as rows_of
from prefprobe.report.figures import choices, probes, shifts
from prefprobe.report.figures.svg import Drawing, draw


def figures(results: Results) -> dict[str, str]:
    """Name → an SVG file of its own, in light colours. The same results give the same bytes."""
    return {name: drawing.as_file() for name, drawing in drawings(results).items()}


def drawings(results: Results) -> dict[str, Drawing]:
    """Name → drawing, in the order in which the page shows them."""
    overview, effects = rows_of.overview(results), rows_of.effects(results)
    layers, alphas, scatter = rows_of.layers(results), rows_of.alphas(results), rows_of.scatter(results)
    topics, rounds, folds = rows_of.topics(results), rows_of.rounds(results), rows_of.folds(results)
    labels = {name: results.labels[name] for name in results.features()}
    charts: list[tuple[str, str, rows_of.Rows, Callable[[], Figure]]] = [
        (
            "overview",
            "How well probes predict utilities: r by features",
            overview,
            lambda: probes.overview(overview),
        ),
        ("effects", "How far system prompts moved choices", effects, lambda: shifts.effects(effects)),
        *(_shift(results, name) for name, _ in results.experiments),
        ("layers", "r by layer", layers, lambda: probes.layers(layers)),
        ("alphas", "r on the selection half over the ridge penalty", alphas, lambda: probes.alphas(alphas)),
        (
            "scatter",
            "Observed over predicted utility of held-out tasks",
            scatter,
            lambda: probes.scatter(scatter),
        ),
        ("topics", "Utilities of tasks by topic", topics, lambda: choices.topics(topics)),
        ("rounds", "Position bias, answers and reliability by round", rounds, lambda: choices.rounds(rounds)),
        ("folds", "r within each held-out topic", folds, lambda: probes.folds(folds, results.roles, labels)),
    ]
    return {name: draw(name, label, build) for name, label, rows, build in charts if rows}


def _shift(results: Results, experiment: str) -> tuple[str, str, rows_of.Rows, Callable[[], Figure]]:
    points, found = rows_of.points(results, experiment), dict(results.experiments)[experiment]
    label = f"Experiment {experiment}: change in probe score over change in choices"
    return f"shift-{slug(experiment)}", label, points, lambda: shifts.scatter(points, found)
