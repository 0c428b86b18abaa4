"""Which real images stand in for a label: exact matching for classes, CcGAN's vicinities for scalars (arXiv 2011.07466).

Exact matching is a vicinity of zero width, so the GAN and the ratio network see one interface. All radii and labels
are in raw units. The labels are sorted once; every search is a binary search over the whole batch.
"""

from __future__ import annotations

import copy
import math
from typing import Self, TypeVar

import torch
from torch import Tensor

from cgankd.labels.circle import is_whole, onto_range, wrapped
from cgankd.labels.kernel import Kernel
from cgankd.labels.targets import base_labels, nth_nearest, truncated_normal, uniform_index
from cgankd.types import Pairing

Radius = TypeVar("Radius", float, Tensor, float | Tensor)
"""One radius for all labels, or one each."""


class ExactMatch:
    """Classes: a target is matched by the images of that very class, weight one."""

    period: float | None = None

    def __init__(self, label_N: Tensor) -> None:
        self.label_N = self.base_N = label_N
        self.order_N = torch.argsort(label_N, stable=True)
        self.sorted_N = label_N[self.order_N]

    def with_targets(self, targets: str, ends: str = "clip") -> Self:
        """This vicinity with targets by `cgan.targets`; classes have no ends."""
        other = copy.copy(self)
        other.base_N = base_labels(self.label_N, targets)
        return other

    def targets(self, num: int, gen: torch.Generator) -> Tensor:
        """Labels [num] drawn from the training marginal, or from its distinct labels."""
        return self.base_N[torch.randint(len(self.base_N), (num,), generator=gen)]

    def asked(self, num: int, gen: torch.Generator) -> Tensor:
        """The targets."""
        return self.targets(num, gen)

    def pair(self, target_B: Tensor, gen: torch.Generator) -> Pairing:
        """A uniformly drawn image of each class. Raises AssertionError on a class without training images."""
        low_B = torch.searchsorted(self.sorted_N, target_B)
        high_B = torch.searchsorted(self.sorted_N, target_B, right=True)
        assert bool((high_B > low_B).all()), "a target class has no training image"
        return Pairing(self.order_N[uniform_index(low_B, high_B, gen)], torch.ones(len(target_B)))

    def fake_labels(self, target_B: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        """The targets themselves, weight one."""
        return target_B, torch.ones(len(target_B))

    def neighbours(self, label_B: Tensor, radius: float, gen: torch.Generator) -> Tensor:
        """The labels themselves: a class has no neighbours."""
        return label_B


class ScalarVicinity:
    """Scalars: what HVDL and SVDL share. Targets are training labels plus N(0, sigma^2), clipped to the label range.

    `with_targets` takes distinct labels in place of all, and cuts at the ends of the range in place of clipping.
    On a circle of length `period` labels go round it, and every label stands in the sorted list three times, once a turn.
    """

    def __init__(
        self, label_N: Tensor, kernel: Kernel, label_min: float, label_max: float, period: float | None = None
    ) -> None:
        self.kernel, self.period = kernel, period
        self.label_min, self.label_max = label_min, label_max
        self.label_N = self.base_N = label_N
        self.cut = False
        self.least: int | None = None
        self.radius = self.reach(kernel.kappa)
        self.sort(label_N)

    def sort(self, label_N: Tensor) -> None:
        """Sort the labels, once for all searches, in their type."""
        period = self.period
        turns = label_N if period is None else torch.cat([label_N - period, label_N, label_N + period])
        order = torch.argsort(turns, stable=True)
        self.sorted_N = turns[order].contiguous()
        self.order_N = order % len(label_N)

    def reach(self, radius: Radius) -> Radius:
        """A radius, at most half the circle, so that no label is within it twice."""
        if self.period is None:
            return radius
        return radius.clamp(max=0.5 * self.period) if isinstance(radius, Tensor) else min(radius, 0.5 * self.period)

    def with_least(self, least: int | None) -> Self:
        """This vicinity with kappa grown, target by target, to the distance of the least-th nearest image where fewer are within.

        The adaptive vicinity of CcGAN-AVAR (arXiv 2508.01725), symmetric; least is at most the number of images.
        """
        if least is None:
            return self
        other = copy.copy(self)
        other.least = min(least, len(self.label_N))
        # In float64, in which differences of labels are exact: the last image within must not be lost to rounding.
        other.sort(self.label_N.double())
        return other

    def searched(self, target_B: Tensor) -> Tensor:
        """Targets in the type of the sorted labels."""
        return target_B.to(self.sorted_N.dtype)

    def kappa(self, target_B: Tensor) -> float | Tensor:
        """kappa of all targets, or with `least` that of each, in the shape of the targets."""
        if self.least is None:
            return self.kernel.kappa
        grown_B = nth_nearest(self.sorted_N, self.searched(target_B.flatten()), self.least) * (1 + 1e-9)
        return self.reach(grown_B.clamp(min=self.kernel.kappa)).view_as(target_B)

    def clip(self, label_B: Tensor) -> Tensor:
        return onto_range(label_B, self.label_min, self.label_max, self.period)

    def with_targets(self, targets: str, ends: str = "clip") -> Self:
        """This vicinity with targets by `cgan.targets` and `cgan.vicinity.ends`; labels that go round have no ends."""
        other = copy.copy(self)
        other.base_N = base_labels(self.label_N, targets, self.period)
        other.cut = ends == "cut" and self.period is None
        return other

    def targets(self, num: int, gen: torch.Generator) -> Tensor:
        """Labels [num]: a training label + N(0, sigma^2), clipped to the range.

        Where ends are cut the noise is, so that the vicinity of a target meets the range: the published redraws, in one draw.
        """
        base = self.base_N[torch.randint(len(self.base_N), (num,), generator=gen)]
        if not self.cut:
            return self.clip(base + self.kernel.label_sigma * torch.randn(num, generator=gen))
        low, high = self.label_min - self.radius, self.label_max + self.radius
        level = torch.rand(num, generator=gen, dtype=torch.float64)
        return truncated_normal(base, self.kernel.label_sigma, low, high, level).to(base.dtype)

    def asked(self, num: int, gen: torch.Generator) -> Tensor:
        """Targets [num] clipped to the range."""
        return self.clip(self.targets(num, gen))

    def neighbours(self, label_B: Tensor, radius: float | Tensor, gen: torch.Generator) -> Tensor:
        """Labels [B] uniform within +-radius of each label, clipped to the range, or uniform in what the range leaves of it."""
        radius = self.reach(radius)
        if isinstance(radius, Tensor):
            radius = radius.to(label_B.dtype)
        if not self.cut:
            return self.clip(label_B + radius * (2 * torch.rand(len(label_B), generator=gen) - 1))
        low_B, high_B = self.clip(label_B - radius), self.clip(label_B + radius)
        return self.clip(low_B + (high_B - low_B) * torch.rand(len(label_B), generator=gen))

    def draw_within(self, target_B: Tensor, radius: float | Tensor, gen: torch.Generator) -> Tensor:
        """Row numbers [B], uniform among |y_i - y| <= radius; the nearest row where that interval is empty."""
        radius, target_B = self.reach(radius), self.searched(target_B)
        low_B = torch.searchsorted(self.sorted_N, target_B - radius)
        high_B = torch.searchsorted(self.sorted_N, target_B + radius, right=True)
        empty_B = high_B <= low_B
        right_B = torch.searchsorted(self.sorted_N, target_B).clamp(max=len(self.sorted_N) - 1)
        left_B = (right_B - 1).clamp(min=0)
        nearer_left_B = (target_B - self.sorted_N[left_B]).abs() <= (self.sorted_N[right_B] - target_B).abs()
        nearest_B = torch.where(nearer_left_B, left_B, right_B)
        low_B = torch.where(empty_B, nearest_B, low_B)
        high_B = torch.where(empty_B, nearest_B + 1, high_B)
        return self.order_N[uniform_index(low_B, high_B, gen)]


class HardVicinity(ScalarVicinity):
    """Hard vicinal loss (HVDL, arXiv 2011.07466 Eq. 11): partners with |y_i - y| <= kappa, weight one.

    A target in a label gap has no partner: the nearest image takes its place with weight zero.
    """

    def pair(self, target_B: Tensor, gen: torch.Generator) -> Pairing:
        kappa = self.kappa(target_B)
        index_B = self.draw_within(target_B, kappa, gen)
        inside_B = wrapped(self.label_N[index_B] - self.searched(target_B), self.period).abs() <= kappa
        return Pairing(index_B, inside_B.float())

    def fake_labels(self, target_B: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        """Labels uniform within +-kappa of the targets, weight one."""
        return self.neighbours(target_B, self.kappa(target_B), gen), torch.ones(len(target_B))


class SoftVicinity(ScalarVicinity):
    """Soft vicinal loss (SVDL, arXiv 2011.07466 Eq. 12): weights exp(-nu (y_i - y)^2), those under the floor cut.

    The published way: the partner is uniform in the interval where the weight exceeds the floor; in a label gap the
    nearest image is taken with its (small) weight.
    """

    def __init__(
        self,
        label_N: Tensor,
        kernel: Kernel,
        label_min: float,
        label_max: float,
        weight_floor: float,
        period: float | None = None,
    ) -> None:
        super().__init__(label_N, kernel, label_min, label_max, period)
        self.weight_floor = weight_floor
        self.radius = self.reach(math.sqrt(-math.log(weight_floor) / kernel.nu))

    def within(self, target_B: Tensor) -> float | Tensor:
        """The radius at which the weight falls to the floor, of all targets or of each."""
        kappa = self.kappa(target_B)
        return self.radius if self.least is None else self.reach(kappa * math.sqrt(-math.log(self.weight_floor)))

    def weight(self, label_B: Tensor, target_B: Tensor) -> Tensor:
        """exp(-nu (y_i - y)^2), [B], nu = 1 / kappa^2."""
        nu = self.kernel.nu if self.least is None else 1.0 / torch.as_tensor(self.kappa(target_B)) ** 2
        return torch.exp(-nu * wrapped(label_B - target_B, self.period) ** 2)

    def pair(self, target_B: Tensor, gen: torch.Generator) -> Pairing:
        index_B = self.draw_within(target_B, self.within(target_B), gen)
        return Pairing(index_B, self.weight(self.label_N[index_B], target_B).float())

    def fake_labels(self, target_B: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        """Labels uniform where the weight exceeds the floor, with their weights."""
        label_B = self.neighbours(target_B, self.within(target_B), gen)
        return label_B, self.weight(label_B, target_B).float()


class DrawnVicinity(SoftVicinity):
    """The soft vicinity by drawing: partners with probability w_i / sum w, fake labels from the density ~ w, weight one.

    It is the same estimate of p(x | y) with less noise: uniform draws give two images in three a weight near zero.
    """

    def __init__(
        self,
        label_N: Tensor,
        kernel: Kernel,
        label_min: float,
        label_max: float,
        weight_floor: float,
        period: float | None = None,
    ) -> None:
        super().__init__(label_N, kernel, label_min, label_max, weight_floor, period)

    def sort(self, label_N: Tensor) -> None:
        """Sort the labels, and count those that are equal."""
        super().sort(label_N)
        self.distinct_D, count_D = torch.unique(self.sorted_N, return_counts=True)
        self.count_D, self.first_D = count_D, count_D.cumsum(0) - count_D

    def pair(self, target_B: Tensor, gen: torch.Generator) -> Pairing:
        radius, exact_B = self.within(target_B), self.searched(target_B)
        low_B = torch.searchsorted(self.distinct_D, exact_B - radius)
        high_B = torch.searchsorted(self.distinct_D, exact_B + radius, right=True)
        empty_B = high_B <= low_B
        span = max(1, int((high_B - low_B).max()))
        label_BS = low_B[:, None] + torch.arange(span)
        outside_BS = label_BS >= high_B[:, None]
        label_BS = label_BS.clamp(max=len(self.distinct_D) - 1)
        weight_BS = self.weight(self.distinct_D[label_BS].double(), target_B[:, None].double()) * self.count_D[label_BS]
        mass_BS = weight_BS.masked_fill(outside_BS, 0.0).cumsum(dim=1)
        level_B1 = torch.rand(len(target_B), 1, generator=gen, dtype=torch.float64) * mass_BS[:, -1:]
        # The first label whose cumulated mass exceeds the level; labels of no mass are never met.
        pick_B1 = torch.searchsorted(mass_BS, level_B1, right=True).clamp(max=span - 1)
        chosen_B = label_BS.gather(1, pick_B1)[:, 0]
        first_B = self.first_D[chosen_B]
        index_B = self.order_N[uniform_index(first_B, first_B + self.count_D[chosen_B], gen)]
        index_B = torch.where(empty_B, self.draw_within(target_B, 0.0, gen), index_B)
        lonely_B = self.weight(self.label_N[index_B], target_B)
        return Pairing(index_B, torch.where(empty_B, lonely_B, torch.ones_like(lonely_B)).float())

    def fake_labels(self, target_B: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        """Labels from N(target, kappa^2 / 2) cut to the radius and, but for a whole circle, the label range, weight one."""
        centre_B, radius = target_B.double(), self.within(target_B)
        low_B, high_B = centre_B - radius, centre_B + radius
        if not is_whole(self.label_min, self.label_max, self.period):
            low_B, high_B = low_B.clamp(min=self.label_min), high_B.clamp(max=self.label_max)
        level_B = torch.rand(len(target_B), generator=gen, dtype=torch.float64)
        label_B = truncated_normal(centre_B, self.kappa(target_B) * math.sqrt(0.5), low_B, high_B, level_B)
        # Rounding to the labels' type may step over an edge of the range.
        return self.clip(label_B.to(target_B.dtype)), torch.ones(len(target_B))
