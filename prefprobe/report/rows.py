"""The rows behind each figure: charts draw them, tables write them."""

from typing import Any

from prefprobe.findings import published
from prefprobe.findings.results import Results
from prefprobe.topics import agreement

Rows = list[dict[str, Any]]


def overview(results: Results) -> Rows:
    """Correlation for all features: on held-out tasks (raw and demeaned utilities), and on held-out topics."""
    rows: Rows = []
    for target in ("raw", "demeaned"):
        for name in results.features():
            known = published.HELD_OUT.get(results.roles[name], {}).get(target)
            rows.append(
                _estimate(f"held_out_{target}", results, name, results.probe[name]["targets"][target]["r"], known)
            )
        shuffled = (results.probe["model"]["shuffled"] or {}).get(target)
        if shuffled:
            row = {"value": shuffled["mean"], "low": shuffled["low"], "high": shuffled["high"], "published": None}
            rows.append(
                {
                    "group": f"held_out_{target}",
                    "features": "shuffled",
                    "role": "shuffled",
                    "label": "shuffled labels",
                    **row,
                }
            )
    for name in results.features():
        known = published.CROSS_TOPIC.get(results.roles[name], {}).get("mean")
        rows.append(_estimate("cross_topic", results, name, results.hoo[name]["mean"], known))
    return rows


def layers(results: Results) -> Rows:
    """The model's r at each layer: raw and demeaned on eval tasks, and the mean over held-out topics."""
    rows: Rows = []
    for target, found in results.probe["model"]["targets"].items():
        for layer, metrics in found["layers"].items():
            selected = int(layer) == found["best_layer"]
            rows.append(
                {
                    "target": target,
                    "layer": int(layer),
                    "r": metrics["r"],
                    "r_select": metrics["r_select"],
                    "selected": selected,
                }
            )
    for layer, fold in results.hoo["model"]["layers"].items():
        rows.append(
            {"target": "cross_topic", "layer": int(layer), "r": fold["mean"], "r_select": None, "selected": False}
        )
    return sorted(rows, key=lambda row: (row["target"], row["layer"]))


def alphas(results: Results) -> Rows:
    """Correlation on the selection half at each penalty, for each layer of the model."""
    probe = results.probe["model"]
    return [
        {
            "target": target, "layer": int(layer), "alpha": alpha, "r_select": r,
            "chosen": alpha == metrics["alpha"], "selected_layer": int(layer) == found["best_layer"],
        }
        for target, found in probe["targets"].items()
        for layer, metrics in sorted(found["layers"].items(), key=lambda item: int(item[0]))
        for alpha, r in zip(probe["alphas"], metrics["sweep"], strict=True)
    ]  # fmt: skip


def scatter(results: Results) -> Rows:
    """Predicted and observed utility of each eval task, by the probe that the other half chose."""
    columns = ("task_id", "topic", "target", "observed", "predicted")
    return list(results.predictions["model"].select(columns).to_pylist())


def topics(results: Results) -> Rows:
    """Utility of each train task."""
    rows = results.utilities["train"].select(["task_id", "mu", "se", "comparisons"]).to_pylist()
    return [{"topic": results.topics[row["task_id"]], **row} for row in rows]


def rounds(results: Results) -> Rows:
    """What each round of measuring found, for both sets."""
    rows: Rows = []
    for name in ("train", "eval"):
        pairs = 0
        for found in results.measure[name]["rounds"]:
            pairs += found["new_pairs"]
            row = {"set": name, "round": found["round"], "new_pairs": found["new_pairs"], "pairs": pairs}
            row |= {"choices": found["new_choices"]}
            row |= {c: found[c] for c in ("rank_correlation", "split_half", "median_se", "p_first", "label_mass")}
            row |= {c: found.get(c) for c in ("refusals", "unparsed", "failed")}
            row["neither"] = _share(found.get("refusals"), found.get("unparsed"), of=found["new_choices"])
            spend = found.get("spend") or {}
            rows.append(row | {c: spend.get(c) for c in ("prompt_tokens", "completion_tokens", "dollars")})
    return rows


def folds(results: Results) -> Rows:
    """Correlation within each fold's held-out topics, for all features."""
    columns = ("n", "layer", "alpha", "r", "n_eval", "r_eval")
    return [
        {"held_out": " + ".join(fold["held_out"]), "features": name, **{c: fold[c] for c in columns}}
        for name in results.features()
        for fold in results.hoo[name]["folds"]
    ]


def effects(results: Results) -> Rows:
    """How far the system prompts of each experiment moved choices, beside what neutral paraphrases of the baseline do."""
    columns = ("rms_on_target", "rms_off_target", "max", "noise", "signal_to_noise")
    return [
        {"experiment": name, **{c: found["effect"][c] for c in columns}, "estimable": found["estimable"]}
        for name, found in results.experiments
    ]


def points(results: Results, experiment: str) -> Rows:
    """Every (system prompt, task) of an experiment: what changed in choices and in probe scores. Neutral prompts are none."""
    if results.points is None:
        return []
    return [row for row in results.points.to_pylist() if row["experiment"] == experiment and not row["neutral"]]


def by_topic(rows: Rows, features: str) -> dict[str, float | None]:
    """Mean r, in `folds` rows, of the folds that hold a topic out; with one topic a fold, that fold's r."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for topic in row["held_out"].split(" + ") if row["features"] == features else ():
            found.setdefault(topic, []).extend([] if row["r"] is None else [row["r"]])
    return {topic: sum(r) / len(r) if r else None for topic, r in found.items()}


def _share(*counts: int | None, of: int) -> float | None:
    known = [count for count in counts if count is not None]
    return sum(known) / of if known and of else None


def _estimate(
    group: str, results: Results, name: str, estimate: dict[str, Any] | None, known: float | None
) -> dict[str, Any]:
    bounds = estimate or {"value": None, "low": None, "high": None}
    about = {"group": group, "features": name, "role": results.roles[name], "label": results.labels[name]}
    return {**about, **{key: bounds[key] for key in ("value", "low", "high")}, "published": known}


def confusion(results: Results) -> Rows:
    """Tasks of each pair of labels by two judges of topics; none without a second one."""
    found: Rows = results.judging.get("agreement", {}).get("confusion", [])
    return found


def origins(results: Results) -> Rows:
    """Tasks of every origin and topic, the share of the origin's, and whether no other origin has the topic."""
    ids = sorted(results.topics.keys() & results.origins.keys())
    found = agreement.origins([results.origins[i] for i in ids], [results.topics[i] for i in ids])
    of: dict[str, set[str]] = {}
    for row in found:
        if row["tasks"]:
            of.setdefault(row["topic"], set()).add(row["origin"])
    several = len({row["origin"] for row in found}) > 1
    return [row | {"alone": several and of[row["topic"]] == {row["origin"]}} for row in found]
