"""Labels on a circle, such as angles: differences the short way round, and values taken back to the range."""

from __future__ import annotations

import torch
from torch import Tensor


def wrapped(difference: Tensor, period: float | None) -> Tensor:
    """A difference of labels on a circle of this length, in [-period / 2, period / 2]; unchanged on a line (None)."""
    if period is None:
        return difference
    return torch.remainder(difference + period / 2, period) - period / 2


def onto_range(label: Tensor, low: float, high: float, period: float | None) -> Tensor:
    """Labels in [low, high]: clipped on a line (period None), taken round a circle of this length to the nearest in it."""
    if period is None:
        return label.clamp(low, high)
    middle = (low + high) / 2
    return (middle + wrapped(label - middle, period)).clamp(low, high)
