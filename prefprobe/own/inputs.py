"""The files that a probe of one's own is made of: read whole and held against each other, or refused with one sentence."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from prefprobe.choices.log import comparisons
from prefprobe.errors import BadConfig, InputMissing
from prefprobe.features.feature_files import read_features
from prefprobe.features.matrix import Features
from prefprobe.records import LARGEST, Columns, Record, read_records
from prefprobe.thurstonian.choice_files import read_choices
from prefprobe.thurstonian.comparisons import Comparisons

_UTILITIES = Columns("utilities", ("task_id",), "every task `task_id` and `mu`", ("mu",))
_TOPICS = Columns("topics", ("task_id", "id", "topic"), "every task `task_id` (or `id`) and `topic`")
_LOG = Columns(
    "choices",
    ("task_a", "task_b", "choice", "outcome", "prompt_id"),
    "every row `task_a`, `task_b`, `outcome` and, where that is exact, `logit`",
    ("logit",),
)
_OUTCOMES = {"a": 1.0, "b": 0.0, "exact": None, "refusal": None, "unparsed": None, "failed": None}


@dataclass(frozen=True)
class OwnFiles:
    """Where the inputs are."""

    features: Path
    utilities: Path
    eval_utilities: Path
    topics: Path | None = None
    choices: Path | None = None


@dataclass(frozen=True, eq=False)
class OwnData:
    """What is in them: every task of both sets has finite features and, if topics are given, a topic."""

    features: Features
    train: dict[str, float]
    eval: dict[str, float]
    topics: dict[str, str] | None
    choices: Comparisons | None
    """Those between two eval tasks."""
    sources: dict[str, dict[str, str]]
    """`file` (name) and `sha256` of each input."""


def read_own(files: OwnFiles, least: int) -> OwnData:
    """Read everything; each set of utilities must have `least` tasks.

    Raises BadConfig for a malformed file and for a task in both sets; InputMissing for one without features or topic.
    """
    of_train, of_eval = (_utilities(path, least) for path in (files.utilities, files.eval_utilities))
    shared = [id_ for id_ in of_eval if id_ in of_train]
    if shared:
        raise BadConfig(
            f"{of_eval[shared[0]].where}: task {shared[0]!r} is in {files.utilities.name} too ({len(shared)} such tasks), "
            "expected tasks that the training has not seen; remove them from one of the files."
        )
    measured = of_train | of_eval
    topics = None if files.topics is None else _topics(files.topics)
    if topics is not None and files.topics is not None:
        _require(measured, topics, "topic", files.topics)
    choices = None if files.choices is None else _between(_choices(files.choices), of_eval)
    features = read_features(files.features)
    rows = {str(id_): row for row, id_ in enumerate(features.ids)}
    _require(measured, rows, "features", files.features)
    _require_finite(features, [rows[id_] for id_ in measured], files.features)
    train, eval_ = ({id_: record.number("mu") for id_, record in of.items()} for of in (of_train, of_eval))
    paths = {name: path for name, path in vars(files).items() if path is not None}
    sources = {name: {"file": path.name, "sha256": _digest(path)} for name, path in paths.items()}
    return OwnData(features, train, eval_, topics, choices, sources)


def _utilities(path: Path, least: int) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for record in read_records(path, _UTILITIES):
        id_ = record.task_id("task_id")
        record.number("mu")
        _once(found, id_, record)
    if len(found) < least:
        raise BadConfig(f"{path.name}: holds {len(found)} tasks, expected {least} or more; add tasks.")
    return found


def _topics(path: Path) -> dict[str, str]:
    """Tasks whose topic is blank have none."""
    rows: dict[str, Record] = {}
    topics = {}
    for record in read_records(path, _TOPICS):
        if "task_id" in record and "id" in record:
            raise BadConfig(
                f"{record.where}: has both `task_id` and `id`, expected one of them; remove the other column."
            )
        id_ = record.task_id("id" if "id" in record else "task_id")
        _once(rows, id_, record)
        topic = record.cell("topic")
        if not isinstance(topic, str | None):
            raise record.refusal("topic", "a topic (text)")
        if topic and topic.strip():
            topics[id_] = topic.strip()
    return topics


def _once(found: dict[str, Record], id_: str, record: Record) -> None:
    if id_ in found:
        raise BadConfig(
            f"{record.where}: task {id_!r} stands in {found[id_].where} too, expected every task once; remove one."
        )
    found[id_] = record


def _choices(path: Path) -> Comparisons:
    """Choices as `prefprobe fit` reads them, or as the step `measure` writes them, with `outcome` in every row."""
    first = next(islice(read_records(path, _LOG), 1))
    if "outcome" not in first or "choice" in first:
        return read_choices(path).comparisons()
    rows = [_answer(record) for record in read_records(path, _LOG)]
    kinds = {"p_a": pa.float64(), "logit": pa.float64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in rows[0]])
    try:
        return comparisons(pa.Table.from_pylist(rows, schema=schema))
    except BadConfig as error:
        raise BadConfig(f"{path.name}: {error}") from error


def _between(choices: Comparisons, tasks: Collection[str]) -> Comparisons:
    inside = np.array([id_ in tasks for id_ in choices.task_ids], dtype=bool)
    return choices.take(np.flatnonzero(inside[choices.i] & inside[choices.j]))


def _answer(record: Record) -> dict[str, str | float | None]:
    a, b, outcome = record.task_id("task_a"), record.task_id("task_b"), record.cell("outcome")
    if not isinstance(outcome, str) or outcome not in _OUTCOMES:
        raise record.refusal("outcome", f"one of {', '.join(_OUTCOMES)}")
    if a == b:
        raise BadConfig(f"{record.where}: `task_a` and `task_b` are both {a!r}, expected two tasks; remove the row.")
    prompt = record.cells.get("prompt_id")
    logit = record.number("logit") if outcome == "exact" else None
    names = ("task_a", "task_b", "outcome", "prompt_id", "p_a", "logit")
    return dict(zip(names, (a, b, outcome, prompt and str(prompt), _OUTCOMES[outcome], logit), strict=True))


def _require(measured: Mapping[str, Record], have: Mapping[str, object], what: str, path: Path) -> None:
    missing = [id_ for id_ in measured if id_ not in have]
    if missing:
        raise InputMissing(
            f"{measured[missing[0]].where}: task {missing[0]!r} has no {what} in {path.name} ({len(missing)} such tasks), "
            f"expected {what} of every task; add them there, or remove the tasks here."
        )


def _require_finite(features: Features, rows: Iterable[int], path: Path) -> None:
    used = np.array(sorted(rows))
    for layer, values in features.layers.items():
        bad = beyond(values[used])
        if bad.any():
            id_ = str(features.ids[used[int(bad.argmax())]])
            raise BadConfig(
                f"{path.name}: `layer_{layer}` of task {id_!r} is not finite ({int(bad.sum())} such tasks), expected numbers "
                "within float32; "
                "extract its activations again, or remove the task from the utilities."
            )


def beyond(values: np.ndarray) -> np.ndarray:
    """Which rows of `values` (n, d) hold a number that is not finite, or beyond float32."""
    extremes = np.stack([values.min(axis=1), values.max(axis=1)]).astype(np.float64)
    return np.asarray(~(np.abs(extremes) <= LARGEST).all(axis=0))


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
