"""Which labels a training asks for: those of the training images as often as they come, or each that occurs equally often."""

from __future__ import annotations

import torch
from torch import Tensor


def base_labels(label_N: Tensor, targets: str, period: float | None = None) -> Tensor:
    """The labels whose uniform draw is the law of the targets: all of them (`marginal`) or each once (`distinct`).

    On a circle of length `period` two labels a whole turn apart are one.
    """
    if targets == "marginal":
        return label_N
    return label_N[first_rows(label_N, period)]


def first_rows(label_N: Tensor, period: float | None) -> Tensor:
    """The first row [D] of each distinct label, in the order of the labels."""
    order_N, start_D, _ = runs(label_N, period)
    return order_N[start_D]


def runs(label_N: Tensor, period: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [N] sorted by label, and where in that order each distinct label starts [D] and how many rows it has [D]."""
    key_N = label_N if period is None else torch.remainder(label_N, period)
    order_N = torch.argsort(key_N, stable=True)
    _, count_D = torch.unique_consecutive(key_N[order_N], return_counts=True)
    return order_N, count_D.cumsum(0) - count_D, count_D


class Rows:
    """Rows of a training split drawn by the law of the targets: each row equally often, or each distinct label."""

    def __init__(self, label_N: Tensor, targets: str, period: float | None = None) -> None:
        self.num_rows, self.distinct = len(label_N), targets == "distinct"
        self.order_N, self.start_D, self.count_D = runs(label_N, period)

    def draw(self, num: int, gen: torch.Generator) -> Tensor:
        """Row numbers [num], drawn independently."""
        if not self.distinct:
            return torch.randint(self.num_rows, (num,), generator=gen)
        return self.any_of(torch.randint(len(self.start_D), (num,), generator=gen), gen)

    def spread(self, num: int, gen: torch.Generator) -> Tensor:
        """Row numbers [num] that go through a permutation of the rows, or of the distinct labels, over and over."""
        if not self.distinct:
            order_N = torch.randperm(self.num_rows, generator=gen)
            return order_N[torch.arange(num) % self.num_rows]
        order_D = torch.randperm(len(self.start_D), generator=gen)
        return self.any_of(order_D[torch.arange(num) % len(order_D)], gen)

    def any_of(self, label_B: Tensor, gen: torch.Generator) -> Tensor:
        """One row [B] of each distinct label number [B], uniformly drawn."""
        start_B, count_B = self.start_D[label_B], self.count_D[label_B]
        return self.order_N[uniform_index(start_B, start_B + count_B, gen)]


def uniform_index(low_B: Tensor, high_B: Tensor, gen: torch.Generator) -> Tensor:
    """Integers [B], each uniform in [low, high)."""
    span_B = high_B - low_B
    offset_B = (torch.rand(len(low_B), generator=gen, dtype=torch.float64) * span_B).long()
    return low_B + torch.minimum(offset_B, span_B - 1)


def nth_nearest(sorted_N: Tensor, target_B: Tensor, count: int) -> Tensor:
    """Distance [B] of each target from the count-th nearest of sorted labels, equal ones counted each, of at least count.

    It is the least max(y - a, b - y) over runs of count labels, from a to b; only runs next to the target can be it.
    """
    place_B = torch.searchsorted(sorted_N, target_B)
    first_BK = place_B[:, None] - count + torch.arange(count + 1)
    first_BK = first_BK.clamp(0, len(sorted_N) - count)
    low_BK, high_BK = sorted_N[first_BK], sorted_N[first_BK + count - 1]
    return torch.maximum(target_B[:, None] - low_BK, high_BK - target_B[:, None]).amin(dim=1)


def truncated_normal(
    centre_B: Tensor, sd: float | Tensor, low: float | Tensor, high: float | Tensor, level_B: Tensor
) -> Tensor:
    """Quantiles [B] of N(centre, sd^2), with one sd or [B], cut to [low, high] at levels [B] in [0, 1], in float64."""
    centre_B = centre_B.double()
    low_B, high_B = (torch.as_tensor(edge, dtype=torch.float64).expand_as(centre_B) for edge in (low, high))
    p_low_B, p_high_B = (torch.special.ndtr((edge_B - centre_B) / sd) for edge_B in (low_B, high_B))
    label_B = centre_B + sd * torch.special.ndtri(p_low_B + level_B * (p_high_B - p_low_B))
    return torch.minimum(torch.maximum(label_B, low_B), high_B)
