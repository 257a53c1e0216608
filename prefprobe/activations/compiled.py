"""Compiled passes: all tokens of a batch in one row, attended by FlexAttention, each block one compiled function.

Norms, rotary embeddings, gates and casts are bound by memory, and torch.compile fuses them. In one row nothing is padded,
and the keys of a beginning that all prompts share lie there once. A block takes these keys as arguments and not from a cache
that knows its number, so that all blocks of a kind are one function, compiled once. Of the deepest block that is read only
keys and values are computed for all tokens, the rest for those that are kept.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask

from prefprobe.activations.model import LoadedModel
from prefprobe.activations.packing import Pack
from prefprobe.sources import cache_root

_log = logging.getLogger(__name__)

COMPILED_TOKENS = 16384
"""Tokens in a batch."""
_WORTH = 2e16
"""Operations from which compiling (half a minute, seconds with its cache) is won back on a GPU of today."""
MASK_BLOCK = 128
"""Tokens in a block of FlexAttention's mask."""
SHARED_FROM = 128
"""Tokens of a shared beginning from which its keys and values are put before each batch's: fewer are sooner computed anew,
once a batch.
"""
_BACKEND = "inductor"
_KERNEL = {"FORCE_USE_FLEX_ATTENTION": True}
"""The kernel for few queries knows no lengths that change."""
Beginning = list[tuple[torch.Tensor, torch.Tensor]]
Masks = dict[str | None, BlockMask]
"""By kind of layer; None where there is one kind."""


def compile_if_worth(model: LoadedModel, tokens: int) -> None:
    """Let passes of `model` be compiled from now on if so many `tokens` are to come that it pays: on a GPU only."""
    if model.packing.compilable and not model.packing.compiled:
        work = 2 * sum(p.numel() for block in model.blocks for p in block.parameters()) * tokens
        if model.device.type == "cuda" and work >= _WORTH and getattr(model.backbone, "_supports_flex_attn", False):
            if any(map(shutil.which, (os.environ.get("CC") or "gcc", "clang"))):
                compile_blocks(model)
            else:
                do_not_compile(model, "there is no C compiler (CC, gcc or clang), which Triton calls")


def compile_blocks(model: LoadedModel) -> None:
    """Let passes of `model` be compiled from now on.

    What is compiled is kept on disk: in the folder PREFPROBE_COMPILED if that can be written, or else beside the models.
    """
    shared = os.environ.get("PREFPROBE_COMPILED")
    folder = Path(shared) if shared and _writable(Path(shared)) else cache_root() / "compiled"
    # set here, since torch makes the folder when it is imported and stops if it cannot; it looks again when it compiles
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    model.packing.compiled = [torch.compile(block.forward, dynamic=True, backend=_BACKEND) for block in model.blocks]


@cache
def _writable(folder: Path) -> bool:
    """Whether files can be made in it, once its parents are made; says so if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        _log.info(
            "what is compiled cannot be kept in %s (%s), so that the next pod compiles again", folder, error.strerror
        )
        return False
    return True


def do_not_compile(model: LoadedModel, why: str) -> None:
    """Let passes of `model` be as its code is, from now on."""
    model.packing.compiled, model.packing.compilable = (), False
    _log.info("passes of %s are not compiled, since %s; this is exact, and slower", model.family, why)


@contextmanager
def compiled_blocks(
    model: LoadedModel, pack: Pack, skip: int, beginning: Beginning | None, deepest: int, nodes: np.ndarray
) -> Iterator[Any]:
    """Within it blocks run compiled, up to `deepest`, over one row: a pack behind `skip` tokens that all prompts share, whose
    keys and values are `beginning`. Yields the attention mask, one or {kind of layer: one}.

    `deepest` gives the stream of `nodes` alone, which are sorted.
    """
    config = model.backbone.config
    found = model.packing.rules.of(max(skip, max(pack.positions) + 1))
    rules = found if isinstance(found, dict) else {None: found}
    devices = model.block_devices[: deepest + 1]
    masks = {device: _masks(rules, pack, skip, device) for device in {model.device, *devices}}
    kinds = {id(mask): kind for kind, mask in masks[model.device].items()}
    own = config._attn_implementation
    with ExitStack() as stack:
        for i, (block, device, forward) in enumerate(zip(model.blocks, devices, model.packing.compiled, strict=False)):
            if i == deepest:
                narrow = _masks(rules, pack, skip, device, nodes)
                forward = _of_nodes(block.forward, forward, nodes, len(pack.tokens), masks[device], narrow)
            block.forward = forward
            stack.callback(delattr, block, "forward")
            before = None if beginning is None else _Keys(*beginning[i])
            hook = block.register_forward_pre_hook(_given(kinds, masks[device], before), with_kwargs=True)
            stack.callback(hook.remove)
        config._attn_implementation = "flex_attention"
        stack.callback(setattr, config, "_attn_implementation", own)
        stack.enter_context(torch._dynamo.config.patch(recompile_limit=64, specialize_float=True))
        yield masks[model.device] if isinstance(found, dict) else masks[model.device][None]


def _of_nodes(own: Any, compiled: Any, nodes: np.ndarray, n: int, masks: Masks, narrow: Masks) -> Any:
    """A block's forward that computes keys and values of all `n` tokens and the stream of `nodes`."""

    def forward(hidden: torch.Tensor, *more: Any, **given: Any) -> Any:
        rows = to_device(nodes, hidden.device)

        def pick(value: Any) -> Any:
            if isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[1] == n:
                return value.index_select(1, rows)
            return tuple(map(pick, value)) if isinstance(value, tuple) else value

        keys = _KeysAlone(given.get("past_key_values"))
        with suppress(_Enough):
            own(hidden, *more, **given | {"past_key_values": keys})
        kind = next(kind for kind, mask in masks.items() if mask is given["attention_mask"])
        given = {name: pick(value) for name, value in given.items()}
        given |= {"attention_mask": narrow[kind], "past_key_values": _Keys(*keys.all)}
        return compiled(pick(hidden), *map(pick, more), **given)

    return forward


