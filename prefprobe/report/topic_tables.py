"""Who said which task is of which topic, how far two judges agree, and how far origin alone tells the topic."""

from typing import Any

from prefprobe.findings.results import Results
from prefprobe.numbers import count, dollars, interval, number
from prefprobe.report import rows as rows_of
from prefprobe.topics.agreement import cramers_v

Cells = list[tuple[float | None, str]]


def judged(results: Results) -> dict[str, Any] | None:
    """Sentences and tables of the section on topics; None where topics are given and of one origin, so that there is nothing
    to say. `confusion` and `origins` are (heads, [(name, cells)]), None where there is no such table.
    """
    known = [results.origins[id_] for id_ in results.topics if id_ in results.origins]
    about = results.judging
    if "judged" not in about and len(set(known)) < 2:
        return None
    said = [*_judge(about), *_agreement(about), *_origin(results)]
    return {"said": said, "confusion": _confusion(results), "origins": _origins(results)}


def _judge(about: dict[str, Any]) -> list[str]:
    if "judged" not in about:
        return ["Topics are those of the task files."]
    found = about["judged"]
    said = [f"{about['judge']} said the topic of {count(found['n'])} tasks, by the taxonomy {about['taxonomy']}."]
    fallbacks = found["fallbacks"]
    unread = fallbacks.get("other", 0)
    said.append(
        f"{count(found['refusals'])} first answers declined; {count(fallbacks.get('plain', 0))} topics are from a second, "
        f"plainer question, and {count(unread)} tasks of which no label was read are in “other”."
    )
    if found["by"] == "encoder":
        accuracy = found["asked"]["cross_validated_accuracy"]
        measured = (
            ""
            if accuracy is None
            else f" (cross-validated accuracy on {count(found['asked']['examples'])} examples: {number(accuracy)})"
        )
        said.append(f"An encoder reads subjects and not what is asked for: it is a last resort{measured}.")
    if found["spend"]["dollars"]:
        said.append(
            f"That took {count(found['spend']['requests'])} answers and {dollars(found['spend']['dollars'])} US$."
        )
    return said


def _agreement(about: dict[str, Any]) -> list[str]:
    found = about.get("agreement")
    if found is None:
        return ["No second judge was asked, so that nothing is known of how far another would agree."] * (
            "judged" in about
        )
    kappa = found["kappa"]
    whom = f"{found['judge']}, on a sample of {count(found['asked'])} tasks"
    if kappa is None or kappa["value"] is None:
        return [f"The second judge is {whom}: there is nothing to compare."]
    bounds = interval(kappa["low"], kappa["high"])
    return [
        f"The second judge is {whom}. Both say the same of {number(100 * kappa['agreed'], 1)} % of {count(kappa['n'])} tasks; "
        f"Cohen’s κ, which takes away what chance alone would give, is {number(kappa['value'])} {bounds}."
    ]


def _origin(results: Results) -> list[str]:
    ids = sorted(results.topics.keys() & results.origins.keys())
    found = cramers_v([results.origins[i] for i in ids], [results.topics[i] for i in ids])
    v = found["v"]
    if v is None:
        return ["All tasks are of one origin, or of one topic."]
    alone = [row["topic"] for row in rows_of.origins(results) if row["tasks"] and row["alone"]]
    lonely = (
        f" Only one origin has {', '.join(sorted(set(alone)))}: for these, topic and origin cannot be told apart."
        if alone
        else ""
    )
    return [
        "How far origin alone tells the topic: Cramér’s V, corrected for bias, is "
        f"{number(v['value'])} {interval(v['low'], v['high'])} (0 says nothing, 1 says all).{lonely}"
    ]


def _confusion(results: Results) -> tuple[list[str], list[tuple[str, Cells]]] | None:
    rows = rows_of.confusion(results)
    if not rows:
        return None
    heads = sorted({row["second"] for row in rows})
    tasks = {(row["first"], row["second"]): row["tasks"] for row in rows}
    first = sorted({row["first"] for row in rows})
    return heads, [(name, [_cell(tasks.get((name, head), 0)) for head in heads]) for name in first]


def _origins(results: Results) -> tuple[list[str], list[tuple[str, Cells]]] | None:
    rows = rows_of.origins(results)
    heads = sorted({row["origin"] for row in rows})
    tasks = {(row["topic"], row["origin"]): row["tasks"] for row in rows}
    topics = sorted({row["topic"] for row in rows})
    return heads, [(name, [_cell(tasks[name, head]) for head in heads]) for name in topics]


def _cell(n: int) -> tuple[float | None, str]:
    return (n, count(n)) if n else (None, "–")
