"""Forward passes in which every distinct token is computed once.

Prompts that share a beginning share its computation: sequences are sorted and laid out as the nodes of a prefix tree,
each node attending to its ancestors only, with the position it has in its own sequence. Nothing is padded but the end of
a pack. A beginning that *all* sequences share (a system prompt, the instructions) is computed once for the whole call and
kept as keys and values. Several packs form one batch, so that matrix products stay large while attention stays small.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from prefprobe.activations.loading import LoadedModel
from prefprobe.errors import BadConfig

BATCH_TOKENS = 2048
"""Tokens in a batch of packs: matrix products of two CPU cores are at their best from about here."""


@dataclass
class Pack:
    """A prefix tree in depth-first order."""

    tokens: list[int]
    positions: list[int]
    paths: list[np.ndarray]
    """For each sequence the nodes of its tokens, in order; (length,) int64."""
    rows: list[int]
    """Which of the caller's sequences these are."""


def pack(sequences: Sequence[Sequence[int]], skip: int, capacity: int) -> list[Pack]:
    """Lay the sequences out in packs of at most `capacity` nodes (a longer sequence gets a pack of its own).

    The first `skip` tokens, common to all, are left out. Same sequences, same packs: the caller's order does not matter.
    """
    order = sorted(range(len(sequences)), key=lambda row: (list(sequences[row]), row))
    packs: list[Pack] = []
    previous: list[int] = []
    for row in order:
        sequence = list(sequences[row][skip:])
        shared = _common(previous, sequence) if packs else 0
        if not packs or (len(packs[-1].tokens) + len(sequence) - shared > capacity and packs[-1].rows):
            packs.append(Pack([], [], [], []))
            shared = 0
        here = packs[-1]
        first = len(here.tokens)
        here.tokens += sequence[shared:]
        here.positions += range(skip + shared, skip + len(sequence))
        new = np.arange(first, len(here.tokens))
        here.paths.append(np.concatenate([here.paths[-1][:shared], new]) if shared else new)
        here.rows.append(row)
        previous = sequence
    return packs


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n


