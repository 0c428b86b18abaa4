"""Quantiles within groups, shared by M1's bound and M2's cutoff."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor


def group_quantile(
    value_N: Tensor, group_N: Tensor, num_groups: int, share: float, method: Literal["linear", "higher"]
) -> Tensor:
    """The `share`-quantile [G] of the values in each group; NaN for a group without values."""
    values, groups = value_N.double().numpy(), group_N.numpy()
    order = np.argsort(groups, kind="stable")
    edges = np.searchsorted(groups[order], np.arange(num_groups + 1))
    parts = [values[order[low:high]] for low, high in zip(edges, edges[1:], strict=False)]
    found = [float(np.quantile(part, share, method=method)) if len(part) else float("nan") for part in parts]
    # In float64 the cutoff compares equal to the float32 value it was taken from.
    return torch.tensor(found, dtype=torch.float64)
