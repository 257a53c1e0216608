"""CSV tables: the rows that each figure shows, all of them, at six significant digits."""

import csv
import io
from typing import Any

from prefprobe.report import shown
from prefprobe.report.results import Results
from prefprobe.report.text import slug


def tables(results: Results) -> dict[str, str]:
    """CSV text by file name, named like the figure it belongs to. Empty cells are what could not be estimated."""
    rows = {
        "overview": shown.overview(results),
        "layers": shown.layers(results),
        "alphas": shown.alphas(results),
        "scatter": shown.scatter(results),
        "topics": shown.topics(results),
        "rounds": shown.rounds(results),
        "folds": shown.folds(results),
        "effects": shown.effects(results),
        **{f"shift-{slug(name)}": shown.points(results, name) for name, _ in results.experiments},
    }
    return {f"{name}.csv": _csv(of) for name, of in rows.items() if of}


def _csv(rows: shown.Rows) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else value
