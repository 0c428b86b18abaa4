"""ShuffleNet V1 (Zhang et al., arXiv 1707.01083) and V2 (Ma et al., arXiv 1807.11164) for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.predictors.staged import LINEAR, End, Staged, Stem, conv_norm, pool_after, start_weights

TINY = Stem(kernel=1)
"""A 1x1 convolution at full resolution, as the KD literature has it for images of 32 px."""


def shuffle(x_BCHW: Tensor, groups: int) -> Tensor:
    """Channels dealt out in turn to the groups: number g * n + i goes to i * groups + g."""
    batch, channels, height, width = x_BCHW.shape
    return x_BCHW.reshape(batch, groups, channels // groups, height, width).transpose(1, 2).flatten(1, 2)


class GroupedUnit(nn.Module):
    """V1: 1x1 in groups, shuffle, 3x3 within each channel, 1x1 in groups.

    With a stride the shortcut is a 3x3 mean, joined as channels of its own; without one it is added.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, groups: int, first_groups: int) -> None:
        super().__init__()
        self.stride, self.mixed = stride, first_groups
        made = c_out - c_in if stride == 2 else c_out
        inner = made // 4
        self.reduce = conv_norm(c_in, inner, 1, groups=first_groups)
        self.depthwise = conv_norm(inner, inner, 3, stride, groups=inner)
        self.expand = conv_norm(inner, made, 1, groups=groups)

    def preact(self, x_BCHW: Tensor) -> Tensor:
        """Branch and shortcut before the last ReLU."""
        out = shuffle(F.relu(self.reduce(x_BCHW)), self.mixed)
        out = self.expand(F.relu(self.depthwise(out)))
        if self.stride == 2:
            return torch.cat([out, F.avg_pool2d(x_BCHW, 3, 2, 1)], dim=1)
        total: Tensor = out + x_BCHW
        return total

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """ReLU of `preact`."""
        return F.relu(self.preact(x_BCHW))


class ShuffleNetV1(Staged):
    """Three groups: a stem of 24 channels, stages of 240, 480 and 960 channels with 4, 8 and 4 units.

    949,258 numbers at 100 classes, as in the KD literature (Tian et al., arXiv 1910.10699); the first unit's 1x1
    convolution has one group, because it has only 24 channels to take.
    """

    def __init__(
        self, num_outputs: int, channels: int, image_size: int, *, stem: Stem = TINY, end: End = LINEAR
    ) -> None:
        super().__init__()
        self.how = stem
        self.stem = conv_norm(channels, 24, stem.kernel, stem.stride)
        self.stages = nn.ModuleList()
        c_in = 24
        for c_out, count in ((240, 4), (480, 8), (960, 4)):
            units = [GroupedUnit(c_in, c_out, 2, 3, 1 if c_in == 24 else 3)]
            units += [GroupedUnit(c_out, c_out, 1, 3, 3) for _ in range(count - 1)]
            self.stages.append(nn.ModuleList(units))
            c_in = c_out
        self.end_in(c_in, num_outputs, end)
        start_weights(self)

    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Each stage before its last ReLU, and the last one after it."""
        preacts = []
        x_BCHW = pool_after(self.how, F.relu(self.stem(x_BCHW)))
        for stage in self.stages:
            for unit in stage.children():
                assert isinstance(unit, GroupedUnit)
                before = unit.preact(x_BCHW)
                x_BCHW = F.relu(before)
            preacts.append(before)
        return preacts, x_BCHW


class SplitUnit(nn.Module):
    """V2: half of the channels pass, the other half go through 1x1, 3x3 within each channel, 1x1; then a shuffle.

    With `down` both halves start from all channels and halve the resolution.
    """

    def __init__(self, c_in: int, c_out: int, down: bool) -> None:
        super().__init__()
        self.down = down
        half, stride = c_out // 2, 2 if down else 1
        self.reduce = conv_norm(c_in if down else half, half, 1)
        self.depthwise = conv_norm(half, half, 3, stride, groups=half)
        self.expand = conv_norm(half, half, 1)
        if down:
            self.pass_depthwise = conv_norm(c_in, c_in, 3, 2, groups=c_in)
            self.pass_expand = conv_norm(c_in, half, 1)

    def preact(self, x_BCHW: Tensor) -> Tensor:
        """Both halves before the last ReLU, shuffled; a half that passes went through its ReLU in an earlier unit."""
        if self.down:
            passed, taken = self.pass_expand(self.pass_depthwise(x_BCHW)), x_BCHW
        else:
            passed, taken = x_BCHW.chunk(2, dim=1)
        made = self.expand(self.depthwise(F.relu(self.reduce(taken))))
        return shuffle(torch.cat([passed, made], dim=1), 2)


class ShuffleNetV2(Staged):
    """Size 1: a stem of 24 channels, stages of 116, 232 and 464 channels, a 1x1 convolution to 1024.

    1,355,528 numbers at 100 classes, as in the KD literature (Tian et al., arXiv 1910.10699).
    """

    def __init__(
        self, num_outputs: int, channels: int, image_size: int, *, stem: Stem = TINY, end: End = LINEAR
    ) -> None:
        super().__init__()
        self.how = stem
        self.stem = conv_norm(channels, 24, stem.kernel, stem.stride)
        self.stages = nn.ModuleList()
        c_in = 24
        for c_out, count in ((116, 3), (232, 7), (464, 3)):
            units = [SplitUnit(c_in, c_out, down=True)] + [SplitUnit(c_out, c_out, down=False) for _ in range(count)]
            self.stages.append(nn.ModuleList(units))
            c_in = c_out
        self.last = conv_norm(c_in, 1024, 1)
        self.end_in(1024, num_outputs, end)
        start_weights(self)

    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Each stage before its last ReLU, and the map of 1024 channels."""
        preacts = []
        x_BCHW = pool_after(self.how, F.relu(self.stem(x_BCHW)))
        for stage in self.stages:
            for unit in stage.children():
                assert isinstance(unit, SplitUnit)
                before = unit.preact(x_BCHW)
                # A half that passes is not negative, so that this ReLU touches the other half alone.
                x_BCHW = F.relu(before)
            preacts.append(before)
        return preacts, F.relu(self.last(x_BCHW))
