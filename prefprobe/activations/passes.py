"""Forward passes of many prompts, exact for any decoder: packed where that gives what the model itself gives, else alone.

No list of architectures says which are packed. In every length that a run meets, packed values are compared with those of
the model's own pass of one prompt alone, before any of them is returned; where they differ, prompts go through alone.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from transformers import DynamicCache

from prefprobe.activations.capture import FINAL, capture
from prefprobe.activations.checks import check_tokens, relative_difference, tolerance
from prefprobe.activations.coming import Coming
from prefprobe.activations.compiled import (
    COMPILED_TOKENS,
    MASK_BLOCK,
    SHARED_FROM,
    Beginning,
    compiled_blocks,
    do_not_compile,
    to_device,
)
from prefprobe.activations.masks import NotPackable
from prefprobe.activations.model import LoadedModel
from prefprobe.activations.packing import Pack, batches, even_packs, pack, shared_beginning
from prefprobe.errors import BadConfig

_log = logging.getLogger(__name__)

BATCH_TOKENS = 2048
"""Tokens in a batch of packs: matrix products of two CPU cores are at their best from about here."""
Kept = dict[int, np.ndarray]
Span = tuple[int, int]
"""Tokens of a sequence, half-open."""


@dataclass
class Passed:
    """What forward passes of n prompts gave, when a GPU has come to it."""

    arrays: Kept
    """`kept`, filled when it is asked for."""
    hidden: torch.Tensor | None
    """The final hidden states of the last `tail` tokens, (n, tail, width) float32 on the device; None if `tail` is 0."""
    alone: bool = False
    """Whether prompts went through one at a time."""
    coming: Coming | None = None

    @property
    def kept(self) -> Kept:
        """The residual stream after each of the wanted layers: {layer: (n, d) float32} at the last token, or the means over k
        spans of tokens, {layer: (n, k, d) float32}. Waits for the GPU.
        """
        if self.coming is not None:
            self.coming.wait()
        return self.arrays

    @property
    def finite(self) -> bool:
        """Whether all of it are numbers."""
        hidden = True if self.hidden is None else bool(self.hidden.isfinite().all())
        return hidden and all(bool(np.isfinite(values).all()) for values in self.kept.values())


def forward(
    model: LoadedModel,
    sequences: Sequence[Sequence[int]],
    *,
    layers: Sequence[int] = (),
    tail: int = 0,
    spans: Sequence[Sequence[Span]] | None = None,
    pack_tokens: int | None = None,
    batch_tokens: int | None = None,
) -> Passed:
    """Run all sequences and keep only what is asked for: `layers` (0-based blocks), and the last `tail` final states.

    Of `layers` the last token is kept, or the mean over each of as many `spans` of every sequence. Without `tail` nothing
    above the deepest of `layers` is computed. `pack_tokens` is four sequences' own tokens unless given: enough to share
    beginnings and to waste little at a pack's end, while attention, which grows with it, stays a small part.

    Raises BadConfig for a sequence longer than the model's context, and for a token that the model has not.
    """
    if spans is None:
        last = [[(len(s) - 1, len(s))] for s in sequences]
        passed = forward(
            model, sequences, layers=layers, tail=tail, spans=last, pack_tokens=pack_tokens, batch_tokens=batch_tokens
        )
        return replace(passed, arrays={layer: values[:, 0] for layer, values in passed.arrays.items()})
    if any(len(s) <= max(tail, 1) for s in sequences):
        raise BadConfig("a prompt is shorter than the answer's beginning; check the chat template and the labels.")
    lengths = [len(s) for s in sequences]
    longest = max(lengths)
    if model.context is not None and longest > model.context:
        raise BadConfig(
            f"a prompt of {longest} tokens is longer than the model's context of {model.context}; "
            "shorten it or leave it out."
        )
    wanted = tuple(layers), tail
    if any(not 0 <= start < stop <= n for n, each in zip(lengths, spans, strict=True) for start, stop in each):
        raise ValueError("a span has no tokens, or lies beyond its sequence")
    check_tokens(model, sequences)
    if longest >= model.packing.apart_from:
        return _one_by_one(model, sequences, spans, *wanted)
    first = min(start for each in spans for start, _ in each)
    skip = min(shared_beginning(sequences), min(lengths) - max(tail, 1), first)  # of the beginning nothing is kept
    compiled, most = bool(model.packing.compiled), model.packing.most_tokens
    if compiled:
        skip = skip if skip >= SHARED_FROM else 0
        # the first of several GPUs is idle at the end for as long as the last is at the start: for a batch's passage; below a
        # quarter, products of matrices would be too small
        several = min(len(set(model.block_devices)), 4)
        packs = even_packs(sequences, skip, batch_tokens or COMPILED_TOKENS // several, most)
        batched = [[each] for each in packs]
    else:
        if pack_tokens is None:
            pack_tokens = max(128, min(1024, 4 * (sum(lengths) - skip * len(lengths)) // len(lengths)))
        packs = pack(sequences, skip, int(min(pack_tokens, most)))
        batched = list(batches(packs, int(min(batch_tokens or BATCH_TOKENS, most))))
    gaps = {
        row: int(path[-1] - path[0]) + 1 - len(path) for p in packs for row, path in zip(p.rows, p.paths, strict=True)
    }
    farthest = max(gaps, key=lambda row: gaps[row])
    widest = max(packs, key=lambda p: len(p.tokens))
    places = skip + len(widest.tokens)
    others = any(start < n - 1 for n, each in zip(lengths, spans, strict=True) for start, _ in each)
    regime = compiled, skip > 0, others, gaps[farthest].bit_length(), model.n_layers if tail else max(layers)
    compared = model.packing.compared(*regime)
    why = ""
    try:
        result = _packed(model, sequences, spans, batched, skip, *wanted)
    except torch.OutOfMemoryError:
        raise
    except (NotPackable, RuntimeError, TypeError, ValueError, AttributeError, LookupError):
        if any(compared):
            raise
        _log.debug("packed pass", exc_info=True)
        why, apart_from = f"its layers take no {'compiled' if compiled else 'packed'} pass", 0
    else:
        if not any(map(partial(_is_new, model), (longest, places), compared)):
            return result
        some = {lengths.index(longest), farthest, widest.rows[-1]}
        rows = sorted(some if any(compared) else some | {lengths.index(min(lengths))})
        own = _one_by_one(model, [sequences[i] for i in rows], [spans[i] for i in rows], *wanted)
        if not own.finite:  # which is refused, and says nothing of packs
            return result
        apart = _difference(result, rows, own)
        if apart < tolerance(model):
            model.packing.exact_to[regime] = max(longest, compared[0]), max(places, compared[1])
            return result
        _log.info("packed values differ from %s's own by %.1e at %d tokens", model.family, apart, longest)
        why, apart_from = "packed values are not its own", longest
    if compiled:
        do_not_compile(model, why)
        return forward(model, sequences, layers=layers, tail=tail, spans=spans)
    model.set_apart(apart_from, why)
    return _one_by_one(model, sequences, spans, *wanted)


def settled(
    model: LoadedModel, passed: Passed, sequences: Sequence[Sequence[int]], spans: Sequence[Sequence[Span]]
) -> Kept:
    """`kept` of these sequences, of which those that are not finite are computed once more, alone: in a pack a value that is
    no number spreads to prompts beside its own.
    """
    kept = passed.kept
    bad = ~np.logical_and.reduce([np.isfinite(values).all(axis=(1, 2)) for values in kept.values()])
    rows = [] if passed.alone else np.flatnonzero(bad).tolist()
    if rows:
        own = _one_by_one(model, [sequences[i] for i in rows], [spans[i] for i in rows], tuple(kept), 0)
        for layer, values in own.kept.items():
            kept[layer][rows] = values
    return kept


def _is_new(model: LoadedModel, reached: int, compared: int) -> bool:
    """Whether prompts, or packs, may be in another regime than those that were compared: a quarter longer, or beyond any
    number that the configuration names, as windows, chunks and lengths of training are.
    """
    return reached > 1.25 * compared or any(compared <= n <= reached for n in model.packing.named if reached > compared)


def _difference(packed: Passed, rows: list[int], alone: Passed) -> float:
    """The largest relative difference of any vector in `rows`; NaN if a value is no number."""
    pairs = [(packed.kept[layer][rows], own) for layer, own in alone.kept.items()]
    if packed.hidden is not None and alone.hidden is not None:
        pairs.append((packed.hidden[rows].cpu().numpy(), alone.hidden.cpu().numpy()))
    return max(float(relative_difference(got, own).max()) for got, own in pairs)


def _one_by_one(
    model: LoadedModel,
    sequences: Sequence[Sequence[int]],
    spans: Sequence[Sequence[Span]],
    layers: tuple[int, ...],
    tail: int,
) -> Passed:
    """The same by the model's own pass of each sequence, without a mask, a cache or another sequence beside it."""
    kept = {layer: np.empty((len(sequences), len(spans[0]), model.width), dtype=np.float32) for layer in layers}
    ends = []
    with torch.inference_mode():
        for row, sequence in enumerate(sequences):
            places = [np.arange(*span) for span in spans[row]]
            with capture(model, layers, final=tail > 0) as seen:
                model.model(input_ids=torch.tensor([list(sequence)], device=model.device), use_cache=False)
            for layer in layers:
                kept[layer][row] = _means(seen[layer], np.zeros(1, dtype=np.int64), places)[0].cpu().numpy()
            if tail:
                ends.append(seen[FINAL][0, -tail:].float())
    return Passed(kept, torch.stack(ends) if tail else None, alone=True)


