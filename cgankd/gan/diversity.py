"""How much images of one label differ: among real images, and among the fakes of a generator.

A generator that ignores its latent makes one image a label, which every later check of realism and label passes;
this distance is what gives it away. All distances are mean absolute pixel differences in [-1, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from cgankd.data.pixels import to_signed
from cgankd.types import Draw, Split, Vicinity


def pair_distances(a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
    """Mean absolute difference of each pair of uint8 images, [B], as if in [-1, 1]."""
    return (to_signed(a_BCHW) - to_signed(b_BCHW)).abs().mean(dim=(1, 2, 3))


def real_diversity(train: Split, vicinity: Vicinity, gen: torch.Generator, num_pairs: int = 2000) -> float:
    """Mean distance of two different real images that the vicinity pairs with one target, weighted as the pairs are.

    Raises ValueError where no target has two images.
    """
    target_B = vicinity.targets(num_pairs, gen)
    first, second = vicinity.pair(target_B, gen), vicinity.pair(target_B, gen)
    weight_B = first.weight * second.weight * (first.index != second.index)
    if not float(weight_B.sum()) > 0:
        raise ValueError(
            "cgan.diversity_weight needs two training images of one label to measure how much they differ, but no "
            "label has two; give more images, widen cgan.vicinity.kappa, or set cgan.diversity_weight to 0"
        )
    # In pieces, so that memory does not grow with the number of pairs.
    pieces = [
        pair_distances(train.images[a], train.images[b])
        for a, b in zip(torch.split(first.index, 256), torch.split(second.index, 256), strict=True)
    ]
    return float((weight_B * torch.cat(pieces)).sum() / weight_B.sum())


def fake_diversity(draw: Draw, label_B: Tensor, gen: torch.Generator) -> float:
    """Mean distance of two independent draws of the same labels."""
    first_BCHW, second_BCHW = draw(label_B, gen), draw(label_B, gen)
    both = zip(torch.split(first_BCHW, 256), torch.split(second_BCHW, 256), strict=True)
    pieces = [pair_distances(a, b) for a, b in both]
    return float(torch.cat(pieces).mean())
