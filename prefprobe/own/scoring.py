"""`prefprobe score`: what a probe says of features in a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefprobe.errors import BadConfig
from prefprobe.features.feature_files import position_in, read_features
from prefprobe.own.inputs import beyond
from prefprobe.probes.probe import Probe, Target
from prefprobe.store.formats import csv_bytes
from prefprobe.store.new_files import require_new_file, write_file


def score_features(probe: Path, features: Path, out: Path | None, target: Target, layer: int | None) -> str:
    """Scores, in units of utility, of every row of `features` by a probe out of the folder `probe`: CSV with `task_id` and
    `score`, sorted by id, returned or written into the new file `out`.

    Raises BadConfig naming the file for a probe or features that are malformed or do not fit each other: of another width,
    or of another position in a prompt where both say theirs.
    """
    if out is not None:
        require_new_file(out, ".csv")
    if not probe.is_dir():
        raise BadConfig(f"{probe}: no such folder; name a folder with probes.npz and card.json.")
    read = Probe.load(probe, target=target, layer=layer)
    found = read_features(features, read.layer)
    X = found.layers[read.layer]
    if X.shape[1] != len(read.w):
        raise BadConfig(
            f"{features.name}: `layer_{read.layer}` has {X.shape[1]} columns, expected {len(read.w)} as the probe in {probe} "
            "reads; give features of the model that it was trained on."
        )
    trained, given = _position(read.card), position_in(features)
    if trained is not None and given is not None and not _same(trained, given):
        raise BadConfig(
            f"{features.name}: its activations were read at the position {given}, and those that the probe in {probe} was "
            f"trained on at {trained}; extract them with --position {trained}, or train a probe at {given}."
        )
    bad = beyond(X)
    if bad.any():
        raise BadConfig(
            f"{features.name}: `layer_{read.layer}` of task {str(found.ids[int(bad.argmax())])!r} is not finite "
            f"({int(bad.sum())} such tasks), expected numbers within float32; extract its activations again, or remove it."
        )
    table = csv_bytes(pa.table({"task_id": pa.array(found.ids.tolist(), pa.string()), "score": read.score(X)}))
    if out is None:
        return table.decode().rstrip("\n")
    write_file(table, out)
    return f"{len(X)} scores by the {read.target} probe of layer {read.layer} are in {out}."


def _position(card: Mapping[str, Any]) -> str | None:
    """Where in a prompt the activations that a probe was trained on were read; None where its card does not say.

    A card of the step `probe`, which has a `source`, says it where it is not the last token.
    """
    of_a_study = "source" in card and card.get("features") in ("model", "base", "untrained")
    position = card.get("position", "last" if of_a_study else None)
    return position if isinstance(position, str) else None


def _same(one: str, other: str) -> bool:
    """Whether two names of positions mean one token."""
    return one == other or {one, other} == {"last", "turn:-1"}
