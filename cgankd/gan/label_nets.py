"""Net 1 of the improved label input (arXiv 2011.07466): image -> h -> label, small or as the authors have it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.config import LabelInputConfig
from cgankd.nets.predictors.resnet import BasicBlock, Bottleneck

RESNETS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
"""`cgan.label_input.net` to the blocks of its four stages."""


class DownStage(nn.Module):
    """A residual block with group norms that halves the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.norm1 = nn.GroupNorm(1, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(1, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / 2, W / 2]."""
        x_BCHW = F.relu(x_BCHW)
        inner = F.relu(self.norm1(self.conv1(x_BCHW)))
        out: Tensor = self.norm2(self.conv2(inner)) + self.shortcut(x_BCHW)
        return out


class LabelNet(nn.Module):
    """The project's own: a small residual net whose penultimate layer h ends in a ReLU."""

    head: nn.Module

    def __init__(self, channels: int, width: int, embed_dim: int, num_outputs: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(DownStage(width, 2 * width), DownStage(2 * width, 4 * width))
        self.to_h = nn.Linear(4 * width * 4, embed_dim)
        self.head = nn.Linear(embed_dim, num_outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images in [-1, 1] to normalised labels [B, 1], or points of the circle [B, 2].

        h is pooled to 2x2, as a label may sit in where things are.
        """
        features = F.adaptive_avg_pool2d(F.relu(self.blocks(self.stem(x_BCHW))), 2)
        out_BO: Tensor = self.head(F.relu(self.to_h(features.flatten(1))))
        return out_BO


class ResNetLabelNet(nn.Module):
    """The authors': a ResNet whose every stage halves the resolution, a mean over places, two normed layers to h.

    The head from h to the label ends in a ReLU, but not that to a point of the circle.
    """

    head: nn.Module

    def __init__(self, name: str, channels: int, embed_dim: int, num_outputs: int = 1) -> None:
        super().__init__()
        block, counts = RESNETS[name]
        layers: list[nn.Module] = [nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        width = 64
        for stage, count in zip((64, 128, 256, 512), counts, strict=True):
            for number in range(count):
                layers.append(block(width, stage, 1 if number else 2))
                width = stage * block.expansion
        self.trunk = nn.Sequential(*layers)
        self.to_h = nn.Sequential(
            *(nn.Linear(width, 512), nn.BatchNorm1d(512), nn.ReLU()),
            *(nn.Linear(512, embed_dim), nn.BatchNorm1d(embed_dim), nn.ReLU()),
        )
        last: list[nn.Module] = [nn.Linear(embed_dim, num_outputs)]
        self.head = nn.Sequential(*last, *([nn.ReLU()] if num_outputs == 1 else []))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images in [-1, 1] to normalised labels [B, 1], or points of the circle [B, 2]."""
        out_BO: Tensor = self.head(self.to_h(self.trunk(x_BCHW).mean((2, 3))))
        return out_BO


def make_label_net(
    cfg: LabelInputConfig, channels: int, embed_dim: int, num_outputs: int = 1
) -> LabelNet | ResNetLabelNet:
    """A fresh net 1 by `cgan.label_input.net`."""
    if cfg.net == "compact":
        return LabelNet(channels, cfg.width, embed_dim, num_outputs)
    return ResNetLabelNet(cfg.net, channels, embed_dim, num_outputs)
