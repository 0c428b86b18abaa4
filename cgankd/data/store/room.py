"""Where images go while a source is read: a whole tensor is filled in chunks, and its bytes need not lie in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Room = Callable[[tuple[int, ...]], Tensor]
"""A maker of empty uint8 tensors of a shape: in memory, or in a file that the system pages in and out."""


def in_memory(shape: tuple[int, ...]) -> Tensor:
    """Room in memory, however much is asked for."""
    return torch.empty(shape, dtype=torch.uint8)
