"""What a GPU is at and what is on its way from it: nobody waits for it before there is more for it to do."""

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")
_BEHIND = 32
"""Copies that are waited for at most: some batches of some layers, so that a device never waits."""


class Copy:
    """A tensor of a device on its way to memory."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values.to("cpu", non_blocking=True)  # into pinned memory
        self._there = torch.cuda.Event() if values.is_cuda else None
        if self._there is not None:
            self._there.record(torch.cuda.current_stream(values.device))

    def array(self) -> np.ndarray:
        """The values, when they are there."""
        if self._there is not None:
            self._there.synchronize()
        found: np.ndarray = self._values.numpy()
        return found


class Coming:
    """Fills rows of `kept`, {layer: (n, k, d) float32}, from device tensors without waiting for each."""

    def __init__(self, kept: dict[int, np.ndarray]) -> None:
        self._kept = kept
        self._copies: deque[tuple[int, np.ndarray, Copy]] = deque()

    def add(self, layer: int, rows: np.ndarray, values: torch.Tensor) -> None:
        """Values (len(rows), k, d) of a layer."""
        self._copies.append((layer, rows, Copy(values)))
        while len(self._copies) > _BEHIND:
            self._take()

    def wait(self) -> None:
        """Until all values are there."""
        while self._copies:
            self._take()

    def _take(self) -> None:
        layer, rows, copy = self._copies.popleft()
        self._kept[layer][rows] = copy.array()


def one_behind(device: torch.device, begun: Iterable[T], end: Callable[[T], None]) -> None:
    """`end` each of `begun`, whose kernels were queued when it came: on a GPU not before the next one's are queued too.

    Whatever stops it, be it in `end` or in what would have been begun next, is raised when what was begun is ended as well.
    """
    waiting: deque[T] = deque()
    try:
        for one in begun:
            waiting.append(one)
            if device.type == "cpu" or len(waiting) > 1:
                end(waiting.popleft())
        while waiting:
            end(waiting.popleft())
    except Exception:
        while waiting:
            with suppress(Exception):  # the first one is told
                end(waiting.popleft())
        raise
