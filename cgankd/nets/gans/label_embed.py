"""Label embeddings h(y): a learned table for classes; the y -> h half of CcGAN's improved label input for scalars."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ClassEmbed(nn.Module):
    """A table of one vector a class, moved by the GAN's own optimiser."""

    trained_with_gan = True

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes, dim)

    def forward(self, label_B: Tensor) -> Tensor:
        """Labels int64 [B] to h [B, E]."""
        h_BE: Tensor = self.table(label_B)
        return h_BE


def with_std(embed: nn.Module, std: float) -> nn.Module:
    """A table of fresh class embeddings, N(0, 1), made N(0, std^2) in place; an embedding of scalars stays as it is."""
    if isinstance(embed, ClassEmbed) and std != 1.0:
        with torch.no_grad():
            embed.table.weight.mul_(std)
    return embed


class ScalarEmbed(nn.Module):
    """Net 2 of the improved label input (arXiv 2011.07466, section on ILI): an MLP y -> h ending in a ReLU.

    It is fitted on its own before the GAN (cgankd.gan.embed) and frozen; raw labels are normalised, and clamped to [0, 1]
    where `clamped`.
    On a circle of length `label_period` (raw units) it takes (cos, sin) of the label's angle, so that h has no seam.
    """

    trained_with_gan = False

    def __init__(
        self, dim: int, label_min: float, label_max: float, label_period: float | None = None, *, clamped: bool = True
    ) -> None:
        super().__init__()
        self.label_min, self.label_max, self.clamped = label_min, label_max, clamped
        self.period = None if label_period is None else label_period / (label_max - label_min)
        # Groups of at least 16 units: normalised in twos, h would forget the label.
        layers: list[nn.Module] = []
        width = 1 if label_period is None else 2
        for _ in range(4):
            layers += [nn.Linear(width, dim), nn.GroupNorm(max(1, dim // 16), dim), nn.ReLU()]
            width = dim
        self.body = nn.Sequential(*layers, nn.Linear(dim, dim), nn.ReLU())

    def from_unit(self, unit_B: Tensor) -> Tensor:
        """Normalised labels [B] to h [B, E]."""
        h_BE: Tensor = self.body(self.seen(unit_B))
        return h_BE

    def seen(self, unit_B: Tensor) -> Tensor:
        """What the MLP sees of normalised labels: themselves [B, 1], or their (cos, sin) [B, 2]."""
        if self.period is None:
            return (unit_B.clamp(0, 1) if self.clamped else unit_B)[:, None]
        angle_B = unit_B * (2 * math.pi / self.period)
        return torch.stack([angle_B.cos(), angle_B.sin()], dim=1)

    def forward(self, label_B: Tensor) -> Tensor:
        """Raw labels float [B] to h [B, E]."""
        return self.from_unit((label_B - self.label_min) / (self.label_max - self.label_min))


def embed_labels(embed: nn.Module, label_B: Tensor) -> Tensor:
    """h [B, E]; on the device of the embedding, without gradients where it is frozen."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and bool(embed.trained_with_gan)):
        h_BE: Tensor = embed(label_B.to(next(embed.parameters()).device))
    return h_BE
