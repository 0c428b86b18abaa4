"""The one place that chooses arithmetic by what the machine has: bf16 autocast and memory layout."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import nn


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
