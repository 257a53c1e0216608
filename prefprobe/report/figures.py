"""All figures of a run. A figure whose rows are missing is left out."""

from collections.abc import Callable

from matplotlib.figure import Figure

from prefprobe.report import charts_choices, charts_probe, charts_shift, shown
from prefprobe.report.results import Results
from prefprobe.report.svg import Drawing, draw
from prefprobe.report.text import slug


def figures(results: Results) -> dict[str, str]:
    """Name → an SVG file of its own, in light colours. The same results give the same bytes."""
    return {name: drawing.as_file() for name, drawing in drawings(results).items()}


def drawings(results: Results) -> dict[str, Drawing]:
    """Name → drawing, in the order in which the page shows them."""
    overview, effects = shown.overview(results), shown.effects(results)
    layers, alphas, scatter = shown.layers(results), shown.alphas(results), shown.scatter(results)
    topics, rounds, folds = shown.topics(results), shown.rounds(results), shown.folds(results)
    labels = {name: results.labels[name] for name in results.features()}
    charts: list[tuple[str, str, shown.Rows, Callable[[], Figure]]] = [
        (
            "overview",
            "How well probes predict utilities: r by features",
            overview,
            lambda: charts_probe.overview(overview),
        ),
        ("effects", "How far system prompts moved choices", effects, lambda: charts_shift.effects(effects)),
        *(_shift(results, name) for name, _ in results.experiments),
        ("layers", "r by layer", layers, lambda: charts_probe.layers(layers)),
        ("alphas", "r on the selection half over the ridge penalty", alphas, lambda: charts_probe.alphas(alphas)),
        (
            "scatter",
            "Observed over predicted utility of held-out tasks",
            scatter,
            lambda: charts_probe.scatter(scatter),
        ),
        ("topics", "Utilities of tasks by topic", topics, lambda: charts_choices.topics(topics)),
        ("rounds", "Position bias, answers and reliability by round", rounds, lambda: charts_choices.rounds(rounds)),
        ("folds", "r within each held-out topic", folds, lambda: charts_probe.folds(folds, results.roles, labels)),
    ]
    return {name: draw(name, label, build) for name, label, rows, build in charts if rows}


def _shift(results: Results, experiment: str) -> tuple[str, str, shown.Rows, Callable[[], Figure]]:
    points, found = shown.points(results, experiment), dict(results.experiments)[experiment]
    label = f"Experiment {experiment}: change in probe score over change in choices"
    return f"shift-{slug(experiment)}", label, points, lambda: charts_shift.scatter(points, found)