def _packed(
    model: LoadedModel,
    sequences: Sequence[Sequence[int]],
    spans: Sequence[Sequence[Span]],
    batched: list[list[Pack]],
    skip: int,
    layers: tuple[int, ...],
    tail: int,
) -> Passed:
    n, last, hidden = len(sequences), max(tail, 1), None
    deepest = model.n_layers - 1 if tail else max(layers)
    kept = {layer: np.empty((n, len(spans[0]), model.width), dtype=np.float32) for layer in layers}
    coming = Coming(kept)
    with torch.inference_mode():
        beginning = _beginning(model, list(sequences[0][:skip]), layers, tail > 0) if skip else None
        while batched:
            batch, *batched = batched
            rows = np.array([row for p in batch for row in p.rows])
            which = np.array([i for i, p in enumerate(batch) for _ in p.rows])
            paths = [path for p in batch for path in p.paths]
            places = [path[a - skip : b - skip] for row, path in zip(rows, paths, strict=True) for a, b in spans[row]]
            ends = np.stack([path[-last:] for path in paths])
            nodes = np.unique(np.concatenate([ends.ravel(), *places]))
            if model.packing.compiled and len(nodes) < MASK_BLOCK:  # a few queries would be compiled for themselves
                nodes = np.union1d(nodes, np.arange(min(MASK_BLOCK, len(batch[0].tokens))))
            try:
                seen = _run(model, batch, beginning, skip, layers, deepest, nodes, tail > 0)
            except torch.OutOfMemoryError:
                batched = _smaller(model, sequences, [batch, *batched], skip)
                continue
            narrow = nodes if model.packing.compiled else np.arange(nodes[-1] + 1)
            for layer in layers:
                at = [np.searchsorted(narrow, each) for each in places] if layer == deepest else places
                coming.add(layer, rows, _means(seen[layer], which, at))
            if tail:
                deep = np.searchsorted(narrow, ends)
                where, at, to = (to_device(each, seen[FINAL].device) for each in (which[:, None], deep, rows))
                final = seen[FINAL][where, at].float()
                if hidden is None:  # some models project their last states to another width
                    hidden = final.new_empty((n, *final.shape[1:]))
                hidden[to] = final
    return Passed(kept, hidden, coming=coming)


