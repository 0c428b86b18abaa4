"""Stored views: augmented and mixed images made once, which every training then draws its batches from (arXiv 2303.08983)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cgankd.data.batches import Batch, Mixture, Stream
from cgankd.data.mix import Mixing, MixLabels, blend, greater
from cgankd.data.pixels import to_unit, unit_to_u8
from cgankd.rng import generator

COLUMNS = ("images", "labels", "others", "weights", "is_fake")
"""Columns of a set of views: uint8 images [N, C, H, W], raw labels [N] of both images, lambda [N] float32, is_fake [N]."""


def make_views(
    data: Mixture,
    augment: Callable[[Tensor, torch.Generator], Tensor],
    mixing: Mixing | None,
    num: int,
    seed: int,
) -> dict[str, Tensor]:
    """The first `num` images that a training of this seed would be shown, as the columns of `COLUMNS`.

    They are those of its batches in turn, so that real images and fakes, or labels, have the shares that a batch gives
    them; pixels are rounded to uint8.
    """
    parts = []
    for step in range(-(-num // data.batch_size)):
        batch = data.batch(step)
        unit_BCHW = augment(to_unit(batch.images_BCHW), generator(seed, "augment", step))
        others_B, weight_B, fake_B = batch.labels_B, torch.ones(len(batch.labels_B)), batch.is_fake_B
        if mixing is not None:
            drawn = mixing.draw(batch.is_fake_B, unit_BCHW.shape[2:], step)
            unit_BCHW, weight_B = blend(unit_BCHW, drawn), drawn.weight_B
            others_B = others_B[drawn.partner_B]
            fake_B = greater(batch.is_fake_B, batch.is_fake_B[drawn.partner_B], weight_B)
        parts.append((unit_to_u8(unit_BCHW), batch.labels_B, others_B, weight_B, fake_B))
    columns = zip(COLUMNS, zip(*parts, strict=True), strict=True)
    return {name: torch.cat(tensors)[:num].contiguous() for name, tensors in columns}


@dataclass(frozen=True)
class ViewBatches:
    """Batches of stored views: one shuffled epoch after the other, each a function of (seed, epoch).

    `index_B` of a batch are the numbers of its views. `labels` mixes the labels of both images; None = nothing is mixed.
    """

    columns: Mapping[str, Tensor]
    labels: MixLabels | None
    batch_size: int
    seed: int

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def batch(self, step: int) -> Batch:
        """The batch of a step; the same step gives the same batch, whatever was asked before."""
        index_B = Stream(len(self), "views", self.seed).rows(step * self.batch_size, self.batch_size)
        images, labels_B, others_B, weight_B, fake_B = (self.columns[name][index_B] for name in COLUMNS)
        if self.labels is not None:
            labels_B = self.labels(labels_B, others_B, weight_B)
        return Batch(images, labels_B, index_B, fake_B)
