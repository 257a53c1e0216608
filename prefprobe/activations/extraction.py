"""Activations of many prompts, in immutable parts that a later process goes on from."""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from prefprobe.activations.checks import check_model
from prefprobe.activations.coming import one_behind
from prefprobe.activations.compiled import compile_if_worth
from prefprobe.activations.model import LoadedModel
from prefprobe.activations.passes import Kept, Passed, Span, forward, settled
from prefprobe.errors import BadConfig
from prefprobe.features.stored import as_stored, widened
from prefprobe.progress import Progress
from prefprobe.settings.activations import POSITION, Dtype, named
from prefprobe.store.formats import json_bytes, npz_bytes
from prefprobe.store.steps import Output, StepStore

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Depths at which activations are read by default."""


ALONE = "alone.json"
"""The part that says why prompts went through one at a time; not there where none did."""
Row = tuple[str, str, str | None]
"""What names a prompt, its text, and the system prompt or None."""


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
    position: str = "last",
) -> dict[int, npt.NDArray[np.float32]]:
    """The residual stream after `layers` at one position of every prompt: {layer: (n, d) float32}, rows as `prompts`.

    `system` is one system prompt for all, or one (or None) for each. Layers are 0-based blocks; by default those at
    tenths of the depth. The position is the prompt's last token (`last`), the last one of the text within it
    (`task-last`), the mean over the text's tokens (`mean`), or the k-th token from the prompt's end (`turn:-k`; `turn:-1`
    is the last). Raises BadConfig for a layer or a position that there is not, an activation that is not finite, a text
    whose tokens cannot be told, and a model whose own pass reports other activations (`check_model`).
    """
    if isinstance(prompts, str) or not all(isinstance(text, str) for text in prompts):
        raise BadConfig("prompts are not a list of texts; give one text for each prompt, in a list.")
    systems = [system] * len(prompts) if system is None or isinstance(system, str) else list(system)
    if len(systems) != len(prompts):
        raise BadConfig(
            f"there are {len(systems)} system prompts for {len(prompts)} prompts; give one, or one for each."
        )
    wanted = known_layers(model, layers)
    if not re.fullmatch(POSITION, position):
        raise BadConfig(f"position {position!r}: expected last, task-last, mean or turn:-k; name one of these.")
    rows = [(f"prompt {row}", text, of) for row, (text, of) in enumerate(zip(prompts, systems, strict=True))]
    tokens = _tokens(model, rows)
    if not tokens:
        return {layer: np.empty((0, model.width), dtype=np.float32) for layer in wanted}
    check_model(model)
    spans = _spans(model, rows, tokens, [position])
    passed = forward(model, tokens, layers=wanted, spans=spans)
    kept = _finite(settled(model, passed, tokens, spans), [name for name, _, _ in rows])
    return {layer: values[:, 0] for layer, values in kept.items()}


def known_layers(model: LoadedModel, layers: Sequence[int] | None) -> list[int]:
    """Blocks that the model has, sorted; without `layers` those at tenths of the depth. Raises BadConfig for another."""
    if layers is None:
        return layer_numbers(FRACTIONS, model.n_layers)
    wanted = sorted({int(layer) for layer in layers})
    if not wanted or wanted[0] < 0 or wanted[-1] >= model.n_layers:
        raise BadConfig(f"layers {wanted}: the model has the blocks 0 to {model.n_layers - 1}; name some of these.")
    return wanted


def _tokens(model: LoadedModel, rows: Sequence[Row]) -> list[list[int]]:
    """Of every row; a text that cannot be put into a prompt as it is, is refused under its name."""
    try:
        return model.prompts.tokens_many([(text, system) for _, text, system in rows])
    except BadConfig:
        for name, text, system in rows:
            try:
                model.prompt_tokens(text, system)
            except BadConfig as error:
                raise BadConfig(f"{name}: {error}") from error
        raise


def _spans(
    model: LoadedModel, rows: Sequence[Row], tokens: Sequence[Sequence[int]], positions: Sequence[str]
) -> list[list[Span]]:
    """The tokens of every row whose mean each position is; one that there is not is refused under the row's name."""
    found = []
    for (name, text, system), ids in zip(rows, tokens, strict=True):
        n, own = len(ids), (0, 0)
        try:
            if {"task-last", "mean"} & set(positions):
                own = model.prompts.located(text, system)
            of = {"last": (n - 1, n), "mean": own, "task-last": (own[1] - 1, own[1])}
            counted = {p: n + int(p.removeprefix("turn:")) for p in positions if p not in of}
            beyond = next((p for p, at in counted.items() if at < 0), None)
            if beyond is not None:
                raise BadConfig(f"its prompt of {n} tokens has no position {beyond}; count fewer from its end.")
        except BadConfig as error:
            raise BadConfig(f"{name}: {error}") from error
        found.append([of[p] if p in of else (counted[p], counted[p] + 1) for p in positions])
    return found


