"""Values on their way from the devices to memory, a few batches behind what these are at."""

from collections import deque

import numpy as np
import torch

_BEHIND = 32
"""Copies that are waited for at most: some batches of some layers, so that a device never waits."""


class Coming:
    """Fills rows of `kept`, {layer: (n, k, d) float32}, from device tensors without waiting for each."""

    def __init__(self, kept: dict[int, np.ndarray]) -> None:
        self._kept = kept
        self._copies: deque[tuple[int, np.ndarray, torch.Tensor, torch.cuda.Event | None]] = deque()

    def add(self, layer: int, rows: np.ndarray, values: torch.Tensor) -> None:
        """Values (len(rows), k, d) of a layer."""
        copy = values.to("cpu", non_blocking=True)  # into pinned memory
        event = None
        if values.is_cuda:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(values.device))
        self._copies.append((layer, rows, copy, event))
        while len(self._copies) > _BEHIND:
            self._take()

    def all(self) -> dict[int, np.ndarray]:
        """`kept`, when all values are there."""
        while self._copies:
            self._take()
        return self._kept

    def _take(self) -> None:
        layer, rows, copy, event = self._copies.popleft()
        if event is not None:
            event.synchronize()
        self._kept[layer][rows] = copy.numpy()
