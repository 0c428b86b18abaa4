"""Self-attention over the positions of a feature map (SAGAN, arXiv 1805.08318)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.gans.spectral import SNConv2d


class SelfAttention(nn.Module):
    """x + gamma * W_o(softmax(q k^T) v) with gamma starting at zero (arXiv 1805.08318, Eqs. 1 to 3).

    Keys and values are max-pooled 2x2, as in the authors' nets: a quarter of the memory of the attention map.
    Queries and keys have C / 8 channels, values C / 2; BigGAN-deep's have no `bias`.
    """

    def __init__(self, channels: int, spectral: bool = True, bias: bool = True) -> None:
        super().__init__()
        narrow, half = max(1, channels // 8), max(1, channels // 2)
        self.query = SNConv2d(channels, narrow, 1, bias=bias, spectral=spectral)
        self.key = SNConv2d(channels, narrow, 1, bias=bias, spectral=spectral)
        self.value = SNConv2d(channels, half, 1, bias=bias, spectral=spectral)
        self.out = SNConv2d(half, channels, 1, bias=bias, spectral=spectral)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape; the softmax is over the pooled positions."""
        query_BCP = self.query(x_BCHW).flatten(2)
        key_BCQ = F.max_pool2d(self.key(x_BCHW), 2).flatten(2)
        value_BCQ = F.max_pool2d(self.value(x_BCHW), 2).flatten(2)
        weight_BPQ = torch.softmax(query_BCP.mT @ key_BCQ, dim=2)
        mixed_BCP = value_BCQ @ weight_BPQ.to(value_BCQ.dtype).mT
        mixed_BCHW = mixed_BCP.reshape(*value_BCQ.shape[:2], *x_BCHW.shape[2:]).contiguous(
            memory_format=torch.channels_last
        )
        out: Tensor = x_BCHW + self.gamma.to(x_BCHW.dtype) * self.out(mixed_BCHW)
        return out
