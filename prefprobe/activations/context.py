"""How many tokens a prompt of a model may have."""

from collections.abc import Mapping
from typing import Any

_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len", "seq_length")


def context_of(config: Mapping[str, Any]) -> int | None:
    """The most tokens that a text model's config.json allows; None without a limit, as where attention is biased by distance.

    With `dynamic` rotary frequencies, which grow with the longest prompt that has been seen, a prompt's numbers would depend
    on those before it beyond the length that the model was first trained on: that is the limit.
    """
    if config.get("alibi"):
        return None
    limit = next((int(config[name]) for name in _POSITIONS if config.get(name)), None)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    for one in (rope, *(r for r in rope.values() if isinstance(r, dict))):  # of all layers, or by their kind
        if "dynamic" in str(one.get("rope_type") or one.get("type")):
            first = one.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
            limit = int(first) if first else limit
    return limit
