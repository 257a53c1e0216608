"""Activations of many prompts, in immutable parts that a later process goes on from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prefprobe.activations.compiled import compile_if_worth
from prefprobe.activations.model import LoadedModel
from prefprobe.activations.passes import Passed, check_model, forward
from prefprobe.errors import BadConfig
from prefprobe.progress import Progress
from prefprobe.store.formats import json_bytes, npz_bytes
from prefprobe.store.steps import Output, StepStore

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Depths at which activations are read by default."""


ALONE = "alone.json"
"""The part that says why prompts went through one at a time; not there where none did."""


def layer_numbers(fractions: Sequence[float], n_layers: int) -> list[int]:
    """The blocks int(f · n_layers), 0-based, without repeats. The residual stream *after* each is what is kept."""
    layers = sorted({int(f * n_layers) for f in fractions})
    if not layers or layers[0] < 0 or layers[-1] >= n_layers:
        raise BadConfig(f"activations.fractions: {list(fractions)} must lie in [0, 1) and name at least one layer.")
    return layers


def extract_activations(
    model: LoadedModel,
    prompts: Sequence[str],
    *,
    system: str | Sequence[str | None] | None = None,
    layers: Sequence[int] | None = None,
) -> dict[int, npt.NDArray[np.float32]]:
    """The residual stream after `layers` at the last token of every prompt: {layer: (n, d) float32}, rows as `prompts`.

    `system` is one system prompt for all, or one (or None) for each. Layers are 0-based blocks; by default those at
    tenths of the depth. Raises BadConfig for a layer that the model has not, an activation that is not finite, and a
    model whose own pass reports other activations (`check_model`).
    """
    if isinstance(prompts, str) or not all(isinstance(text, str) for text in prompts):
        raise BadConfig("prompts are not a list of texts; give one text for each prompt, in a list.")
    systems = [system] * len(prompts) if system is None or isinstance(system, str) else list(system)
    if len(systems) != len(prompts):
        raise BadConfig(
            f"there are {len(systems)} system prompts for {len(prompts)} prompts; give one, or one for each."
        )
    wanted = layer_numbers(FRACTIONS, model.n_layers) if layers is None else sorted({int(layer) for layer in layers})
    if not wanted or wanted[0] < 0 or wanted[-1] >= model.n_layers:
        raise BadConfig(f"layers {wanted}: the model has the blocks 0 to {model.n_layers - 1}; name some of these.")
    tokens = model.prompts.tokens_many(list(zip(prompts, systems, strict=True)))
    if not tokens:
        return {layer: np.empty((0, model.width), dtype=np.float32) for layer in wanted}
    check_model(model)
    return _streams(model, tokens, wanted, [f"prompt {row}" for row in range(len(prompts))]).kept


def _tokens(model: LoadedModel, rows: Sequence[tuple[str, str, str | None]]) -> list[list[int]]:
    """Of every row; a text that cannot be put into a prompt as it is, is refused under its id."""
    try:
        return model.prompts.tokens_many([(text, system) for _, text, system in rows])
    except BadConfig:
        for id_, text, system in rows:
            try:
                model.prompt_tokens(text, system)
            except BadConfig as error:
                raise BadConfig(f"task {id_}: {error}") from error
        raise


def _streams(
    model: LoadedModel, tokens: Sequence[Sequence[int]], layers: Sequence[int], names: Sequence[str]
) -> Passed:
    """Of prompts as tokens; one whose activation is not finite is refused under its name."""
    passed = forward(model, tokens, layers=layers)
    for layer, values in passed.kept.items():
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any():
            raise BadConfig(
                f"{names[int(bad.argmax())]}: the activation after block {layer} is not finite; "
                "use dtype float32 or bfloat16, and check the weights."
            )
    return passed


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
    tokens = _tokens(model, rows)
    # by system prompt first: its computation is shared within a part
    order = sorted(range(len(rows)), key=lambda i: (rows[i][2] or "", len(tokens[i]), rows[i][0]))
    chunks = [order[i : i + part] for i in range(0, len(order), part)]
    there = store.parts()
    names = [f"part-{k:05d}.npz" for k in range(len(chunks))]
    saved = sum(len(c) for n, c in zip(names, chunks, strict=True) if n in there)
    progress.start(len(rows), unit, saved)
    check_model(model)
    compile_if_worth(model, sum(map(len, tokens)))
    longest = max(range(len(rows)), key=lambda i: len(tokens[i]), default=None)
    if longest is not None and model.context is not None and len(tokens[longest]) > model.context:
        raise BadConfig(
            f"task {rows[longest][0]}: its prompt takes {len(tokens[longest]):,} tokens, and the model's context is "
            f"{model.context:,}; shorten it or leave it out."
        )
    for name, chunk in zip(names, chunks, strict=True):
        if name in there:
            store.read_part(name)  # a corrupt part must stop this step, not a later one
            continue
        passed = _streams(model, [tokens[i] for i in chunk], layers, [f"task {rows[i][0]}" for i in chunk])
        if passed.alone and ALONE not in there:
            there[ALONE] = store.write_part(ALONE, json_bytes(model.packing.why))
        arrays: dict[str, Any] = {"task_ids": np.array([rows[i][0] for i in chunk])}
        there[name] = store.write_part(name, npz_bytes(arrays | {f"layer_{n}": x for n, x in passed.kept.items()}))
        progress.advance(len(chunk))
    return {name: there[name] for name in names}
