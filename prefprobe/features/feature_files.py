"""Features in a file of one's own: an NPZ with `task_ids` and `layer_<L>`, as `prefprobe export` and `extract` write it."""

import json
import re
import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from prefprobe.errors import BadConfig
from prefprobe.features.matrix import Features, join_features
from prefprobe.features.stored import BFLOAT16, select

_LAYER = re.compile(rf"layer_(0|[1-9][0-9]*)({BFLOAT16})?")
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, BadZipFile, NotImplementedError, RuntimeError, zlib.error)
"""What numpy raises for what is no NPZ, or no array of one."""
_EXPECTED = "expected `task_ids` (n,) and `layer_<L>` (n, d), such as `layer_31`"


def read_features(path: Path, layer: int | None = None) -> Features:
    """All layers of a file, or one of them. Whole numbers are taken as ids of tasks; other arrays are not looked at.

    Raises BadConfig naming the file, the array, what was expected and the next step; InputMissing for a task whose features
    stand twice, and for a file without rows.
    """
    if path.suffix != ".npz":
        raise BadConfig(f"{path}: features are an .npz file, {_EXPECTED}; save them with np.savez.")
    try:
        opened = np.load(path, allow_pickle=False)
        if isinstance(opened, np.ndarray):
            raise BadConfig(f"{path.name}: is a single array, {_EXPECTED}; save them with np.savez.")
        with opened as archive:
            return join_features([_arrays(path.name, archive, layer)], path.name)
    except FileNotFoundError as error:
        raise BadConfig(f"{path}: no such file; name an .npz file of features.") from error
    except _UNREADABLE as error:
        reason = str(error).split("\n")[0].rstrip(".")
        pickled = "Object arrays" in reason
        step = "give ids as text, np.array(ids, dtype=str), and numbers as floats" if pickled else "save the file again"
        raise BadConfig(f"{path.name}: cannot be read as NPZ ({reason}); {step}.") from error


def position_in(path: Path) -> str | None:
    """Where in a prompt the activations of a file that `read_features` reads were read, as `prefprobe extract` and `export`
    say it in `about`; None where the file does not say.
    """
    with np.load(path, allow_pickle=False) as archive:
        try:
            position = json.loads(str(archive["about"]))["position"]
        except (*_UNREADABLE, TypeError):  # none, or an array of somebody else's of this name
            return None
    return position if isinstance(position, str) else None


def _arrays(name: str, archive: "np.lib.npyio.NpzFile", layer: int | None) -> dict[str, np.ndarray]:
    layers = [array for array in archive.files if array.startswith("layer_")]
    if "task_ids" not in archive.files or not layers:
        found = ", ".join(archive.files[:6]) or "nothing"
        raise BadConfig(f"{name}: holds {found}, {_EXPECTED}; name its arrays so.")
    odd = next((array for array in layers if not _LAYER.fullmatch(array)), None)
    if odd is not None:
        raise BadConfig(f"{name}: has an array `{odd}`, {_EXPECTED}; rename it.")
    named = {array: array.removeprefix("layer_").removesuffix(BFLOAT16) for array in layers}
    twice = next((of for k, of in enumerate(named.values()) if of in list(named.values())[:k]), None)
    if twice is not None:
        raise BadConfig(f"{name}: has layer {twice} in two types, expected it once; remove one.")
    if layer is not None and str(layer) not in named.values():
        there = ", ".join(sorted(named.values(), key=int))
        raise BadConfig(
            f"{name}: has no `layer_{layer}`, which the probe reads, but layers {there}; export that layer, or name another "
            "probe with --layer."
        )
    ids = archive["task_ids"]
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "Uiu":
        raise BadConfig(f"{name}: `task_ids` {_seen(ids)}, expected ids as text (n,); give np.array(ids, dtype=str).")
    arrays = {"task_ids": ids.astype(np.str_)}
    for array in [array for array in layers if layer is None or named[array] == str(layer)]:
        values = archive[array]
        if (
            not isinstance(values, np.ndarray)
            or values.ndim != 2
            or values.dtype.kind not in "fiu"
            or not values.shape[1]
            or (array.endswith(BFLOAT16) and values.dtype != np.uint16)
        ):
            raise BadConfig(f"{name}: `{array}` {_seen(values)}, expected numbers (n, d); save one row a task.")
        if len(values) != len(ids):
            raise BadConfig(
                f"{name}: `{array}` has {len(values)} rows, expected {len(ids)} as in `task_ids`; save one row a task."
            )
        arrays[array] = values
    return select(arrays)


def _seen(values: object) -> str:
    if not isinstance(values, np.ndarray):
        return "is no array of numpy"
    return f"has the shape {values.shape} and the type {values.dtype}"
