"""Stored views: augmented and mixed images made once, from which trainings draw a part of each batch (arXiv 2303.08983)."""

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
    """Batches with stored views, one shuffled epoch of them after the other, each a function of (seed, epoch).

    `rest` gives the other rows of each batch, which are not mixed; None = all are views. The row number of a view is
    `first` + its own, where `first` is the number of real images and fakes. `labels` mixes the labels of both images;
    None = nothing is mixed.
    """

    columns: Mapping[str, Tensor]
    labels: MixLabels | None
    num_views: int
    """Views in each batch."""
    seed: int
    first: int
    rest: Mixture | None = None

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def batch(self, step: int) -> Batch:
        """The batch of a step; the same step gives the same batch, whatever was asked before."""
        row_V = Stream(len(self), "views", self.seed).rows(step * self.num_views, self.num_views)
        images, labels, others, weight, fake = (self.columns[name][row_V] for name in COLUMNS)
        index = row_V + self.first
        if self.rest is not None:
            batch = self.rest.batch(step)
            whole = torch.ones(len(batch.index_B))
            pairs = (
                (batch.images_BCHW, images),
                (batch.labels_B, labels),
                (batch.labels_B, others),
                (whole, weight),
                (batch.is_fake_B, fake),
                (batch.index_B, index),
            )
            images, labels, others, weight, fake, index = (torch.cat(pair) for pair in pairs)
        if self.labels is not None:
            labels = self.labels(labels, others, weight)
        return Batch(images, labels, index, fake)
