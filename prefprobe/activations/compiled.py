"""Compiled passes: all tokens of a batch in one row, attended by FlexAttention, each block one compiled function.

Norms, rotary embeddings, gates and casts are bound by memory, and torch.compile fuses them. In one row nothing is padded,
and the keys of a beginning that all prompts share lie there once. A block takes these keys as arguments and not from a cache
that knows its number, so that all blocks of a kind are one function, compiled once.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
_BLOCK = 128
"""Tokens in a block of FlexAttention's mask."""
_BACKEND = "inductor"
Beginning = list[tuple[torch.Tensor, torch.Tensor]]


def compile_if_worth(model: LoadedModel, tokens: int) -> None:
    """Let passes of `model` be compiled from now on if so many `tokens` are to come that it pays: on a GPU only."""
    if model.packing.compilable and not model.packing.compiled:
        work = 2 * sum(p.numel() for block in model.blocks for p in block.parameters()) * tokens
        if model.device.type == "cuda" and work >= _WORTH and getattr(model.backbone, "_supports_flex_attn", False):
            compile_blocks(model)


def compile_blocks(model: LoadedModel) -> None:
    """Let passes of `model` be compiled from now on; what is compiled is kept on disk beside the models."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "compiled"))
    model.packing.compiled = [torch.compile(block.forward, dynamic=True, backend=_BACKEND) for block in model.blocks]


def do_not_compile(model: LoadedModel, why: str) -> None:
    """Let passes of `model` be as its code is, from now on."""
    model.packing.compiled, model.packing.compilable = (), False
    _log.info("passes of %s are not compiled, since %s; this is exact, and slower", model.family, why)


@contextmanager
def compiled_blocks(model: LoadedModel, beginning: Beginning | None) -> Iterator[None]:
    """Within it, blocks run compiled and with FlexAttention, and look at `beginning`, (keys, values) of every block."""
    config, forwards = model.backbone.config, model.packing.compiled
    own = config._attn_implementation
    with ExitStack() as stack:
        for i, (block, forward) in enumerate(zip(model.blocks, forwards, strict=True)):
            block.forward = forward
            stack.callback(delattr, block, "forward")
            if beginning is not None and i < len(beginning):
                hook = block.register_forward_pre_hook(_with(_Keys(*beginning[i])), with_kwargs=True)
                stack.callback(hook.remove)
        config._attn_implementation = "flex_attention"
        stack.callback(setattr, config, "_attn_implementation", own)
        stack.enter_context(torch._dynamo.config.patch(recompile_limit=64))
        yield


class _Keys:
    """Stands for a cache: what comes before the keys and values of one block, whatever its number."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Both of all tokens."""
        return torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)


def _with(before: _Keys) -> Any:
    def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {"past_key_values": before}

    return hook


def forest_masks(rules: Any, pack: Pack, skip: int, device: torch.device) -> Any:
    """The masks of one row of tokens behind `skip` shared ones, one BlockMask or {kind of layer: one}.

    `rules` are `DistanceRules.of`. In depth-first order a node's descendants follow it, so that an ancestor is known by
    where its last descendant ends.
    """
    n = len(pack.tokens)
    start, end = np.arange(-skip, n, dtype=np.int32), np.full(skip + n, n, dtype=np.int32)
    end[skip:] = np.arange(1, n + 1)
    rows, columns = -(-n // _BLOCK), -(-(skip + n) // _BLOCK)
    near = np.zeros((rows, columns), dtype=bool)
    near[:, : -(-skip // _BLOCK)] = True
    for path in pack.paths:
        end[skip + path] = path[-1] + 1
        near[np.ix_(np.unique(path // _BLOCK), np.unique((skip + path) // _BLOCK))] = True
    near &= np.arange(columns) * _BLOCK < skip + (np.arange(rows) + 1)[:, None] * _BLOCK
    count = near.sum(1, dtype=np.int32)[None, None]
    which = np.argsort(~near, axis=1, kind="stable").astype(np.int32)[None, None]
    place = np.concatenate([np.arange(skip), pack.positions]).astype(np.int32)
    starts, ends, keys, queries, counts, indices = (
        to_device(each, device) for each in (start, end, place, place[skip:], count, which)
    )

    def ancestor(_batch: Any, _head: Any, query: Any, key: Any) -> Any:
        return (starts[key] <= query) & (query < ends[key])

    def mask(rule: torch.Tensor | None) -> BlockMask:
        allowed = None if rule is None else rule.to(device)

        def near_ancestor(batch: Any, head: Any, query: Any, key: Any) -> Any:
            return ancestor(batch, head, query, key) & allowed[queries[query], keys[key]]

        sees = ancestor if allowed is None else near_ancestor
        return BlockMask.from_kv_blocks(
            counts, indices, BLOCK_SIZE=_BLOCK, mask_mod=sees, seq_lengths=(n, skip + n), compute_q_blocks=False
        )

    return {kind: mask(rule) for kind, rule in rules.items()} if isinstance(rules, dict) else mask(rules)


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Without waiting for what the device is at."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