class _Keys:
    """Stands for a cache: what comes before the keys and values of one block, whatever its number."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Both of all tokens."""
        return torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)


class _KeysAlone:
    """Takes keys and values of all tokens, and ends the block there."""

    def __init__(self, before: _Keys | None) -> None:
        self._before = before

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> None:
        """Always raises _Enough."""
        self.all = (keys, values) if self._before is None else self._before.update(keys, values)
        raise _Enough


class _Enough(Exception):
    """All that was asked for has been computed."""


def _given(kinds: dict[int, Any], masks: Masks, before: _Keys | None) -> Any:
    """Gives a block the mask of its kind on its device, and its own keys instead of a cache."""

    def hook(_module: Any, args: Any, given: dict[str, Any]) -> Any:
        mask = masks[kinds[id(given["attention_mask"])]]
        return args, given | {"attention_mask": mask, "past_key_values": before, "kernel_options": _KERNEL}

    return hook


def _masks(
    rules: dict[str | None, Any], pack: Pack, skip: int, device: torch.device, nodes: np.ndarray | None = None
) -> Masks:
    """What a row's tokens may look at; with `nodes` what these may, whose own keys come once more behind those of all and are
    hidden.

    `rules` are as `DistanceRules.of` gives them. In depth-first order a node's descendants follow it, so that an ancestor is
    known by where its last descendant ends.
    """
    n = len(pack.tokens)
    own = np.arange(n) if nodes is None else nodes
    k = skip + n + (0 if nodes is None else len(nodes))
    start, end, place = np.arange(-skip, k - skip), np.zeros(k, dtype=np.int64), np.zeros(k, dtype=np.int64)
    end[:skip] = n
    end[skip : skip + n] = np.arange(1, n + 1)
    place[:skip] = np.arange(skip)
    place[skip : skip + n] = pack.positions
    # never one block alone: its number is a size, and Dynamo compiles anew for a size of one
    rows, columns = (max(2, -(-length // MASK_BLOCK)) for length in (len(own), k))
    near = np.zeros((rows, columns), dtype=bool)
    first = np.arange(0, len(own), MASK_BLOCK)
    near[: len(first), : -(-skip // MASK_BLOCK)] = True
    for path in pack.paths:
        end[skip + path] = path[-1] + 1
        mine = path if nodes is None else np.flatnonzero((path[0] <= nodes) & (nodes <= path[-1]))
        near[np.ix_(np.unique(mine // MASK_BLOCK), np.unique((skip + path) // MASK_BLOCK))] = True
    starts, ends, keys, queries, numbers = (
        to_device(each.astype(np.int32), device) for each in (start, end, place, np.asarray(pack.positions)[own], own)
    )

    def ancestor(_batch: Any, _head: Any, query: Any, key: Any) -> Any:
        return (starts[key] <= numbers[query]) & (numbers[query] < ends[key])

    def blocks(which: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        count, index = which.sum(1), np.argsort(~which, axis=1, kind="stable")
        return to_device(count.astype(np.int32)[None, None], device), to_device(
            index.astype(np.int32)[None, None], device
        )

    def wholly(rule: torch.Tensor | None) -> np.ndarray:
        """Blocks of the beginning that all queries of a block see, and that need no mask."""
        found, full = near & False, skip // MASK_BLOCK
        found[: len(first), :full] = True
        if rule is not None and full:
            seen = rule[:, : full * MASK_BLOCK].view(len(rule), full, MASK_BLOCK).all(2).numpy()
            found[: len(first), :full] = np.logical_and.reduceat(seen[np.asarray(pack.positions)[own]], first)
        return found

    def mask(rule: torch.Tensor | None) -> BlockMask:
        allowed, whole = None if rule is None else to_device(rule.numpy(), device), wholly(rule)

        def near_ancestor(batch: Any, head: Any, query: Any, key: Any) -> Any:
            assert allowed is not None
            return ancestor(batch, head, query, key) & allowed[queries[query], keys[key]]

        sees = ancestor if allowed is None else near_ancestor
        return BlockMask.from_kv_blocks(
            *blocks(near & ~whole), *blocks(whole), BLOCK_SIZE=MASK_BLOCK, mask_mod=sees, seq_lengths=(len(own), k),
            compute_q_blocks=False,
        )  # fmt: skip

    return {kind: mask(rule) for kind, rule in rules.items()}


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Without waiting for what the device is at."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
