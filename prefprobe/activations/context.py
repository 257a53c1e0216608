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
    dynamic = [rope for rope in _ropes(config) if "dynamic" in _kind(rope)]
    return next((first for rope in dynamic if (first := _first(config, rope))), limit)


def scaled_from(config: Mapping[str, Any]) -> int | None:
    """Tokens beyond which a prompt has other rotary frequencies (`longrope`) in all its positions; None without such."""
    first = [_first(config, rope) for rope in _ropes(config) if "longrope" in _kind(rope)]
    return min((length for length in first if length), default=None)


def _ropes(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of all layers, or by their kind."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return [rope, *(one for one in rope.values() if isinstance(one, dict))]


def _kind(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type"))


def _first(config: Mapping[str, Any], rope: Mapping[str, Any]) -> int | None:
    """The length that a model was first trained on."""
    found = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return int(found) if found else None
