"""What two of the charts show, in a few computed sentences beside them."""

import numpy as np

from prefprobe.findings.constant import constant
from prefprobe.findings.results import Results
from prefprobe.numbers import number
from prefprobe.report import rows as rows_of


def about_topics(results: Results) -> list[str]:
    """Which topics are liked most and least, and how much of utility is a matter of topic."""
    groups: dict[str, list[float]] = {}
    for row in rows_of.topics(results):
        groups.setdefault(row["topic"], []).append(row["mu"])
    means = {topic: float(np.mean(mu)) for topic, mu in sorted(groups.items())}
    if "train" in constant(results):
        return ["No topic is preferred to another: the utilities of all train tasks are equal."]
    first, last = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    said = [
        f"The most preferred topic is {first} (mean μ = {number(means[first], 2)}), the least preferred {last} "
        f"({number(means[last], 2)})."
    ]
    everything = np.array([mu for of in groups.values() for mu in of])
    within = sum(float(((np.array(mu) - means[topic]) ** 2).sum()) for topic, mu in groups.items())
    total = float(((everything - everything.mean()) ** 2).sum())
    if total > 0:
        share = number(100 * (1 - within / total), 0)
        said.append(
            f"Topics explain {share} % of the variance of μ; the rest is preference between tasks of one topic."
        )
    return said


def about_folds(results: Results) -> list[str]:
    """Where the probe does best and worst, and in how many topics it is above base model and encoders."""
    rows = rows_of.folds(results)
    model = {topic: r for topic, r in sorted(rows_of.by_topic(rows, "model").items()) if r is not None}
    if not model:
        return ["No fold allowed an estimate."]
    first, last = max(model, key=model.__getitem__), min(model, key=model.__getitem__)
    said = [f"The probe does best on {first} (r = {number(model[first])}) and worst on {last} ({number(model[last])})."]
    for name in results.features("base", "encoder"):
        other = {topic: r for topic, r in rows_of.by_topic(rows, name).items() if r is not None}
        both = [topic for topic in model if topic in other]
        above = sum(model[topic] > other[topic] for topic in both)
        said.append(f"It is above the probe of {results.labels[name]} in {above} of {len(both)} topics.")
    return said
