"""CSV tables: the rows that each figure shows, all of them, at six significant digits."""

import csv
import io
from typing import Any

from prefprobe.findings.results import Results
from prefprobe.numbers import slug
from prefprobe.report import rows as rows_of


def tables(results: Results) -> dict[str, str]:
    """CSV text by file name, named like the figure it belongs to. Empty cells are what could not be estimated."""
    rows = {
        "overview": rows_of.overview(results),
        "layers": rows_of.layers(results),
        "alphas": rows_of.alphas(results),
        "scatter": rows_of.scatter(results),
        "topics": rows_of.topics(results),
        "rounds": rows_of.rounds(results),
        "folds": rows_of.folds(results),
        "effects": rows_of.effects(results),
        "confusion": rows_of.confusion(results),
        "origins": rows_of.origins(results),
        **{f"shift-{slug(name)}": rows_of.points(results, name) for name, _ in results.experiments},
    }
    return {f"{name}.csv": _csv(of) for name, of in rows.items() if of}


def _csv(rows: rows_of.Rows) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else value