def _finite(kept: Kept, names: Sequence[str]) -> Kept:
    """What was kept; a prompt whose activation is not finite is refused under its name."""
    for layer, values in kept.items():
        _require_finite(values, layer, names, "use dtype float32 or bfloat16, and check the weights")
    return kept


def _require_finite(values: npt.NDArray[Any], layer: int, names: Sequence[str], remedy: str, of: str = "") -> None:
    bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if bad.any():
        raise BadConfig(f"{names[int(bad.argmax())]}: the activation after block {layer} is not finite{of}; {remedy}.")


def _arrays(kept: Kept, positions: Sequence[str], dtype: Dtype, names: Sequence[str]) -> dict[str, np.ndarray]:
    """As they are stored: `layer_<L>` of the first position, `mean_<L>` and the like of further ones."""
    found: dict[str, np.ndarray] = {}
    for layer, values in kept.items():
        for k, position in enumerate(positions):
            stored = as_stored(f"{named(position) if k else 'layer'}_{layer}", values[:, k], dtype)
            for name, value in stored.items() if dtype != "float32" else ():
                _require_finite(widened(name, value), layer, names, "store it as float32", f" in {dtype}")
            found |= stored
    return found


def extract(
    model: LoadedModel,
    rows: Sequence[Row],
    layers: Sequence[int],
    store: StepStore,
    part: int,
    progress: Progress,
    *,
    positions: Sequence[str] = ("last",),
    dtype: Dtype = "float32",
) -> dict[str, Output]:
    """The residual stream after `layers` of every (id, text, system prompt), at every position.

    Parts hold `part` rows that are neighbours in length, so that a part's work is even and its packs are full; each is an
    NPZ with `task_ids` (n,), `layer_<L>` (n, d) of the first position, and `mean_<L>` and the like of further ones, in
    `dtype` as `features.stored` has it. Parts that the store holds are kept. Returns part → output.
    """
    of = [(f"task {id_}", text, system) for id_, text, system in rows]
    tokens = _tokens(model, of)
    # by system prompt first: its computation is shared within a part
    order = sorted(range(len(rows)), key=lambda i: (rows[i][2] or "", len(tokens[i]), rows[i][0]))
    chunks = [order[i : i + part] for i in range(0, len(order), part)]
    there = store.parts()
    names = [f"part-{k:05d}.npz" for k in range(len(chunks))]
    saved = sum(len(c) for n, c in zip(names, chunks, strict=True) if n in there)
    progress.start(len(rows), "prompts", saved)
    progress.check_stop()
    check_model(model)
    compile_if_worth(model, sum(map(len, tokens)))
    longest = max(range(len(rows)), key=lambda i: len(tokens[i]), default=None)
    if longest is not None and model.context is not None and len(tokens[longest]) > model.context:
        raise BadConfig(
            f"{of[longest][0]}: its prompt takes {len(tokens[longest]):,} tokens, and the model's context is "
            f"{model.context:,}; shorten it or leave it out."
        )
    spans = _spans(model, of, tokens, positions)
    behind = 0 if model.device.type == "cpu" else 1  # a GPU goes on while a part is written
    writing: deque[tuple[str, int, Future[Output]]] = deque()

    def write(name: str, arrays: dict[str, np.ndarray]) -> Output:
        return store.write_part(name, npz_bytes(arrays))

    def written(but: int) -> None:
        while len(writing) > but:
            name, n, output = writing.popleft()
            there[name] = output.result()
            progress.advance(n)

    def begun() -> Iterator[tuple[str, list[int], Passed]]:
        for name, chunk in zip(names, chunks, strict=True):
            if name in there:
                store.read_part(name)  # a corrupt part must stop this step, not a later one
                continue
            yield (
                name,
                chunk,
                forward(model, [tokens[i] for i in chunk], layers=layers, spans=[spans[i] for i in chunk]),
            )

    def end(part: tuple[str, list[int], Passed]) -> None:
        name, chunk, passed = part
        names_of = [of[i][0] for i in chunk]
        kept = settled(model, passed, [tokens[i] for i in chunk], [spans[i] for i in chunk])
        arrays = _arrays(_finite(kept, names_of), positions, dtype, names_of)
        arrays["task_ids"] = np.array([rows[i][0] for i in chunk])
        if passed.alone and ALONE not in there:
            there[ALONE] = store.write_part(ALONE, json_bytes(model.packing.why))
        writing.append((name, len(chunk), writer.submit(write, name, arrays)))
        written(behind)

    with ThreadPoolExecutor(1) as writer:  # at a stop it writes what has been computed
        one_behind(model.device, begun(), end)
        written(0)
    return {name: there[name] for name in names}
