"""M2, filter: drop the fakes on which the teacher disagrees most with the label asked of the GAN (arXiv 2104.03164)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cgankd.bank.quantiles import group_quantile


def cutoff(error_N: Tensor, group_N: Tensor, num_groups: int, rho: float, *, strict: bool = False) -> Tensor:
    """alpha(rho) [G]: the rho-quantile of the teacher errors of each group, so that at least ceil(rho n) are <= it.

    rho = 1 gives +inf. A group without errors takes the quantile over all groups; with no error at all the cutoff
    is NaN, which keeps nothing. `strict` is the authors' way: the quantile may lie between two errors, rho = 1 is the largest.
    """
    if rho >= 1 and not strict:
        return torch.full((num_groups,), float("inf"), dtype=torch.float64)
    between: Literal["linear", "higher"] = "linear" if strict else "higher"
    cutoff_G = group_quantile(error_N, group_N, num_groups, rho, between)
    whole_1 = group_quantile(error_N, torch.zeros_like(group_N), 1, rho, between)
    return torch.where(cutoff_G.isnan(), whole_1, cutoff_G)


def keep(error_B: Tensor, group_B: Tensor, cutoff_G: Tensor, *, strict: bool = False) -> Tensor:
    """True [B] where the teacher error is at most the cutoff of the group, or with `strict` below it."""
    cutoff_B = cutoff_G[group_B].double()
    return error_B.double() < cutoff_B if strict else error_B.double() <= cutoff_B