def _means(stream: torch.Tensor, which: np.ndarray, places: Sequence[np.ndarray]) -> torch.Tensor:
    """Of a stream (batch, tokens, d) the means over `places`, (n, k, d) float32: k of them for each of n sequences, of which
    the i-th lies in row which[i] of the batch.
    """
    k, lengths = len(places) // len(which), np.array([len(each) for each in places])
    row, place = np.repeat(np.repeat(which, k), lengths), np.concatenate(places)
    values = stream[to_device(row, stream.device), to_device(place, stream.device)].float()
    if len(values) > len(lengths):  # in order, so that it repeats
        values = torch.segment_reduce(values, "mean", lengths=to_device(lengths, stream.device), axis=0)
    return values.view(len(which), k, -1)


def _smaller(
    model: LoadedModel, sequences: Sequence[Sequence[int]], batched: list[list[Pack]], skip: int
) -> list[list[Pack]]:
    """The same packs in batches of at most half the first one's tokens, and so from now on.

    Raises OutOfMemoryError if the first is one prompt.
    """
    tokens = _places(batched[0])
    rows = [row for p in batched[0] for row in p.rows]
    if len(rows) == 1:
        raise torch.OutOfMemoryError(f"one prompt of {len(sequences[rows[0]])} tokens does not fit in memory")
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    model.packing.most_tokens = most = tokens // 2
    _log.warning("out of memory in a batch of %d tokens; going on with %d", tokens, most)
    smaller: list[list[Pack]] = []
    for batch in batched:
        if _places(batch) <= most:
            smaller.append(batch)
            continue
        rows = [row for p in batch for row in p.rows]
        packs = pack([sequences[row] for row in rows], skip, min(most, max(len(p.tokens) for p in batch)))
        for p in packs:
            p.rows = [rows[i] for i in p.rows]
        smaller += [[p] for p in packs] if model.packing.compiled else batches(packs, most)
    return smaller


