"""The verdict: every claim of the published study, judged on this run by rules fixed in advance."""

from typing import Any

import numpy as np
import pyarrow as pa

from prefprobe.findings import published, rules
from prefprobe.findings.answer import answer
from prefprobe.findings.constant import constant, sentence, unestimable
from prefprobe.findings.results import Results
from prefprobe.findings.rules import Judged
from prefprobe.probes.metrics import fold_mean_interval, paired_difference

Claim = dict[str, Any]

EXPERIMENTS = {
    "category": "When a system prompt likes or dislikes a category of tasks, the probe’s score follows the choices.",
    "targeted": "The same holds for subjects that no probe was trained on.",
    "crossed": "The same holds for such subjects inside other kinds of task.",
    "competing": "The same holds when a prompt loves one thing and hates another, and a task may be both.",
    "persona": "The same holds for personas.",
}
"""The claim of each experiment; an experiment of the user's own gets a sentence with its name."""


def verdict(results: Results) -> dict[str, Any]:
    """The content of `verdict.json`: `claims`, `not_run`, `summary`, and what they are about.

    Numbers are rounded to six significant digits before they are judged, so that the file's own numbers decide.
    `published` begins with the number to compare `value` with. Nothing is estimated anew but differences between two
    kinds of features: on the same held-out tasks, or over the same folds. Where choices are constant the answer says so
    first, and no claim that rests on them is estimable.
    """
    flat = constant(results)
    claims = [*_held_out(results), *_cross_topic(results), *_shifts(results), _reliability(results)]
    claims = [unestimable(claim, flat, rules.NOT_ESTIMABLE) for claim in claims]
    return {
        "model": results.model_name,
        "published": {"model": published.MODEL, "layer": published.LAYER},
        "claims": claims,
        "not_run": _not_run(results),
        "summary": {
            "counts": {name: sum(c["verdict"] == name for c in claims) for name in rules.VERDICTS},
            "answer": " ".join(filter(None, [sentence(flat), answer(results.model_name, claims)])),
        },
    }


def rounded(value: Any) -> Any:
    """`value` with every float in it at six significant digits: another machine's last bits change nothing."""
    if isinstance(value, float):
        return float(f"{value:.6g}") + 0.0  # no negative zero
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def _claim(
    id_: str,
    claim: str,
    estimate: Any,
    judged: Judged,
    rule: str,
    shown: dict[str, float] | None,
    detail: dict[str, Any],
) -> Claim:
    bounds = estimate or {"value": None, "low": None, "high": None}
    return {
        "id": id_,
        "claim": claim,
        **{key: bounds[key] for key in ("value", "low", "high")},
        "published": shown and rounded(shown),
        "verdict": judged.verdict,
        "why": judged.why,
        "rule": rule,
        "detail": rounded(detail),
    }


def _held_out(results: Results) -> list[Claim]:
    probe = results.probe["model"]
    shown, claims = published.HELD_OUT["model"], []
    texts = {
        "raw": "A linear probe of activations predicts the utilities of tasks that it was not trained on.",
        "demeaned": "It does so within topics, once every topic’s mean utility is taken away.",
    }
    for target, text in texts.items():
        found, shuffled = rounded(probe["targets"][target]), rounded((probe["shuffled"] or {}).get(target))
        detail = {"R2": found["R2"], "layer": found["best_layer"], "alpha": found["alpha"], "shuffled": shuffled}
        judged = rules.judge_held_out(found["r"], shuffled)
        claims.append(
            _claim(f"heldout_{target}", text, found["r"], judged, rules.HELD_OUT, {"r": shown[target]}, detail)
        )

    raw, demeaned = (rounded(probe["targets"][t]["accuracy"]) for t in ("raw", "demeaned"))
    detail = {"demeaned": demeaned, "ceiling": (probe.get("ceiling") or {}).get("accuracy")}
    text, shown = (
        "Of two held-out tasks, it tells which one the model chooses.",
        {"accuracy": published.ACCURACY["raw"]},
    )
    claims.append(_claim("heldout_accuracy", text, raw, rules.judge(raw, "accuracy"), rules.ACCURACY, shown, detail))

    for name in results.features("encoder", "base", "untrained"):
        pairs = _paired(results.predictions["model"], results.predictions[name])
        estimate = rounded(paired_difference(*pairs, seed=results.config["seed"]))
        parts = {key: (results.probe[key]["targets"]["raw"]["r"] or {}).get("value") for key in ("model", name)}
        text = f"It predicts them better than a probe of {_called(results, name)}."
        judged = rules.judge(estimate, "difference")
        shown_ = _difference(results.roles[name], {role: r["raw"] for role, r in published.HELD_OUT.items()})
        detail = {"model": parts["model"], results.roles[name]: parts[name], "tasks": len(pairs[0])}
        claims.append(_claim(f"heldout_above_{name}", text, estimate, judged, rules.DIFFERENCE, shown_, detail))
    return claims


