"""Students for small boards: convolutions, depthwise convolutions, ReLU, one average pool and one linear layer, no shortcut.

A runtime for microcontrollers has each of these as a kernel of its own for whole int8. Resolution falls by stride alone,
and without shortcuts no second map is kept while a block runs, so that the arena is the largest pair of maps.
"""

from __future__ import annotations

from torch import Tensor, nn

from cgankd.nets.predictors.staged import Staged, conv_norm, start_weights

SMALLEST = 4
"""Height at which strides end, as in `convnet`."""


class Separable(nn.Module):
    """3x3 within each channel, then 1x1 across them, each with batch norm; a ReLU between the two, none at the end."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.depthwise, self.between = conv_norm(c_in, c_in, 3, stride, groups=c_in), nn.ReLU()
        self.pointwise = conv_norm(c_in, c_out, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.pointwise(self.between(self.depthwise(x_BCHW)))
        return out


class SeparableNet(Staged):
    """A 3x3 stem of stride 2, then two separable blocks at each height down to 4, a mean over places, a linear layer.

    The first block at each height but that of the stem has the stride, and multiplies the channels by `growth` up to
    32 times `width`; the second keeps them.
    """

    growth = 1
    widens_after_stem = False
    """Twice the channels in the block after the stem, which has no stride (MobileNet)."""

    def __init__(self, num_outputs: int, channels: int, image_size: int, width: int) -> None:
        super().__init__()
        self.stem, self.relu = conv_norm(channels, width, 3, 2), nn.ReLU()
        size, c_in = -(-image_size // 2), width
        c = 2 * width if self.widens_after_stem else width
        stages = [nn.ModuleList([Separable(c_in, c, 1)])]
        while size > SMALLEST:
            size, c_in, c = -(-size // 2), c, min(self.growth * c, 32 * width)
            stages.append(nn.ModuleList([Separable(c_in, c, 2), Separable(c, c, 1)]))
        self.stages = nn.ModuleList(stages)
        self.average = nn.AvgPool2d(size)
        self.end_in(c, num_outputs)
        start_weights(self)

    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """What stands before the last ReLU at each height, and the last map."""
        preacts: list[Tensor] = []
        x_BCHW = self.relu(self.stem(x_BCHW))
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                before_BCHW = block(x_BCHW)
                x_BCHW = self.relu(before_BCHW)
            preacts.append(before_BCHW)
        return preacts, x_BCHW

    def features(self, top_BFHW: Tensor) -> Tensor:
        """The last map as [B, F]: an average pool over all of it, which boards have where a mean may lack."""
        pooled: Tensor = self.average(top_BFHW).flatten(1)
        return pooled


class DSCNN(SeparableNet):
    """DS-CNN (Zhang et al., arXiv 1711.07128), made for square images: as many channels in every block."""


class TinyMobileNet(SeparableNet):
    """MobileNet's first version (Howard et al., arXiv 1704.04861) made short: w channels in the stem, then 2w, and twice
    as many with each stride.
    """

    growth = 2
    widens_after_stem = True
