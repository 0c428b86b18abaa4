"""VGG with batch norm (Simonyan and Zisserman, arXiv 1409.1556), its end as in the KD literature."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.predictors.staged import LINEAR, End, Staged, start_weights

WIDTHS = (64, 128, 256, 512, 512)
COUNTS = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Convolutions of each stage, by name."""


class VGG(Staged):
    """Five stages of 3x3 convolutions with bias, `counts` of them in each, in 64, 128, 256, 512 and 512 channels.

    Max pooling halves the map before each stage but the first, as long as it is higher than 4: at 32 px the stages are
    32, 16, 8, 4 and 4 high, as Tian et al. (arXiv 1910.10699) have them; from 64 px on each is half the one before.
    With `pools` a max pool of that side follows each stage instead, 1 for none, and the last map is not averaged but
    flattened; the last stage is then shown after its pool, unless a single place is left.
    """

    def __init__(
        self,
        num_outputs: int,
        channels: int,
        image_size: int,
        *,
        counts: tuple[int, ...],
        pools: tuple[int, ...] | None = None,
        end: End = LINEAR,
    ) -> None:
        super().__init__()
        self.pools = pools
        self.blocks = nn.ModuleList()
        c_in = channels
        for width, count in zip(WIDTHS, counts, strict=True):
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [nn.Conv2d(c_in, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
                c_in = width
            self.blocks.append(nn.Sequential(*layers[:-1]))
        places = 1 if pools is None else (image_size // math.prod(pools)) ** 2
        self.end_in(c_in * places, num_outputs, end)
        start_weights(self)

    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Each stage before its last ReLU, and the last one after it and its pool."""
        preacts: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            if self.pools is None and preacts and x_BCHW.shape[2] > 4:
                x_BCHW = F.max_pool2d(x_BCHW, 2)
            preacts.append(block(x_BCHW))
            x_BCHW = F.relu(preacts[-1])
            if self.pools is not None and self.pools[number] > 1:
                x_BCHW = F.max_pool2d(x_BCHW, self.pools[number])
        if self.pools is not None and x_BCHW.shape[2] > 1:
            preacts[-1] = F.max_pool2d(preacts[-1], self.pools[-1])
        return preacts, x_BCHW

    def features(self, top_BFHW: Tensor) -> Tensor:
        """The last map as [B, F]: its mean over places, or flattened after `pools`."""
        return super().features(top_BFHW) if self.pools is None else top_BFHW.flatten(1)
