"""The verdict: every claim of the published study, judged on this run by rules fixed in advance."""

from typing import Any

import numpy as np
import pyarrow as pa

from prefprobe.findings import published, rules
from prefprobe.findings.answer import answer
from prefprobe.findings.constant import constant, sentence, unestimable
from prefprobe.findings.published import Shown
from prefprobe.findings.results import Results
from prefprobe.findings.rules import Judged
from prefprobe.probes.foldintervals import difference_of_folds
from prefprobe.probes.metrics import paired_difference

Claim = dict[str, Any]

_CORRELATIONS = ("on_target", "pooled", "centred", "corrected", "advantage", "encoder")

EXPERIMENTS = {
    "category": "When a system prompt likes or dislikes a category of tasks, the probe’s score follows the choices.",
    "targeted": "The same holds for subjects that no probe was trained on.",
    "crossed": "The same holds for such subjects inside other kinds of task.",
    "competing": "The same holds when a prompt loves one thing and hates another, and a task may be both.",
    "persona": "The same holds for personas.",
}
"""The claim of each experiment; an experiment of the user's own gets a sentence with its name."""


def verdict(results: Results) -> dict[str, Any]:
    """The content of `verdict.json`, as verdict.schema.json describes it: `claims`, `checks`, `not_run`, `summary`.

    Numbers are rounded to six significant digits before they are judged, so that the file's own numbers decide. Nothing is
    estimated anew but differences between two kinds of features: on the same held-out tasks, or over the same folds. Where
    choices are constant the answer says so first, and no claim that rests on them is estimable. A claim `holds` if it is
    present also after Holm's adjustment over all claims with a p.
    """
    flat = constant(results)
    claims = [*_held_out(results), *_cross_topic(results), *_shifts(results)]
    claims = [unestimable(claim, flat, rules.NOT_ESTIMABLE) for claim in claims]
    for claim, adjusted in zip(claims, rules.holm([claim["p"] for claim in claims]), strict=True):
        claim["p_holm"] = rounded(adjusted)
        claim["holds"] = claim["verdict"] in rules.HOLDS and adjusted is not None and adjusted < rules.SIGNIFICANT
    return {
        "model": results.model_name,
        "published": {"model": published.MODEL, "layer": published.LAYER},
        "claims": claims,
        "checks": [_reliability(results, flat)],
        "not_run": _not_run(results),
        "summary": {
            "counts": {name: sum(c["verdict"] == name for c in claims) for name in rules.LABELS},
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
    shown: Shown | None,
    name: str,
    detail: dict[str, Any],
) -> Claim:
    """One claim; `name` is what the published value is called."""
    bounds = estimate or {"value": None, "low": None, "high": None}
    return {
        "id": id_,
        "claim": claim,
        **{key: bounds[key] for key in ("value", "low", "high")},
        "published": shown and rounded({name: shown.value, **shown.parts}),
        "expected": None if judged.expected is None else rounded(list(judged.expected)),
        "verdict": judged.label,
        "why": judged.why,
        "p": rounded(judged.p),
        "rule": rule,
        "detail": rounded(detail),
    }


def _held_out(results: Results) -> list[Claim]:
    probe, reliability = results.probe["model"], results.measure["eval"]["reliability"]["spearman_brown"]
    claims = []
    texts = {
        "raw": "A linear probe of activations predicts the utilities of tasks that it was not trained on.",
        "demeaned": "It does so within topics, once every topic’s mean utility is taken away.",
    }
    for target, text in texts.items():
        found, shuffled = rounded(probe["targets"][target]), rounded((probe["shuffled"] or {}).get(target))
        r, shown = found["r"], published.held_out(target)
        detail = {"R2": found["R2"], "layer": found["best_layer"], "alpha": found["alpha"], "shuffled": shuffled}
        detail |= {"permutation": found["p"], "reliability_corrected": _corrected(r, reliability)}
        judged = rules.judge(r, "r", shown, permuted=found["p"] or {"value": None, "permutations": 0})
        claims.append(_claim(f"heldout_{target}", text, r, judged, rules.HELD_OUT, shown, "r", detail))

    raw, demeaned = (rounded(probe["targets"][t]["accuracy"]) for t in ("raw", "demeaned"))
    shown = published.accuracy()
    detail = {"demeaned": demeaned, "ceiling": (probe.get("ceiling") or {}).get("accuracy")}
    text, judged = "Of two held-out tasks, it tells which one the model chooses.", rules.judge(raw, "accuracy", shown)
    claims.append(_claim("heldout_accuracy", text, raw, judged, rules.ACCURACY, shown, "accuracy", detail))

    for name in results.features("encoder", "base", "untrained"):
        role, pairs = results.roles[name], _paired(results.predictions["model"], results.predictions[name])
        parts = {key: (results.probe[key]["targets"]["raw"]["r"] or {}).get("value") for key in ("model", name)}
        candidates = {key: len(results.probe[key]["layers"]) for key in ("model", name)}
        detail = {"model": parts["model"], role: parts[name], "tasks": len(pairs[0]), "candidates": candidates}
        text = f"It predicts them better than a probe of {_called(results, name)}."
        claims.append(
            _above(f"heldout_above_{name}", text, paired_difference(*pairs), published.held_out_above(role), detail)
        )
    return claims


def _cross_topic(results: Results) -> list[Claim]:
    hoo = results.hoo["model"]
    detail = {key: hoo[key] for key in ("sd", "weighted_mean", "pooled", "n_folds")} | {"permutation": hoo["p"]}
    text = "Trained on other topics, it predicts utilities within a topic that it never saw."
    mean, shown = rounded(hoo["mean"]), published.cross_topic()
    judged = rules.judge(mean, "r", shown, permuted=rounded(hoo["p"]) or {"value": None, "permutations": 0})
    claims = [_claim("cross_topic", text, mean, judged, rules.CROSS_TOPIC, shown, "mean", detail)]
    for name in results.features("encoder", "base"):
        role, other = results.roles[name], results.hoo[name]
        detail = {
            "model": (mean or {}).get("value"),
            role: (other["mean"] or {}).get("value"),
            "folds": _folds(hoo, other),
        }
        text = f"It does so better than a probe of {_called(results, name)}."
        estimate = difference_of_folds(hoo, other)
        claims.append(_above(f"cross_topic_above_{name}", text, estimate, published.cross_topic_above(role), detail))
    return claims


def _above(id_: str, text: str, estimate: Any, shown: Shown | None, detail: dict[str, Any]) -> Claim:
    found = rounded(estimate)
    return _claim(
        id_, text, found, rules.judge(found, "difference", shown), rules.DIFFERENCE, shown, "advantage", detail
    )


def _shifts(results: Results) -> list[Claim]:
    claims = []
    for name, raw in results.experiments:
        found, shown = rounded(raw), published.shift(name)
        judged = rules.judge_shift(found, shown)
        # there may be correlations of shifts that are all noise: they are no estimates, and are not shown as such
        known: dict[str, Any] = found if found["estimable"] else dict.fromkeys(_CORRELATIONS)
        corrected = known["corrected"] or {}
        detail = {
            "points": found["n_on_target"],
            **found["effect"],
            **{key: known[key] and known[key]["pearson"] for key in ("on_target", "pooled", "centred")},
            "p": corrected.get("p"),
            "advantage": known["advantage"],
            "encoder_on_target": known["encoder"] and known["encoder"]["on_target"]["pearson"],
        }
        text = EXPERIMENTS.get(name, f"The same holds in the experiment {name}.")
        claims.append(
            _claim(f"shift_{name}", text, corrected.get("pearson"), judged, rules.SHIFT, shown, "on_target", detail)
        )
    return claims


def _reliability(results: Results, flat: dict[str, str]) -> dict[str, Any]:
    train, eval_ = (rounded(results.measure[name]["reliability"]) for name in ("train", "eval"))
    value = None if "train" in flat else train["spearman_brown"]
    checked = rules.check_reliability(value)
    return {
        "id": "reliability",
        "check": "The measured utilities are reliable (published: two whole runs; here: halves of one run, stepped up).",
        "value": value,
        "published": {"r_of_two_runs": published.RELIABILITY},
        "verdict": checked.label,
        "why": checked.why,
        "rule": rules.RELIABILITY,
        "detail": {"split_half_r": train["split_half_r"], "splits": train["splits"], "eval": eval_["spearman_brown"]},
    }


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


def _paired(first: pa.Table, second: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Observed values and both predictions of the raw target, on the tasks that both predict, and the half of each."""
    one, two = ({r["task_id"]: r for r in table.to_pylist() if r["target"] == "raw"} for table in (first, second))
    ids = sorted(one.keys() & two.keys())
    columns = ((one, "observed"), (one, "predicted"), (two, "predicted"))
    observed, mine, other = (np.array([rows[i][name] for i in ids], dtype=np.float64) for rows, name in columns)
    return observed, mine, other, np.array([one[i]["half"] for i in ids], dtype=np.int64)


def _folds(first: dict[str, Any], second: dict[str, Any]) -> int:
    """How many folds both could estimate."""
    known = [{tuple(fold["held_out"]) for fold in hoo["folds"] if fold["r"] is not None} for hoo in (first, second)]
    return len(known[0] & known[1])


def _corrected(r: dict[str, Any] | None, reliability: float | None) -> float | None:
    """What r would be with utilities of the eval tasks that were measured without error: r / sqrt(reliability)."""
    return None if r is None or not reliability else r["value"] / float(np.sqrt(reliability))


def _called(results: Results, name: str) -> str:
    label = results.labels[name]
    kinds = {"base": f"the base model ({label})", "encoder": f"a sentence encoder ({label})"}
    return kinds.get(results.roles[name], "an untrained copy of the same network")
