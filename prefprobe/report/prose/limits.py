"""What a run cannot show, in the numbers that say so. A limit that does not apply is left out."""

from typing import Any

import numpy as np

from prefprobe.findings import published
from prefprobe.findings.constant import constant, sentence
from prefprobe.findings.results import Results
from prefprobe.numbers import by_set, count, interval, listed, number, percent
from prefprobe.report.prose.limits_answers import answers
from prefprobe.report.prose.one_model import doubts

LOW_MASS = 0.9
BIASED = 0.1
"""P(first) further from .5 than this is said to be a bias."""
LITTLE_ADDITIVE = 0.5
FEW_TASKS = 50
"""A fold with fewer tasks is said to be small."""


def limits(results: Results) -> list[str]:
    """One or two sentences each, the widest first."""
    measuring = doubts(results) + _measuring(results.measure) + answers(results) + _precision(results)
    measuring = [text for text in [sentence(constant(results))] if text] + measuring
    return _size(results) + measuring + _probing(results) + _compared(results)


def _size(results: Results) -> list[str]:
    blocks, tasks, r = (
        results.model_card["n_layers"],
        results.config["tasks"],
        results.probe["model"]["targets"]["raw"]["r"],
    )
    said = []
    if blocks < published.BLOCKS:
        said.append(
            f"Size: {results.model_name} has {blocks} blocks, {published.MODEL} {published.BLOCKS}; what a small "
            "model does not show may still hold in a large one."
        )
    if tasks["n_train"] < published.TASKS["train"]:
        width = ""
        if r and r["low"] is not None and r["high"] is not None:
            wide = number(r["high"] - r["low"], 2)
            width = f" The interval of the main result, {interval(r['low'], r['high'])}, is {wide} wide."
        said.append(
            f"Data: {count(tasks['n_train'])} train and {count(tasks['n_eval'])} eval tasks; the published study had "
            f"{count(published.TASKS['train'])} and {count(published.TASKS['eval'])}.{width}"
        )
    return said


def _measuring(measure: dict[str, dict[str, Any]]) -> list[str]:
    biased, loose, early, particular, extreme, split = ({} for _ in range(6))  # by set, what there is to say of it
    for name, found in measure.items():
        bias, mass, fit = found["position_bias"]["p_first"], found["label_mass"]["mean"], found["fit"]
        if bias is not None and abs(bias - 0.5) > BIASED:
            biased[name] = number(bias, 2)
        if mass is not None and mass < LOW_MASS:
            loose[name] = number(mass, 2)
        if not found["converged"] and found["stopped"] != "budget":
            rank = found["rounds"][-1]["rank_correlation"]
            reason = "its last allowed round" if found["stopped"] == "max_rounds" else found["stopped"]
            early[name] = (
                reason if rank is None else f"{reason}, at a rank correlation of {number(rank)} with the one before"
            )
        if found["additive_r2"] is not None and found["additive_r2"] < LITTLE_ADDITIVE:
            particular[name] = percent(found["additive_r2"])
        if fit["always_win"] or fit["always_lose"]:
            extreme[name] = str(len(fit["always_win"]) + len(fit["always_lose"]))
        if fit["components"] > 1:
            split[name] = str(fit["components"])
    said = (
        (biased, "Position bias: the task shown first is chosen with probability {}; averaging both orders removes the mean "
         "of this bias, not what it costs in precision."),
        (loose, "Label mass: of the probability, {} lies on answers that begin with a label; the rest would say something else."),
        (early, "Convergence: measuring stopped with {}."),
        (particular, "Additivity: one utility for each task explains {} of the variance of the debiased pair logits; the rest is "
         "particular to pairs, or noise."),
        (extreme, "Extremes: tasks that won or lost every comparison number {}; only the prior bounds their utility."),
        (split, "Comparisons: {} groups of tasks were never compared with each other."),
    )  # fmt: skip
    return [text.format(by_set(values)) for values, text in said if values]


def _precision(results: Results) -> list[str]:
    mu, se = (results.utilities["train"].column(name).to_numpy() for name in ("mu", "se"))
    if np.median(se) <= np.std(mu):
        return []
    return [
        f"Precision: the median standard error of a utility ({number(float(np.median(se)), 2)}) is larger than the "
        f"spread of utilities over train tasks (sd {number(float(np.std(mu)), 2)})."
    ]


def _probing(results: Results) -> list[str]:
    targets, folds = results.probe["model"]["targets"], results.hoo["model"]["folds"]
    best = {target: targets[target]["layers"][str(targets[target]["best_layer"])] for target in ("raw", "demeaned")}
    best = {target: found for target, found in best.items() if found["r_select"] is not None}  # else none was selected
    edge = [target for target, found in best.items() if found["alpha_at_edge"]]
    said = []
    if edge:
        said.append(
            f"Penalty: for {listed(edge)} utilities α is at the edge of its grid; a better one may lie outside."
        )
    last = max(results.probe["model"]["layers"])
    deepest = [target for target in best if targets[target]["best_layer"] == last]
    if deepest:
        said.append(f"Blocks: for {listed(deepest)} utilities the deepest block measured ({last}) was selected.")
    smallest, lost = min(fold["n"] for fold in folds), sum(fold["r"] is None for fold in folds)
    if smallest < FEW_TASKS:
        gone = f", and {lost} of the folds allowed no estimate" if lost else ""
        said.append(f"Topics: the smallest of {len(folds)} folds holds {smallest} tasks{gone}.")
    return said


def _compared(results: Results) -> list[str]:
    said = []
    if not results.features("base"):
        said.append(
            "No base model was run: what instruction tuning added is not told apart from what was there before."
        )
    if not results.features("encoder"):
        said.append("No sentence encoder was run: what the words of a task alone foretell is not known.")
    parts = {name: found["part"] for name, found in results.experiments if not found["part"].startswith("all")}
    if parts:
        said.append(
            f"Experiments: only a part of each was run, {by_set(parts)}; "
            "`prefprobe plan` says which correlation it can show."
        )
    flat = [name for name, found in results.experiments if not found["estimable"]]
    if flat:
        said.append(
            f"System prompts: no correlation is estimable in {listed(flat)}. This counts neither for nor against the "
            "probe: it is a fact about this model’s choices."
        )
    return said
