"""The residual stream, as the blocks of a model hand it on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from prefprobe.activations.model import LoadedModel

FINAL = -1
"""Under which `capture` keeps the final hidden states."""


class _Reached(Exception):
    """All that was asked for has been computed."""


@contextmanager
def capture(
    model: LoadedModel, layers: Sequence[int], final: bool, stop: bool = True
) -> Iterator[dict[int, torch.Tensor]]:
    """{layer: the stream after it}, and the final hidden states as FINAL, of the one pass that is run within it.

    The pass is left as soon as they are there (`stop`): what is above is not computed.
    """
    seen: dict[int, torch.Tensor] = {}
    wanted = {*layers, FINAL} if final else set(layers)

    def keep(name: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", output)
            if stop and seen.keys() == wanted:
                raise _Reached

        return hook

    handles = [model.blocks[layer].register_forward_hook(keep(layer)) for layer in set(layers)]
    if final:
        handles.append(model.backbone.register_forward_hook(keep(FINAL)))
    try:
        yield seen
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
