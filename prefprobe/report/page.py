"""The report as one static HTML page: no script, no file beside it, light and dark."""

from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from prefprobe.findings import published, rules
from prefprobe.findings.constant import constant
from prefprobe.findings.results import Results
from prefprobe.numbers import count, interval, listed, number, p_value, shortened, signed, significant, size, slug
from prefprobe.report import rows as rows_of
from prefprobe.report.choice_tables import asked, quantities, rounds
from prefprobe.report.figures.axes import MOST_DOTS
from prefprobe.report.figures.gallery import drawings
from prefprobe.report.prose.captions import about_folds, about_topics
from prefprobe.report.prose.limits import limits
from prefprobe.report.prose.method import method
from prefprobe.report.topic_tables import judged

EXAMPLES = 5
_LONGEST = 240
_FEW = 3
"""Up to so many outputs of a step are named."""
_GROUPS = {
    "heldout": "Held-out tasks",
    "cross": "Held-out topics",
    "shift": "System prompts",
}
_BADGES = {
    rules.CONSISTENT: "yes",
    rules.STRONGER: "yes",
    rules.PRESENT: "yes",
    rules.WEAKER: "part",
    rules.ABSENT: "no",
    rules.TEXT: "open",
    rules.INCONCLUSIVE: "open",
    rules.NOT_ESTIMABLE: "none",
    rules.GOOD: "yes",
    rules.FAIR: "open",
    rules.POOR: "no",
    rules.UNKNOWN: "none",
}
"""How each label is drawn."""

Part = tuple[str, float, str]
"""Words before a number, the number, how it is rows_of."""


def render(results: Results, verdict: dict[str, Any]) -> str:
    """The HTML of the report. `verdict` is what `verdict.verdict` made of the same results."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "p_value": p_value,
        "significant": significant,
        "slug": slug,
        "listed": listed,
    }
    environment.globals |= {"bounds": interval, "count": count}
    return environment.get_template("template.html").render(
        r=results,
        verdict=verdict,
        groups=_groups(verdict["claims"]),
        rules=_rules(verdict),
        counts=[(name, _BADGES[name], n) for name, n in verdict["summary"]["counts"].items() if n],
        badges=_BADGES,
        published=published,
        figures={name: Markup(drawing.in_page()) for name, drawing in drawings(results).items()},
        features=[_features(results, name) for name in results.features()],
        experiments=[_experiment(results, name, found) for name, found in results.experiments],
        most_dots=MOST_DOTS,
        topics=Counter(results.topics[i] for i in results.utilities["train"].column("task_id").to_pylist()),
        examples=_examples(results),
        measured=quantities(results),
        asked=asked(results),
        rounds=rounds(results),
        about_topics=about_topics(results),
        about_folds=about_folds(results),
        judged=judged(results),
        method=method(results),
        limits=limits(results),
        config=yaml.safe_dump(results.config, sort_keys=False, allow_unicode=True, width=100),
        steps=[_step(step, results.versions) for step in results.steps],
        seconds=sum(step["seconds"] or 0 for step in results.steps),
    )


def _groups(claims: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Claims under their headings, each with what its cells show."""
    grouped: dict[str, list[dict[str, Any]]] = {name: [] for name in _GROUPS.values()}
    for claim in claims:
        kind = claim["id"].split("_")[0]
        difference = "_above_" in claim["id"]
        cells = {"show": signed if difference else number, "beside": _beside(claim), "badge": _BADGES[claim["verdict"]]}
        known = dict(claim["published"] or {})
        cells["published"] = known.pop(next(iter(known))) if known else None
        grouped[_GROUPS[kind]].append({**claim, **cells, "beside_published": _parts(difference, known)})
    return [(name, of) for name, of in grouped.items() if of]


