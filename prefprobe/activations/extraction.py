"""Activations of many prompts, in immutable parts that a later process goes on from."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from prefprobe.activations.loading import LoadedModel
from prefprobe.activations.packing import check_packing, forward
from prefprobe.errors import BadConfig
from prefprobe.progress import Progress
from prefprobe.store.formats import npz_bytes
from prefprobe.store.steps import Output, StepStore


def layer_numbers(fractions: Sequence[float], n_layers: int) -> list[int]:
    """The blocks int(f · n_layers), 0-based, without repeats. The residual stream *after* each is what is kept."""
    layers = sorted({int(f * n_layers) for f in fractions})
    if not layers or layers[0] < 0 or layers[-1] >= n_layers:
        raise BadConfig(f"activations.fractions: {list(fractions)} must lie in [0, 1) and name at least one layer.")
    return layers


def extract(
    model: LoadedModel,
    rows: Sequence[tuple[str, str, str | None]],
    layers: Sequence[int],
    store: StepStore,
    part: int,
    progress: Progress,
    unit: str = "prompts",
) -> dict[str, Output]:
    """The residual stream after `layers` at the last prompt token of every (id, text, system prompt).

    Parts hold `part` rows that are neighbours in length, so that a part's work is even and its packs are full; each is an
    NPZ with `task_ids` (n,) and `layer_<L>` (n, d) float32. Parts that the store holds are kept. Returns part → output.
    """
    model.drop_above(max(layers))
    check_packing(model)
    tokens = [model.prompt_tokens(text, system) for _, text, system in rows]
    # by system prompt first: its computation is shared within a part
    order = sorted(range(len(rows)), key=lambda i: (rows[i][2] or "", len(tokens[i]), rows[i][0]))
    chunks = [order[i : i + part] for i in range(0, len(order), part)]
    there = store.parts()
    names = [f"part-{k:05d}.npz" for k in range(len(chunks))]
    saved = sum(len(c) for n, c in zip(names, chunks, strict=True) if n in there)
    progress.start(len(rows), unit, saved)
    for name, chunk in zip(names, chunks, strict=True):
        if name in there:
            store.read_part(name)  # a corrupt part must stop this step, not a later one
            continue
        kept, _ = forward(model, [tokens[i] for i in chunk], layers=layers)
        arrays: dict[str, Any] = {"task_ids": np.array([rows[i][0] for i in chunk])}
        for layer, values in kept.items():
            bad = ~np.isfinite(values).all(axis=1)
            if bad.any():
                raise BadConfig(
                    f"task {rows[chunk[int(bad.argmax())]][0]}: the activation after block {layer} is not finite; "
                    "use dtype float32 or bfloat16, and check the weights."
                )
            arrays[f"layer_{layer}"] = values
        there[name] = store.write_part(name, npz_bytes(arrays))
        progress.advance(len(chunk))
    return {name: there[name] for name in names}