def _places(batch: list[Pack]) -> int:
    return len(batch) * max(len(p.tokens) for p in batch)


def _beginning(model: LoadedModel, tokens: list[int], layers: tuple[int, ...], final: bool) -> Beginning:
    """Keys and values of the beginning that all prompts share, of the blocks up to the deepest of `layers`, or of all."""
    deep = model.n_layers if final else max(layers) + 1
    if model.packing.beginning[0] != tokens or len(model.packing.beginning[1]) < deep:
        cache = DynamicCache()
        with capture(model, layers, final):
            ids = torch.tensor([tokens], device=model.device)
            model.backbone(input_ids=ids, past_key_values=cache, use_cache=True)
        model.packing.beginning = tokens, [(layer.keys, layer.values) for layer in cache.layers]
    return model.packing.beginning[1]


def _run(
    model: LoadedModel,
    batch: list[Pack],
    beginning: Beginning | None,
    skip: int,
    layers: tuple[int, ...],
    deepest: int,
    nodes: np.ndarray,
    final: bool,
) -> dict[int, torch.Tensor]:
    """What `capture` keeps of a batch; if blocks are compiled, it is one pack, and `deepest` gives the stream of `nodes`."""
    size, width = len(batch), max(len(p.tokens) for p in batch)
    tokens = np.zeros((size, width), dtype=np.int64)
    positions = np.zeros((size, width), dtype=np.int64)
    for i, p in enumerate(batch):
        tokens[i, : len(p.tokens)] = p.tokens
        positions[i, : len(p.tokens)] = p.positions
    ids, places = (to_device(each, model.device) for each in (tokens, positions))
    length = max(skip, int(positions.max()) + 1)
    cache = None
    if beginning is not None:
        cache = DynamicCache()
        for index, (keys, values) in enumerate(beginning):
            cache.update(keys.expand(size, -1, -1, -1), values.expand(size, -1, -1, -1), index)
    with ExitStack() as stack:
        if model.packing.compiled:
            masks = stack.enter_context(compiled_blocks(model, batch[0], skip, beginning, deepest, nodes))
        else:
            sees = np.zeros((size, width, skip + width), dtype=bool)
            sees[:, :, :skip] = True
            sees[:, np.arange(width), skip + np.arange(width)] = True  # an empty place sees itself, to stay finite
            for i, p in enumerate(batch):
                for path in p.paths:
                    sees[i][np.ix_(path, skip + path)] |= np.tri(len(path), dtype=bool)
            key_places = torch.cat([torch.arange(skip, device=model.device).expand(size, -1), places], dim=1)
            masks = model.packing.rules.masks(to_device(sees, model.device), places, key_places, length, model.dtype)
        seen = stack.enter_context(capture(model, layers, final))
        model.backbone(
            input_ids=ids,
            position_ids=places,
            attention_mask=masks,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    return seen
