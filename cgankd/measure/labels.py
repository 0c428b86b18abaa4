"""Labels of a bank: their marginal against that of the real images, and how varied the images of one label are."""

from __future__ import annotations

import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from cgankd.data.pixels import to_unit
from cgankd.types import Images


def total_variation(group_N: Tensor, group_M: Tensor) -> float:
    """Total variation distance of two label marginals over groups (int64): half the sum of |share_a - share_b|, 0 to 1."""
    size = int(max(group_N.max(), group_M.max())) + 1
    a, b = (torch.bincount(group, minlength=size).double() / len(group) for group in (group_N, group_M))
    return float((a - b).abs().sum() / 2)


def label_distance(label_N: Tensor, label_M: Tensor, period: float | None = None) -> float:
    """Wasserstein-1 distance of two sets of scalar labels, the area between their distribution functions, in raw units.

    On a circle of this length it is the least area over all heights by which one of the functions is moved, as mass may go
    either way round: the height is the median of their difference along the circle (Rabin et al., 2011).
    """
    if period is None:
        return float(wasserstein_distance(label_N.double().numpy(), label_M.double().numpy()))
    sides = [torch.remainder(label.double(), period) for label in (label_N, label_M)]
    place, order = torch.cat(sides).sort()
    step = torch.cat(
        [torch.full((len(side),), sign / len(side)).double() for side, sign in zip(sides, (1, -1), strict=True)]
    )
    gap = step[order].cumsum(0)
    length = torch.cat([place[1:], place[:1] + period]) - place
    gap, order = gap.sort()
    length = length[order]
    middle = int(torch.searchsorted(length.cumsum(0), length.sum() / 2).clamp(max=len(gap) - 1))
    return float((length * (gap - gap[middle]).abs()).sum())


def entropy(category_N: Tensor) -> float:
    """Shannon entropy of how often each category (int64) occurs, -sum p ln p, in nats."""
    share = torch.bincount(category_N).double() / len(category_N)
    return float(torch.special.entr(share).sum())


def group_entropy(group_M: Tensor, category_M: Tensor, size_G: dict[int, int], gen: torch.Generator) -> float | None:
    """Mean over groups of the entropy of the categories in it: the diversity of arXiv 2011.07466, at equal sizes.

    The paper's categories are classes that a second annotation gives (which chair at this angle). A data set here has
    one label, so the category is the nearest training image: how evenly the images of a label spread over the real
    ones. `size_G` says how many rows of each group count (drawn at random, mean of 10 draws), because the entropy of
    n rows is at most ln n; groups with fewer rows, and sizes under 2, are left out. None where no group is left.
    """
    found = []
    for group, size in size_G.items():
        row = (group_M == group).nonzero()[:, 0]
        if size < 2 or len(row) < size:
            continue
        draws = [category_M[row[torch.randperm(len(row), generator=gen)[:size]]] for _ in range(10)]
        found.append(sum(entropy(draw) for draw in draws) / len(draws))
    return sum(found) / len(found) if found else None


def pixel_diversity(images_NCHW: Images, group_N: Tensor, gen: torch.Generator, num_pairs: int = 4000) -> float | None:
    """Mean root mean square difference, in pixels of [0, 1], of two different images of one group, over random pairs.

    Each image is as likely to be the first of a pair; images alone in their group are left out. None where all are.
    """
    order = torch.argsort(group_N, stable=True)
    _, count_G = torch.unique(group_N, return_counts=True)
    start_G = count_G.cumsum(0) - count_G
    slot_N = torch.repeat_interleave(torch.arange(len(count_G)), count_G)
    usable = (count_G[slot_N] > 1).nonzero()[:, 0]
    if not len(usable):
        return None
    place = usable[torch.randint(len(usable), (num_pairs,), generator=gen)]
    slot = slot_N[place]
    step = 1 + (torch.rand(num_pairs, generator=gen) * (count_G[slot] - 1)).long().clamp(max=count_G[slot] - 2)
    other = start_G[slot] + (place - start_G[slot] + step) % count_G[slot]
    total = 0.0
    for a, b in zip(torch.split(order[place], 256), torch.split(order[other], 256), strict=True):
        difference = to_unit(images_NCHW[a]) - to_unit(images_NCHW[b])
        total += float(difference.square().flatten(1).mean(1).sqrt().double().sum())
    return total / num_pairs
