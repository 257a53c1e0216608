"""What a token may look at in a packed pass: the model's own rule for distances, between places that a pack lays out anew."""

from typing import Any

import numpy as np
import torch
from transformers.masking_utils import create_masks_for_generate

_STEP = 256
"""Rules are asked for lengths in steps, so that few are kept."""


class DistanceRules:
    """Which position may look at which, for each kind of layer that a model has, as the model itself says it.

    Windows, chunks and whatever else depends on positions alone come out of transformers' own masks, evaluated over
    positions; in a pack, where neighbours are no neighbours in any prompt, they are read by each token's position.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._rules: dict[int, Any] = {}

    def masks(
        self, sees: torch.Tensor, positions: torch.Tensor, keys: torch.Tensor, length: int, dtype: torch.dtype
    ) -> Any:
        """The attention mask of a packed pass, one or {kind of layer: one}, each (batch, 1, queries, keys).

        `sees` (batch, queries, keys) says which token is an ancestor of which; `positions` (batch, queries) and `keys`
        (batch, keys) are places in the prompts, below `length`. Raises NotPackable if a layer does not attend by positions.
        """
        rules = self.of(length)
        if isinstance(rules, dict):
            return {kind: self._mask(rule, sees, positions, keys, dtype) for kind, rule in rules.items()}
        return self._mask(rules, sees, positions, keys, dtype)

    def _mask(
        self,
        rule: torch.Tensor | None,
        sees: torch.Tensor,
        positions: torch.Tensor,
        keys: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        if rule is not None:
            sees = sees & rule.to(sees.device)[positions[:, :, None], keys[:, None, :]]
        if self._config._attn_implementation == "sdpa":
            return sees[:, None]
        hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=sees.device)
        return torch.where(sees, hidden.new_zeros(()), hidden)[:, None]

    def of(self, length: int) -> Any:
        """Which of (length, length) positions may look at which, one or {kind of layer: one}; None for one that looks at all
        that came before. Raises NotPackable if a layer does not attend by positions.
        """
        length = -(-length // _STEP) * _STEP
        if length not in self._rules:
            whole = create_masks_for_generate(
                config=self._config,
                inputs_embeds=torch.empty((1, length, 1)),
                attention_mask=None,
                past_key_values=None,
                position_ids=None,
                and_mask_function=lambda batch, head, query, key: query.new_ones((), dtype=torch.bool),
            )
            kinds = whole if isinstance(whole, dict) else {"": whole}
            rules = {kind: _rule(mask) for kind, mask in kinds.items()}
            self._rules[length] = rules if isinstance(whole, dict) else rules[""]
        return self._rules[length]


class NotPackable(Exception):
    """A model with layers that do not attend by positions, such as recurrent ones."""


def _rule(mask: Any) -> torch.Tensor | None:
    if not isinstance(mask, torch.Tensor) or mask.ndim != 4:
        raise NotPackable
    rule = mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] == 0
    causal = torch.from_numpy(np.tri(len(rule), dtype=bool))
    return None if bool((rule >= causal).all()) else rule
