"""The one place that chooses arithmetic by what the machine has: bf16 autocast and memory layout."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from cgankd.types import Outputs


def has_bf16_units() -> bool:
    """True where the CPU has bf16 dot products (AVX-512 BF16 or AMX), so that bf16 is faster than fp32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(precision: str) -> AbstractContextManager[object]:
    """Autocast context for "auto", "fp32" or "bf16"; auto means bf16 where the machine has units for it."""
    if precision == "bf16" or (precision == "auto" and has_bf16_units()):
        return torch.autocast("cpu", torch.bfloat16)
    return contextlib.nullcontext()


def channels_last(net: nn.Module) -> nn.Module:
    """The net with channels-last weights, the faster layout for convolutions on CPUs."""
    return net.to(memory_format=torch.channels_last)


class Forward:
    """A net as an objective runs it: its forward pass in the precision of the training, its results in float32."""

    def __init__(self, net: nn.Module, precision: str) -> None:
        self.net, self.precision = net, precision

    def pred(self, unit_BCHW: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] to outputs [B, O]."""
        with autocast(self.precision):
            out_BO: Tensor = self.net(unit_BCHW.contiguous(memory_format=torch.channels_last))
        return out_BO.float()

    def outputs(self, unit_BCHW: Tensor) -> Outputs:
        """Images [B, C, H, W] in [0, 1] to outputs with the features that KD losses compare."""
        with autocast(self.precision):
            out: Outputs = self.net.outputs(unit_BCHW.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
        pooled = None if out.pooled is None else out.pooled.float()
        stages = tuple(stage.float() for stage in out.stages)
        return Outputs(out.pred.float(), pooled, stages, tuple(part.float() for part in out.preacts), out.head)