def forward(
    model: LoadedModel,
    sequences: Sequence[Sequence[int]],
    *,
    layers: Sequence[int] = (),
    tail: int = 0,
    pack_tokens: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> tuple[dict[int, np.ndarray], torch.Tensor | None]:
    """Run all sequences and keep only what is asked for.

    Returns the residual stream after each of `layers` (0-based blocks) at the last token, {layer: (n, d) float32}, and,
    if `tail` > 0, the final hidden states of the last `tail` tokens, (n, tail, d) on the device. `pack_tokens` is four
    sequences' own tokens unless given: enough to share beginnings and to waste little at a pack's end, while attention,
    which grows with it, stays a small part of the work.
    """
    if any(len(s) <= max(tail, 1) for s in sequences):
        raise BadConfig("a prompt is shorter than the answer's beginning; check the chat template and the labels.")
    n, d = len(sequences), model.width
    skip = min(_shared_beginning(sequences), min(len(s) for s in sequences) - max(tail, 1))
    if pack_tokens is None:
        pack_tokens = max(128, min(1024, 4 * sum(len(s) - skip for s in sequences) // n))
    packs = pack(sequences, skip, pack_tokens)
    kept = {layer: np.empty((n, d), dtype=np.float32) for layer in layers}
    hidden = torch.empty((n, tail, d), device=model.device) if tail else None
    with torch.inference_mode():
        prefix = _prefix_cache(model, sequences[0][:skip]) if skip else None
        for batch in _batches(packs, batch_tokens):
            rows = [row for p in batch for row in p.rows]
            where = torch.tensor([i for i, p in enumerate(batch) for _ in p.rows], device=model.device)
            ends = torch.tensor(
                np.stack([path[-max(tail, 1) :] for p in batch for path in p.paths]), device=model.device
            )
            captured: dict[int, torch.Tensor] = {}
            with _Capture(model, layers, where, ends[:, -1], captured):
                final = _run(model, batch, prefix, skip)
            for layer, values in captured.items():
                kept[layer][rows] = values.float().cpu().numpy()
            if hidden is not None:
                hidden[torch.tensor(rows, device=model.device)] = final[where[:, None], ends].float()
    return kept, hidden


def _shared_beginning(sequences: Sequence[Sequence[int]]) -> int:
    low, high = min(sequences, key=list), max(sequences, key=list)
    return _common(low, high)


def _batches(packs: list[Pack], batch_tokens: int) -> Iterator[list[Pack]]:
    batch: list[Pack] = []
    for p in sorted(packs, key=lambda p: -len(p.tokens)):
        width = max(len(q.tokens) for q in [*batch, p])
        if batch and width * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(p)
    if batch:
        yield batch


def _prefix_cache(model: LoadedModel, tokens: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    cache = DynamicCache()
    model.backbone(input_ids=torch.tensor([list(tokens)], device=model.device), past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]


def _run(
    model: LoadedModel, batch: list[Pack], prefix: list[tuple[torch.Tensor, torch.Tensor]] | None, skip: int
) -> torch.Tensor:
    size, width = len(batch), max(len(p.tokens) for p in batch)
    tokens = np.zeros((size, width), dtype=np.int64)
    positions = np.zeros((size, width), dtype=np.int64)
    sees = np.zeros((size, width, skip + width), dtype=bool)
    sees[:, :, :skip] = True
    sees[:, np.arange(width), skip + np.arange(width)] = True  # an empty place at the end sees itself, to stay finite
    for i, p in enumerate(batch):
        tokens[i, : len(p.tokens)] = p.tokens
        positions[i, : len(p.tokens)] = p.positions
        for path in p.paths:
            sees[i][np.ix_(path, skip + path)] |= np.tri(len(path), dtype=bool)
    cache = None
    if prefix is not None:
        cache = DynamicCache()
        for index, (keys, values) in enumerate(prefix):
            cache.update(keys.expand(size, -1, -1, -1), values.expand(size, -1, -1, -1), index)
    output = model.backbone(
        input_ids=torch.from_numpy(tokens).to(model.device),
        position_ids=torch.from_numpy(positions).to(model.device),
        attention_mask=_masks(model, sees, positions, skip),
        past_key_values=cache,
        use_cache=cache is not None,
    )
    final: torch.Tensor = output.last_hidden_state
    return final


def _masks(model: LoadedModel, sees: np.ndarray, positions: np.ndarray, skip: int) -> Any:
    """One mask, or one per kind of layer for architectures that mix full and sliding-window attention."""
    full = torch.from_numpy(sees)[:, None].to(model.device)
    kinds = set(getattr(model.backbone.config, "layer_types", None) or ())
    if kinds <= {"full_attention"}:
        return full
    keys = np.concatenate([np.broadcast_to(np.arange(skip), (len(positions), skip)), positions], axis=1)
    near = positions[:, :, None] - keys[:, None, :] < model.backbone.config.sliding_window
    return {"full_attention": full, "sliding_attention": full & torch.from_numpy(near)[:, None].to(model.device)}


class _Capture:
    """Hooks that gather one token of every sequence after the wanted blocks, on the device."""

    def __init__(
        self,
        model: LoadedModel,
        layers: Sequence[int],
        where: torch.Tensor,
        ends: torch.Tensor,
        into: dict[int, torch.Tensor],
    ) -> None:
        self._wanted = [(layer, model.backbone.layers[layer]) for layer in layers]
        self._where, self._ends, self._into = where, ends, into
        self._handles: list[Any] = []

    def _hook(self, layer: int) -> Callable[..., None]:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            stream = output[0] if isinstance(output, tuple) else output
            self._into[layer] = stream[self._where, self._ends]

        return keep

    def __enter__(self) -> None:
        self._handles = [block.register_forward_hook(self._hook(layer)) for layer, block in self._wanted]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def check_packing(model: LoadedModel) -> None:
    """Raise BadConfig unless this architecture gives the same hidden states packed as one by one.

    A packed pass relies on the model to honour positions and masks; one that does not must not measure anything.
    """
    words = ["Name a colour", "Name a colour and a number", "Sort these three words", "Why?"]
    sequences = [model.prompt_tokens(text) for text in words]
    _, packed = forward(model, sequences, tail=1)
    assert packed is not None
    with torch.inference_mode():
        for sequence, got in zip(sequences, packed[:, 0], strict=True):
            tokens = torch.tensor([sequence], device=model.device)
            alone = model.backbone(input_ids=tokens, use_cache=False).last_hidden_state[0, -1].float()
            apart = float((got - alone).norm() / alone.norm())
            tolerance = 1e-3 if next(model.backbone.parameters()).dtype == torch.float32 else 5e-2
            if not apart < tolerance:
                raise BadConfig(
                    f"{type(model.backbone).__name__} gives other hidden states in a packed pass than alone "
                    f"(relative difference {apart:.2g}, expected < {tolerance:g}); this architecture is not supported."
                )
