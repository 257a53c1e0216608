"""What weights take of the memory of GPUs. Known without torch, so that a plan knows it too."""

import math

ROOM = 0.9
"""Of the memory that is free on a GPU, what weights may take; the rest is for activations."""
QUANTISED = {"8bit": 1.0, "4bit": 0.5625}
"""Bytes of a quantised weight: of 4 bits with a scale for every 64 weights."""


def gpus_for(weights: float, memory: float) -> int:
    """How many GPUs of `memory` bytes hold as many bytes of weights."""
    return max(1, math.ceil(weights / (ROOM * memory)))
