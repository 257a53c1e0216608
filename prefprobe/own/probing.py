"""`prefprobe probe` and `prefprobe hoo`: what the steps of these names do, from files to a new folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefprobe.errors import BadConfig
from prefprobe.features.feature_files import position_in
from prefprobe.numbers import interval, number
from prefprobe.own.inputs import OwnData, OwnFiles, read_own
from prefprobe.probes.crosstopic import MIN_TOPIC_TASKS, cross_topic, fold_topics
from prefprobe.probes.heldout import MIN_TASKS, TARGETS, Choices, heldout_probe
from prefprobe.probes.metrics import pairwise_accuracy, pearson
from prefprobe.probes.ridge import ALPHAS
from prefprobe.settings import ProbeSettings
from prefprobe.store.formats import csv_bytes, json_bytes, npz_bytes
from prefprobe.store.new_files import require_new_folder, write_folder
from prefprobe.thurstonian.ceiling import NO_CEILING, agreement_ceiling

_NO_CHOICES: Choices = (np.empty(0, np.str_), np.empty(0, np.str_), np.empty(0))


def probe_files(files: OwnFiles, out: Path, settings: ProbeSettings, seed: int) -> str:
    """Train on `utilities`, choose and test on `eval_utilities` as `heldout_probe` does; write probe.json, probes.npz, card.json
    and predictions.csv into the folder `out`, all or none.

    `not_estimable` in probe.json says what is null, and why. Where no topics are given, or train has a single one,
    there are no demeaned utilities and no probe of them. Returns a sentence. Raises BadConfig or InputMissing for bad input
    and for a folder that is not new or empty.
    """
    require_new_folder(out)
    data = read_own(files, MIN_TASKS)
    result = heldout_probe(
        data.features.layers, data.features.ids, data.train, data.eval, data.topics or _untold(data),
        data.choices.shares() if data.choices else _NO_CHOICES,
        compat=settings.compat == "reference", seed=seed, permutations=settings.permutations,
    )  # fmt: skip
    ceiling = agreement_ceiling(data.choices, seed=seed) if data.choices else NO_CEILING
    summary, predictions, probes = {**result.summary, "ceiling": ceiling}, result.predictions, result.probes
    why = _no_demeaning(data, files)
    not_estimable = {"targets.demeaned": why, "shuffled.demeaned": why} if why else {}
    if why:
        summary |= {name: {**summary[name], "demeaned": None} for name in ("targets", "shuffled")}
        predictions = predictions.filter(pc.equal(predictions.column("target"), "raw"))
        probes = {name: array for name, array in probes.items() if name.startswith("raw_")}
    if data.topics is None:
        predictions = predictions.drop_columns(["topic"])
    without_choices = "No choices were given: --choices." if data.choices is None else _NO_PAIR
    targets = {name: summary["targets"][name] for name in TARGETS if summary["targets"][name]}
    for name, target in targets.items():
        of = predictions.filter(pc.equal(predictions.column("target"), name))
        observed, predicted = (of.column(column).to_numpy() for column in ("observed", "predicted"))
        reasons = {
            "r": _no_correlation(observed, predicted),
            "R2": _same(observed, "the utilities of the eval tasks"),
            "accuracy": without_choices,
        }
        reasons["p"] = reasons["r"]
        not_estimable |= {f"targets.{name}.{key}": reasons[key] for key in reasons if target[key] is None}
        if summary["shuffled"][name]["mean"] is None:
            not_estimable[f"shuffled.{name}"] = (
                reasons["r"] or "No probe of permuted labels predicts anything that varies."
            )
    if summary["ceiling"]["accuracy"] is None:
        not_estimable |= dict.fromkeys(("ceiling.accuracy", "ceiling.in_sample"), without_choices)
    about = {"features": files.features.name, "seed": seed, "alphas": ALPHAS.tolist()}
    best = {name: {key: target[key] for key in ("best_layer", "alpha", "r")} for name, target in targets.items()}
    card = {"features": files.features.name, "inputs": data.sources, "best": best}
    position = position_in(files.features)
    card |= {} if position is None else {"position": position}
    written = {
        "probe.json": json_bytes({**about, **summary, "not_estimable": not_estimable}),
        "probes.npz": npz_bytes(probes),
        "card.json": json_bytes(card),
        "predictions.csv": csv_bytes(predictions),
    }
    write_folder(written, out)
    said = "; ".join(
        f"{name} utilities {_r(target['r'])} at layer {target['best_layer']}" for name, target in targets.items()
    )
    return _ending(
        f"trained on {len(data.train)} tasks, tested on {result.split['n_final']}: {said}", not_estimable, written, out
    )


def hoo_files(files: OwnFiles, out: Path, settings: ProbeSettings, seed: int) -> str:
    """Hold topics out as `cross_topic` does; write hoo.json and predictions.csv into the folder `out`, all or none.

    With choices, hoo.json has `choices`: the accuracy of the eval predictions on choices between two tasks of the same fold.
    `not_estimable` says what is null, and why. Raises as `probe_files` does, and BadConfig for topics that are too few or too
    small.
    """
    require_new_folder(out)
    data = read_own(files, MIN_TOPIC_TASKS)
    topics = data.topics or {}
    try:
        fold_topics([topics[id_] for id_ in data.train], settings.holdout)
    except BadConfig as error:
        raise BadConfig(f"{files.topics and files.topics.name}: {error}") from error
    result = cross_topic(
        data.features.layers, data.features.ids, data.train, data.eval, topics,
        holdout=settings.holdout, compat=settings.compat == "reference", permutations=settings.permutations, seed=seed,
    )  # fmt: skip
    summary = {"features": files.features.name, "seed": seed, "inputs": data.sources, **result.summary}
    not_estimable = {}
    for f, fold in enumerate(summary["folds"]):
        for key, name in (("r", "train"), ("r_eval", "eval")):
            if fold[key] is None:
                not_estimable[f"folds[{f}].{key}"] = _no_correlation(*_of_fold(result.predictions, f, name)[1:])
    if all(fold["r"] is None for fold in summary["folds"]):
        not_estimable |= dict.fromkeys(("mean", "sd", "weighted_mean", "p"), "No fold has an r.")
    if summary["pooled"] is None:
        of_eval = result.predictions.filter(pc.equal(result.predictions.column("set"), "eval"))
        not_estimable["pooled"] = _no_correlation(*(of_eval.column(c).to_numpy() for c in ("observed", "predicted")))
    if data.choices is not None:
        accuracy, n = _fold_accuracy(result.predictions, len(summary["folds"]), data.choices.shares())
        summary["choices"] = {"accuracy": accuracy, "n_choices": n}
        not_estimable |= {"choices.accuracy": _NO_PAIR} if accuracy is None else {}
    written = {
        "hoo.json": json_bytes({**summary, "not_estimable": not_estimable}),
        "predictions.csv": csv_bytes(result.predictions),
    }
    write_folder(written, out)
    left_out = "one topic each" if settings.holdout == 1 else f"{settings.holdout} topics each"
    said = f"{summary['n_folds']} folds leave out {left_out}: mean {_r(summary['mean'])}"
    return _ending(said, not_estimable, written, out)


_NO_PAIR = "No choice with a direction is between two of the tasks that are tested together."


def _untold(data: OwnData) -> dict[str, str]:
    """One topic for all."""
    return dict.fromkeys([*data.train, *data.eval], "")


def _no_demeaning(data: OwnData, files: OwnFiles) -> str:
    """Why there are no demeaned utilities; "" if there are."""
    if data.topics is None:
        return "No topics were given, whose means could be taken off: --topics."
    if len(names := {data.topics[id_] for id_ in data.train}) == 1:
        return f"All train tasks have the topic {names.pop()!r}, so its mean is that of all."
    return ""


def _no_correlation(observed: np.ndarray, predicted: np.ndarray) -> str:
    """Why two arrays have no correlation; it is one of them that does not vary."""
    return _same(observed, "the utilities to predict") or _same(predicted, "the predictions")


def _same(values: np.ndarray, what: str) -> str:
    """Why these have no correlation; "" if they vary."""
    if len(values) < 3:
        return f"There are {len(values)} tasks, and a correlation takes 3."
    return (
        "" if pearson(values, values) is not None else f"{what.capitalize()} of all {len(values)} tasks are the same."
    )


def _of_fold(predictions: pa.Table, fold: int, name: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, observed and predicted of a fold's held-out tasks in one set."""
    inside = pc.and_(pc.equal(predictions.column("fold"), fold), pc.equal(predictions.column("set"), name))
    of = predictions.filter(inside)
    return of.column("task_id").to_pylist(), of.column("observed").to_numpy(), of.column("predicted").to_numpy()


