"""Whether choices of an endpoint and activations of own weights are of one model: what the pairs that both were asked say."""

from typing import Any

from prefprobe.findings.results import Results
from prefprobe.numbers import by_set, count, interval, number, percent

FEW = 0.5
"""Share of own label mass; where answers begin with a label less often than that, it is said."""


def agreements(results: Results) -> dict[str, dict[str, Any]]:
    """What was found, by set; empty if choices are of own weights, or none were compared."""
    return {name: found["agreement"] for name, found in results.measure.items() if found.get("agreement")}


def compared(results: Results) -> list[str]:
    """How it was looked at, and what came of it; nothing if it was not."""
    found = agreements(results)
    if not found:
        return []
    first = next(iter(found.values()))
    pairs = by_set({name: count(of["pairs"]) for name, of in found.items()})
    r = by_set({name: _with(of, "r") for name, of in found.items()})
    apart = by_set({name: _with(of, "difference") for name, of in found.items()})
    noise = ", both freed of the noise of sampling" if any(of["noise"] for of in found.values()) else ""
    return [
        f"Own weights chose in some pairs of the train set too, both orders of each: over {pairs} pairs the endpoint’s P(A) "
        f"correlates with theirs at r = {r}, and lies {apart} apart (root mean square){noise}. A study stops where r is surely "
        f"below {first['min_agreement']:g}, or the distance above {first['max_difference']:g}."
    ]


def doubts(results: Results) -> list[str]:
    """What leaves open whether it is one model; nothing where choices are of own weights, or agree."""
    if not results.api:
        return []
    found = agreements(results)
    if not found:
        return [
            "One model: the endpoint was not compared with own weights; whether what chose is what was probed is not known."
        ]
    said = []
    shown = {name: of for name, of in found.items() if of["verdict"] == "undecided"}
    if shown:
        least = by_set({name: number(of["r_low"], 2) for name, of in shown.items()})
        most = by_set({name: number(of["difference_high"], 2) for name, of in shown.items()})
        said.append(
            f"One model: the pairs that own weights were asked too leave open how well the endpoint agrees with them; r may "
            f"be as low as {least}, and P(A) as far apart as {most}. More pairs (choices.api.compare) tell more."
        )
    rare = {
        name: f"{percent(of['labelled'])}, of own weights {percent(of['label_mass'])}"
        for name, of in found.items()
        if of["labelled"] is not None and of["labelled"] < FEW * (of["label_mass"] or 0.0)
    }
    if rare:
        said.append(
            f"One model: answers that begin with a label are far rarer than own weights make them: {by_set(rare)}."
        )
    flat = {name: number(of["spread"], 2) for name, of in found.items() if _flat(of)}
    if flat:
        said.append(
            f"One model: P(A) of own weights hardly varies between pairs (sd {by_set(flat)}), so that its correlation with the "
            "endpoint’s says little, and did not decide."
        )
    return said


def _flat(found: dict[str, Any]) -> bool:
    """Whether r is below its bound, and own P(A) too constant for that to count."""
    return found["r"] is not None and found["verdict"] != "different" and found["r"] < found["min_agreement"]


def _with(found: dict[str, Any], name: str) -> str:
    bounds = interval(found[f"{name}_low"], found[f"{name}_high"])
    return f"{number(found[name], 3)} {bounds}".rstrip()
