"""Wide residual nets (Zagoruyko and Komodakis, arXiv 1605.07146): pre-activation blocks, depth 6n+4, k times as wide."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.predictors.staged import LINEAR, End, Staged, Stem, conv_norm, pool_after, start_weights

SIZES = {f"wrn{depth}-{factor}": (depth, factor) for depth in (16, 40) for factor in (1, 2)}
"""Depth and factor, by name."""


class PreactBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU; the shortcut is a 1x1 convolution where channels change.

    The caller applies `bn1`, because before it a stage ends and after it the next one begins.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if c_in != c_out else None

    def forward(self, x_BCHW: Tensor, normed_BCHW: Tensor) -> Tensor:
        """The input and `bn1` of it to [B, C', H / stride, W / stride]; a 1x1 shortcut too starts after the ReLU."""
        active = F.relu(normed_BCHW)
        inner: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return inner + (x_BCHW if self.shortcut is None else self.shortcut(active))


class WideResNet(Staged):
    """A 3x3 stem of 16 channels, three stages of 16k, 32k and 64k, batch norm and ReLU.

    The last ReLU of a stage is the first of the next one, since a block begins with its ReLU. A `stem` of one's own, for
    larger images, has batch norm and ReLU.
    """

    def __init__(
        self,
        num_outputs: int,
        channels: int,
        image_size: int,
        *,
        size: tuple[int, int],
        stem: Stem | None = None,
        end: End = LINEAR,
    ) -> None:
        super().__init__()
        depth, factor = size
        assert depth % 6 == 4, "6n + 4 layers"
        count = (depth - 4) // 6
        self.stem = stem
        plain = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.conv1 = plain if stem is None else conv_norm(channels, 16, stem.kernel, stem.stride)
        self.blocks = nn.ModuleList()
        c_in = 16
        for stage in range(3):
            for number in range(count):
                c_out = 16 * factor * 2**stage
                self.blocks.append(PreactBlock(c_in, c_out, 2 if stage > 0 and number == 0 else 1))
                c_in = c_out
        self.ends = {count, 2 * count}
        self.bn1 = nn.BatchNorm2d(c_in)
        self.end_in(c_in, num_outputs, end)
        start_weights(self)

    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Normed maps at the end of each stage, and the last one after its ReLU."""
        preacts = []
        x_BCHW = self.conv1(x_BCHW)
        if self.stem is not None:
            x_BCHW = pool_after(self.stem, F.relu(x_BCHW))
        for number, block in enumerate(self.blocks):
            assert isinstance(block, PreactBlock)
            normed_BCHW = block.bn1(x_BCHW)
            if number in self.ends:
                preacts.append(normed_BCHW)
            x_BCHW = block(x_BCHW, normed_BCHW)
        preacts.append(self.bn1(x_BCHW))
        return preacts, F.relu(preacts[-1])
