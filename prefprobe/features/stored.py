"""How vectors stand in an NPZ: float32 and float16 as numpy has them, bfloat16 as the bits of it.

NPZ knows no bfloat16: what other libraries write of it is read back as bytes without a type. So its bits are saved as
uint16, under a name that says so, and nobody takes them for numbers: `layer_31_bfloat16`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from prefprobe.settings.activations import Dtype

BFLOAT16 = "_bfloat16"
"""At the end of the names of arrays that hold its bits."""


def as_stored(name: str, values: np.ndarray, dtype: Dtype) -> dict[str, np.ndarray]:
    """{name: array} of float32 values (n, d) in the type; rounded to the nearest, of two such the even one."""
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):  # to infinity, which is for the caller to refuse
            return {name: values.astype(dtype, copy=False)}
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return {f"{name}{BFLOAT16}": ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)}


def select(
    part: Mapping[str, np.ndarray], layers: Sequence[int] | None = None, kind: str = "layer"
) -> dict[str, np.ndarray]:
    """`task_ids` (n,) and `layer_<L>` (n, d) out of a part's arrays `<kind>_<L>`, of all layers or of some.

    Arrays of 16 bits become float32, which is exact; others keep their type.
    """
    found = {"task_ids": part["task_ids"]}
    for name in part:
        of, _, layer = name.removesuffix(BFLOAT16).rpartition("_")
        if of == kind and (layers is None or int(layer) in layers):
            found[f"layer_{layer}"] = widened(name, part[name])
    return found


def widened(name: str, values: np.ndarray) -> np.ndarray:
    """An array of 16 bits as float32, and any other as it is; which of them are bits its name says."""
    if name.endswith(BFLOAT16):
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32) if values.dtype == np.float16 else values
