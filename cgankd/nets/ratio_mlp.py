"""The density-ratio network of M1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RatioMLP(nn.Module):
    """r = ReLU(MLP([h(y), features(x)])) >= 0 (MLP-5 of arXiv 2103.11166 with its five hidden widths).

    The buffer `scale` makes the mean ratio on fakes 1; it is set after training and used by `make_ratio`, not here.
    """

    scale: Tensor

    def __init__(self, embed_dim: int, feature_dim: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = embed_dim + feature_dim
        for num_out in hidden:
            layers += [nn.Linear(width, num_out), nn.GroupNorm(8, num_out), nn.ReLU(), nn.Dropout(dropout)]
            width = num_out
        self.body = nn.Sequential(*layers)
        self.last = nn.Linear(width, 1)
        # Start near r = 1, the ratio of two equal densities: started at 0, the final ReLU can die on the fakes.
        nn.init.ones_(self.last.bias)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, h_BE: Tensor, features_BF: Tensor) -> Tensor:
        """Uncalibrated ratio [B], float32 whatever the autocast."""
        x_BF = self.body(torch.cat([h_BE.float(), features_BF.float()], dim=1))
        with torch.autocast(x_BF.device.type, enabled=False):
            return F.relu(self.last(x_BF.float()))[:, 0]
