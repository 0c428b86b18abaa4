"""Micro-batches: a batch in pieces, each with its own backward pass, whose gradients add up to those of the whole."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cgankd.fit.watch import NotFinite
from cgankd.nets.gans.spectral import hold_spectral


def micro_batches(num: int, count: int, *nets: nn.Module) -> Iterator[Tensor]:
    """Row numbers [B / count] of each micro-batch; the two fakes of a pair, num / 2 rows apart, stay together.

    The spectral norms of `nets` move in the first one only, so that all of a step see the same weights.
    """
    for part, rows_2B in enumerate(torch.arange(num).view(2, -1).chunk(count, dim=1)):
        for net in nets:
            hold_spectral(net, part > 0)
        yield rows_2B.flatten()
    for net in nets:
        hold_spectral(net, False)


def backward(loss: Tensor, count: int, setting: str, step: int) -> float:
    """Add the gradient of a micro-batch's share of the mean loss, which is returned; `count` shares make the mean.

    Raises NotFinite where the loss is not finite, naming the setting to lower.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NotFinite(f"loss {value}", setting, step + 1)
    (loss / count).backward()  # type: ignore[no-untyped-call]
    return value / count