def _cross_topic(results: Results) -> list[Claim]:
    hoo = results.hoo["model"]
    detail = {key: hoo[key] for key in ("sd", "weighted_mean", "pooled", "n_folds")}
    text, mean = (
        "Trained on other topics, it predicts utilities within a topic that it never saw.",
        rounded(hoo["mean"]),
    )
    shown = published.CROSS_TOPIC
    claims = [_claim("cross_topic", text, mean, rules.judge(mean, "r"), rules.CROSS_TOPIC, shown["model"], detail)]
    for name in results.features("encoder", "base"):
        estimate, folds = _fold_difference(hoo, results.hoo[name], results.config["seed"])
        text = f"It does so better than a probe of {_called(results, name)}."
        judged = rules.judge(estimate, "difference")
        means = _difference(results.roles[name], {role: value["mean"] for role, value in shown.items()})
        detail = {"model": (mean or {}).get("value"), "folds": folds}
        detail[results.roles[name]] = (results.hoo[name]["mean"] or {}).get("value")
        claims.append(_claim(f"cross_topic_above_{name}", text, estimate, judged, rules.DIFFERENCE, means, detail))
    return claims


def _shifts(results: Results) -> list[Claim]:
    claims = []
    for name, raw in results.experiments:
        found = rounded(raw)
        on_target, encoder = found["on_target"], found["encoder"]
        # there may be correlations of shifts that are all noise: they are no estimates, and are not shown as such
        correlations = {
            "value": on_target["pearson"],
            "pooled": found["pooled"]["pearson"],
            "centred": found["centred"]["pearson"],
            "p": on_target["p"],
            "encoder_on_target": encoder and encoder["on_target"]["pearson"],
        }
        known = {key: value if found["estimable"] else None for key, value in correlations.items()}
        detail = {"points": on_target["n"], **found["effect"], **known}
        estimate = detail.pop("value")
        text = EXPERIMENTS.get(name, f"The same holds in the experiment {name}.")
        shown, judged = published.SHIFT.get(name), rules.judge_shift(found)
        claims.append(_claim(f"shift_{name}", text, estimate, judged, rules.SHIFT, shown, detail))
    return claims


def _reliability(results: Results) -> Claim:
    train, eval_ = (rounded(results.measure[name]["reliability"]) for name in ("train", "eval"))
    value = train["spearman_brown"]
    text = "The measured utilities are reliable (published: two whole runs; here: halves of one run, stepped up)."
    estimate, shown = {"value": value, "low": None, "high": None}, {"r_of_two_runs": published.RELIABILITY}
    detail = {"split_half_r": train["split_half_r"], "splits": train["splits"], "eval": eval_["spearman_brown"]}
    judged = rules.judge_reliability(value)
    return _claim("reliability", text, estimate, judged, rules.RELIABILITY, shown, detail)


def _not_run(results: Results) -> list[dict[str, str]]:
    missing = []
    for role, setting, what in (
        ("base", "base", "the base model"), ("encoder", "encoders", "a sentence encoder"),
        ("untrained", "untrained", "an untrained copy"),
    ):  # fmt: skip
        if not results.features(role):
            why = f"“{setting}” is not set in the configuration."
            missing.append(
                {"id": f"heldout_above_{role}", "claim": f"It predicts them better than a probe of {what}.", "why": why}
            )
            if role in published.CROSS_TOPIC:
                text = f"It carries over to unseen topics better than a probe of {what}."
                missing.append({"id": f"cross_topic_above_{role}", "claim": text, "why": why})
    run = dict(results.experiments)
    why = "The experiment is not in the configuration." if run else "No system-prompt experiment was run."
    return missing + [
        {"id": f"shift_{n}", "claim": text, "why": why} for n, text in EXPERIMENTS.items() if n not in run
    ]


def _paired(first: pa.Table, second: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observed values and both predictions of the raw target, on the tasks that both predict."""
    one, two = ({r["task_id"]: r for r in table.to_pylist() if r["target"] == "raw"} for table in (first, second))
    ids = sorted(one.keys() & two.keys())
    columns = ((one, "observed"), (one, "predicted"), (two, "predicted"))
    observed, mine, other = (np.array([rows[i][name] for i in ids], dtype=np.float64) for rows, name in columns)
    return observed, mine, other


def _fold_difference(first: dict[str, Any], second: dict[str, Any], seed: int) -> tuple[dict[str, Any] | None, int]:
    """Mean difference of r over the folds that both could estimate, and how many these are."""
    other = {tuple(fold["held_out"]): fold["r"] for fold in second["folds"]}
    pairs = [(fold["held_out"], fold["r"], other.get(tuple(fold["held_out"]))) for fold in first["folds"]]
    differences = [(held_out, r - s) for held_out, r, s in pairs if r is not None and s is not None]
    topics = sorted({topic for held_out, _ in differences for topic in held_out})
    index = np.array([[topics.index(topic) for topic in held_out] for held_out, _ in differences], dtype=np.int64)
    estimate = fold_mean_interval([d for _, d in differences], index, seed=seed)
    return rounded(estimate), len(differences)


def _difference(role: str, values: dict[str, float]) -> dict[str, float] | None:
    if role not in values:
        return None
    return {"advantage": values["model"] - values[role], "model": values["model"], role: values[role]}


def _called(results: Results, name: str) -> str:
    label = results.labels[name]
    kinds = {"base": f"the base model ({label})", "encoder": f"a sentence encoder ({label})"}
    return kinds.get(results.roles[name], "an untrained copy of the same network")
