"""The head that every residual discriminator ends in: D(x, y) = psi(phi) + <V h, phi> (arXiv 1802.05637)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.gans.spectral import SNLinear

Judged = Tensor | tuple[Tensor, Tensor]
"""What a discriminator says of B images: scores [B], and with a second head the labels it reads from them."""


class ProjectionDiscriminator(nn.Module):
    """Blocks, ReLU, and phi: the sum of the last map over places, or with `side` all units of it, side x side places."""

    blocks: nn.Sequential
    answer: nn.Linear | None

    def build_head(self, embed_dim: int, channels: int, side: int | None = None) -> None:
        """Make psi and the projection; called after the blocks, whose weights are drawn first."""
        self.flat = side is not None
        units = channels * (side or 1) ** 2
        self.psi = SNLinear(units, 1)
        self.project = SNLinear(embed_dim, units, bias=False)
        self.register_module("answer", None)

    def forward(self, x_BCHW: Tensor, h_BE: Tensor) -> Judged:
        """Images [B, C, H, W] in [-1, 1] and h [B, E] to scores float32 [B]; the head runs in fp32."""
        phi_BCHW = self.blocks(x_BCHW.contiguous(memory_format=torch.channels_last))
        with torch.autocast(x_BCHW.device.type, enabled=False):
            map_BCHW = F.relu(phi_BCHW.float())
            phi_BF = map_BCHW.flatten(1) if self.flat else map_BCHW.sum(dim=(2, 3))
            score_B: Tensor = self.psi(phi_BF)[:, 0] + (self.project(h_BE.float()) * phi_BF).sum(dim=1)
            return score_B if self.answer is None else (score_B, self.answer(phi_BF))


def add_answer(net_d: nn.Module, period: float | None) -> None:
    """Give a discriminator a second head on phi, which answers with the normalised label, [B, 1], or on a circle [B, 2].

    It begins with the middle of the range as every answer, on a circle with its centre.
    """
    outputs = 1 if period is None else 2
    answer = nn.Linear(net_d.psi.in_features, outputs)  # type: ignore[union-attr, arg-type]
    nn.init.zeros_(answer.weight)
    nn.init.constant_(answer.bias, 0.5 if period is None else 0.0)
    net_d.answer = answer


def apart(judged: Judged) -> tuple[Tensor, Tensor | None]:
    """The scores [B], and the answers of the second head where there is one."""
    return judged if isinstance(judged, tuple) else (judged, None)
