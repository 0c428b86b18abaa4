"""Mixtures of two images: mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899), drawn as a function of (seed, step).

lambda_i ~ Beta(alpha, alpha) for each image of a batch. mixup: x_i := lambda_i x_i + (1 - lambda_i) x_j. cutmix: x_i has a
box of x_j of the share 1 - lambda_i of its area before it is cut off at the border; lambda_i is then what is left of x_i.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from scipy.special import betaincinv
from torch import Tensor

from cgankd.config.mix import MixConfig
from cgankd.data.batches import Batch
from cgankd.rng import generator

MixLabels = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Labels [B] of both images and lambda [B] to what the task's loss takes: see `Task.mixed_labels`."""


@dataclass(frozen=True)
class Drawn:
    """Who is mixed with whom in one batch: rows of the partners [B], lambda [B] float32, and boxes [B, 4] of cutmix.

    A box is top, bottom, left and right in pixels, the ends not included.
    """

    partner_B: Tensor
    weight_B: Tensor
    box_B4: Tensor | None


@dataclass(frozen=True)
class Mixing:
    """The mixtures of one training; `cfg.mix` is not none. `pairs` as `student.mix_pairs`; `seed` is that of the training."""

    cfg: MixConfig
    pairs: str
    labels: MixLabels
    seed: int

    def __call__(self, unit_BCHW: Tensor, batch: Batch, step: int) -> tuple[Tensor, Batch]:
        """The mixtures [B, C, H, W] of augmented images in [0, 1], and the batch with mixed labels.

        A mixture counts as a fake where the image with the greater share is one; it keeps the row number of its first image.
        """
        drawn = self.draw(batch.is_fake_B.cpu(), unit_BCHW.shape[2:], step)
        partner_B, weight_B = drawn.partner_B.to(unit_BCHW.device), drawn.weight_B.to(unit_BCHW.device)
        labels = self.labels(batch.labels_B, batch.labels_B[partner_B], weight_B)
        fake_B = greater(batch.is_fake_B, batch.is_fake_B[partner_B], weight_B)
        return blend(unit_BCHW, drawn), replace(batch, labels_B=labels, is_fake_B=fake_B)

    def draw(self, is_fake_B: Tensor, size: tuple[int, ...] | torch.Size, step: int) -> Drawn:
        """Partners, shares and boxes of a step, for images of this height and width."""
        num, gen = len(is_fake_B), generator(self.seed, "mix", step)
        level_B = torch.rand(num, generator=gen, dtype=torch.float64)
        mixed_B = torch.rand(num, generator=gen) < self.cfg.mix_share
        partner_B, paired_B = partners(is_fake_B, self.pairs, gen)
        weight_B = beta(level_B, self.cfg.mix_alpha)
        box_B4 = None
        if self.cfg.mix == "cutmix":
            box_B4 = boxes(weight_B, size, torch.rand(num, 2, generator=gen, dtype=torch.float64))
            box_B4[~(mixed_B & paired_B)] = 0
            area_B = (box_B4[:, 1] - box_B4[:, 0]) * (box_B4[:, 3] - box_B4[:, 2])
            weight_B = 1 - area_B / (size[0] * size[1])
        weight_B = torch.where(mixed_B & paired_B, weight_B, 1.0)
        return Drawn(partner_B, weight_B.float(), box_B4)


def greater(own_B: Tensor, other_B: Tensor, weight_B: Tensor) -> Tensor:
    """What the image with the greater share has; the first one at equal shares."""
    return torch.where(weight_B >= 0.5, own_B, other_B)


def beta(level_B: Tensor, alpha: float) -> Tensor:
    """Quantiles [B] of Beta(alpha, alpha) at levels [B] in [0, 1], float64."""
    return level_B if alpha == 1 else torch.from_numpy(betaincinv(alpha, alpha, level_B.numpy()))


def partners(is_fake_B: Tensor, pairs: str, gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of the partners [B], and which images take one [B]; see `student.mix_pairs`.

    Without fakes, or with nothing else, each pairing is that of `any`.
    """
    num = len(is_fake_B)
    real_R, fake_F = (~is_fake_B).nonzero()[:, 0], is_fake_B.nonzero()[:, 0]
    everyone_B = torch.ones(num, dtype=torch.bool)
    if pairs == "any" or not len(fake_F) or (pairs == "across" and not len(real_R)):
        return torch.randperm(num, generator=gen), everyone_B
    partner_B = torch.arange(num)
    if pairs == "real":
        partner_B[real_R] = real_R[torch.randperm(len(real_R), generator=gen)]
        return partner_B, ~is_fake_B
    for mine, theirs in ((real_R, fake_F), (fake_F, real_R)):
        order = theirs[torch.randperm(len(theirs), generator=gen)]
        partner_B[mine] = order[torch.arange(len(mine)) % len(theirs)]
    return partner_B, everyone_B


def boxes(weight_B: Tensor, size: tuple[int, ...] | torch.Size, centre_B2: Tensor) -> Tensor:
    """Boxes [B, 4] of the share 1 - lambda of the image, as wide as high for square ones, about uniform centres in [0, 1).

    What sticks out is cut off, so that the share grows smaller; sides are whole pixels.
    """
    ends = []
    for axis, length in enumerate(size):
        side_B = ((1 - weight_B).clamp(min=0).sqrt() * length).long()
        start_B = (centre_B2[:, axis] * length).long() - side_B // 2
        ends += [start_B.clamp(0, length), (start_B + side_B).clamp(0, length)]
    return torch.stack(ends, dim=1)


def blend(unit_BCHW: Tensor, drawn: Drawn) -> Tensor:
    """Images mixed with their partners as drawn."""
    other_BCHW = unit_BCHW[drawn.partner_B.to(unit_BCHW.device)]
    if drawn.box_B4 is None:
        weight_B111 = drawn.weight_B.to(unit_BCHW)[:, None, None, None]
        return weight_B111 * unit_BCHW + (1 - weight_B111) * other_BCHW
    top_B, bottom_B, left_B, right_B = drawn.box_B4.unbind(1)
    height, width = unit_BCHW.shape[2:]
    rows_BH = inside(top_B, bottom_B, height)
    cols_BW = inside(left_B, right_B, width)
    box_B1HW = (rows_BH[:, None, :, None] & cols_BW[:, None, None, :]).to(unit_BCHW.device)
    return torch.where(box_B1HW, other_BCHW, unit_BCHW)


def inside(start_B: Tensor, end_B: Tensor, length: int) -> Tensor:
    """True [B, length] at positions in [start, end)."""
    at_L = torch.arange(length)
    return (at_L >= start_B[:, None]) & (at_L < end_B[:, None])
