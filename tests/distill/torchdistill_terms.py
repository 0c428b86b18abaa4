"""Losses of torchdistill, called with plain tensors: the independent reference of the feature losses."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor


def mid_level():  # type: ignore[no-untyped-def]
    """torchdistill's feature losses; its own imports may warn."""
    logging.getLogger("torchdistill").setLevel(logging.ERROR)
    return pytest.importorskip("torchdistill.losses.mid_level")


def io(**tensors: object) -> dict[str, dict[str, object]]:
    """Module outputs by module path, as the losses want them."""
    return {name: {"input": value, "output": value} for name, value in tensors.items()}


def pairs(num: int, weights: list[float] | None = None) -> dict[str, dict[str, object]]:
    """num pairs of student and teacher maps under the names m0, m1, ..."""
    return {
        f"pair{k}": {
            "teacher": {"io": "output", "path": f"m{k}"},
            "student": {"io": "output", "path": f"m{k}"},
            "weight": 1.0 if weights is None else weights[k],
        }
        for k in range(num)
    }


def maps(values: list[Tensor]) -> dict[str, dict[str, object]]:
    return io(**{f"m{k}": v for k, v in enumerate(values)})


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
