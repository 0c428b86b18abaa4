"""Exponential moving average of a module's weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_ema(average: nn.Module, net: nn.Module, decay: float) -> None:
    """average := decay * average + (1 - decay) * net for parameters; buffers are copied."""
    means: list[torch.Tensor] = list(average.parameters())
    weights: list[torch.Tensor] = list(net.parameters())
    torch._foreach_lerp_(means, weights, 1.0 - decay)
    for kept, buffer in zip(average.buffers(), net.buffers(), strict=True):
        kept.copy_(buffer)
