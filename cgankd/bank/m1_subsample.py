"""M1, step 3: rejection sampling by the density ratio (cDR-RS, arXiv 2103.11166), with a frozen or a running bound."""

from __future__ import annotations

import torch
from torch import Tensor

from cgankd.bank.quantiles import group_quantile


def bound(ratio_N: Tensor, group_N: Tensor, num_groups: int, quantile: float) -> Tensor:
    """M [G]: the quantile of the burn-in ratios of each label group; 1 is their maximum.

    A group without a single ratio above zero (or without draws) gets 0, which accepts nothing. Where the quantile
    is 0 although some ratio is above it, the maximum is taken: a bound of 0 would say nothing about those.
    """
    top_G = group_quantile(ratio_N, group_N, num_groups, 1.0, "linear").nan_to_num(nan=0.0)
    bound_G = group_quantile(ratio_N, group_N, num_groups, quantile, "linear").nan_to_num(nan=0.0)
    return torch.where(bound_G > 0, bound_G, top_G)


def running_bound(ratio_N: Tensor, group_N: Tensor, start_G: Tensor) -> Tensor:
    """M [N] as published: that of the group's start, raised by every ratio so far, the row's own included.

    Rows of a group are in the order of drawing. Fakes accepted under a smaller bound stay accepted.
    """
    bound_N = torch.maximum(start_G[group_N], ratio_N.double())
    for group in torch.unique(group_N).tolist():
        rows = torch.nonzero(group_N == group)[:, 0]
        bound_N[rows] = bound_N[rows].cummax(0).values
    return bound_N


def accept(r_B: Tensor, bound_B: Tensor, u_B: Tensor) -> Tensor:
    """True [B] where u <= r / M; a ratio of zero or a bound of zero is never accepted.

    The two extra conditions matter: with a dead ratio network 0 <= 0 / M would accept every fake.
    """
    alive_B = (r_B > 0) & (bound_B > 0)
    return alive_B & (u_B.double() <= r_B.double() / torch.where(alive_B, bound_B, 1.0).double())


def exceedances(r_B: Tensor, bound_B: Tensor) -> float:
    """Share of ratios above the bound, for which rejection sampling is not exact."""
    return float((r_B.double() > bound_B.double()).double().mean()) if len(r_B) else 0.0