def _fold_accuracy(predictions: pa.Table, n_folds: int, choices: Choices) -> tuple[float | None, int]:
    """`pairwise_accuracy` over the choices of all folds together, each between two eval tasks that one probe has not seen."""
    scores, a, b, p_a, start = [], [], [], [], 0
    for f in range(n_folds):
        ids, _, predicted = _of_fold(predictions, f, "eval")
        at = {id_: start + i for i, id_ in enumerate(ids)}
        inside = [(at[x], at[y], p) for x, y, p in zip(*choices, strict=True) if x in at and y in at]
        scores.append(predicted)
        a += [x for x, _, _ in inside]
        b += [y for _, y, _ in inside]
        p_a += [p for _, _, p in inside]
        start += len(ids)
    return pairwise_accuracy(np.concatenate(scores), np.array(a, np.int64), np.array(b, np.int64), np.array(p_a))


def _r(value: Any) -> str:
    if value is None:
        return "r not estimable"
    return f"r = {number(value['value'])} {interval(value['low'], value['high'])}".rstrip()


def _ending(said: str, not_estimable: dict[str, str], written: dict[str, bytes], out: Path) -> str:
    places: dict[str, list[str]] = {}
    for place, why in not_estimable.items():
        places.setdefault(why, []).append(place)
    more = {why: f" and {len(at) - 1} more" if len(at) > 1 else "" for why, at in places.items()}
    missing = "".join(f" Not estimable, {at[0]}{more[why]}: {why}" for why, at in places.items())
    return f"{said}.{missing} {', '.join(written)} are in {out}."