def _beside(claim: dict[str, Any]) -> list[Part]:
    """The numbers of a claim's detail that stand beside its value."""
    detail, kind = claim["detail"], claim["id"].split("_")[0]
    if "_above_" in claim["id"]:
        other = next((detail[role] for role in ("base", "encoder", "untrained") if role in detail), None)
        return _parts(True, {"model": detail["model"], "other": other})
    if kind == "shift":
        return _parts(False, {"uncorrected": detail["on_target"] and detail["on_target"]["value"]})
    if kind == "cross":
        return _parts(False, {"sd": detail["sd"]})
    if "reliability_corrected" in detail:
        return _parts(False, {"reliability-corrected": detail["reliability_corrected"]})
    return _parts(False, {"ceiling": detail["ceiling"]})


def _parts(difference: bool, values: dict[str, float | None]) -> list[Part]:
    known = {
        name: value for name, value in sorted(values.items(), key=lambda item: item[0] != "model") if value is not None
    }
    if difference:
        return (
            [("− " if i else "", value, number(value)) for i, value in enumerate(known.values())]
            if len(known) == 2
            else []
        )
    return [(f"{name} ", value, number(value)) for name, value in known.items()]


def _rules(verdict: dict[str, Any]) -> list[tuple[str, str]]:
    """Each rule once, with what it is applied to."""
    names = {
        rules.HELD_OUT: "r on held-out tasks",
        rules.ACCURACY: "accuracy",
        rules.DIFFERENCE: "differences between two probes, paired over the same tasks or folds",
        rules.CROSS_TOPIC: "r on held-out topics",
        rules.SHIFT: "system prompts",
    }
    applied = {claim["rule"] for claim in verdict["claims"]}
    checked = [(check["id"], check["rule"]) for check in verdict["checks"]]
    return [(name, rule) for rule, name in names.items() if rule in applied] + [
        ("all together", rules.FAMILY),
        *checked,
    ]


def _features(results: Results, name: str) -> dict[str, Any]:
    """One row of the tables of features."""
    probe, hoo, role = results.probe[name], results.hoo[name], results.roles[name]
    raw, demeaned = probe["targets"]["raw"], probe["targets"]["demeaned"]
    return {
        "name": name,
        "label": results.labels[name],
        "role": role,
        "d": probe["d"],
        "raw": raw,
        "demeaned": demeaned,
        "hoo": hoo,
        # where nothing could be compared, neither was selected
        "selected": raw["layers"][str(raw["best_layer"])]["r_select"] is not None,
    }


def _experiment(results: Results, name: str, found: dict[str, Any]) -> dict[str, Any]:
    rows = [("probe", found)] + ([(found["encoder"]["name"], found["encoder"])] if found["encoder"] else [])
    known = published.SHIFT.get(name)
    torn = any(row["on_target"] and row["intended"] == 0 for row in rows_of.points(results, name))
    return {
        "torn": torn,
        "name": name,
        "figure": f"shift-{slug(name)}",
        "found": found,
        "rows": rows,
        "published": known,
    }


def _examples(results: Results) -> list[tuple[str, list[dict[str, Any]]]]:
    """The train tasks with the highest and the lowest utilities; none if all are equal."""
    if "train" in constant(results):
        return []
    rows = sorted(results.utilities["train"].to_pylist(), key=lambda row: (-row["mu"], row["task_id"]))
    for row in rows:
        row |= {"text": shortened(results.texts[row["task_id"]], _LONGEST), "topic": results.topics[row["task_id"]]}
    return [("Most preferred", rows[:EXAMPLES]), ("Least preferred", rows[-EXAMPLES:])]


def _step(step: dict[str, Any], versions: dict[str, str]) -> dict[str, Any]:
    outputs = [f"{name} {size(of)}" for name, of in sorted(step["outputs"].items())]
    if len(outputs) > _FEW:
        outputs = [f"{len(outputs)} files, {size(sum(step['outputs'].values()))}"]
    other = sorted((step["versions"] or {}).items() - versions.items())
    return {**step, "outputs": outputs, "other": [f"{name} {version}" for name, version in other]}
