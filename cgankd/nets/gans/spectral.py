"""Spectrally normed layers (Miyato et al., arXiv 1802.05957), written out rather than as a parametrisation.

torch's parametrisation takes the norm at every access of the weight, so each pass needs a cache around it; here it is
taken once a forward, in fp32 whatever the autocast, the state keeps the plain names, and it can be folded away.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SpectralWeight(nn.Module):
    """What both layers share: W / sigma(W), sigma by one power iteration a training forward from the stored vector u."""

    weight: Tensor
    u: Tensor
    right: Tensor | None = None
    """v [I] of the last training forward, kept for `hold_spectral`; no part of the state."""

    def start(self, spectral: bool) -> None:
        """Register the left singular vector u [O]; without `spectral` the layer is a plain one."""
        self.spectral, self.held = spectral, False
        if spectral:
            self.register_buffer("u", F.normalize(torch.randn(len(self.weight)), dim=0))

    def normed_weight(self) -> Tensor:
        """W / (u^T W v) (Eq. 11); u moves in training mode only, and gradients flow through sigma but not through u, v."""
        if not self.spectral:
            return self.weight
        with torch.autocast(self.weight.device.type, enabled=False):
            matrix_OI = self.weight.flatten(1)
            with torch.no_grad():
                held = self.right if self.held else None
                v_I = F.normalize(torch.mv(matrix_OI.t(), self.u), dim=0) if held is None else held
                u_O = self.u
                if self.training and held is None:
                    self.right = v_I
                    # A new tensor: the old u may still be needed by the backward of an earlier forward.
                    u_O = F.normalize(torch.mv(matrix_OI, v_I), dim=0)
                    self.u.copy_(u_O)
            return self.weight / torch.dot(u_O, torch.mv(matrix_OI, v_I))


class SNConv2d(nn.Conv2d, SpectralWeight):
    """A convolution that keeps the image size at stride 1, with the largest singular value of its weight held at one."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, bias: bool = True, spectral: bool = True
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, bias=bias)
        nn.init.orthogonal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.start(spectral)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        return F.conv2d(x_BCHW, self.normed_weight(), self.bias, self.stride, self.padding)


class SNLinear(nn.Linear, SpectralWeight):
    """A linear layer with the largest singular value of its weight held at one."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, spectral: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        nn.init.orthogonal_(self.weight)
        if bias:
            nn.init.zeros_(self.bias)
        self.start(spectral)

    def forward(self, x_BI: Tensor) -> Tensor:
        """[B, I] to [B, O]."""
        return F.linear(x_BI, self.normed_weight(), self.bias)


def hold_spectral(net: nn.Module, held: bool) -> None:
    """Keep the u and v of the last training forward while `held`, so that the micro-batches of a step share one sigma."""
    for layer in net.modules():
        if isinstance(layer, SpectralWeight):
            layer.held = held


@torch.no_grad()
def fold_spectral(net: nn.Module) -> nn.Module:
    """Put the spectral norms into the weights, in place, so that inference pays nothing for them; returns the net."""
    for layer in net.modules():
        if isinstance(layer, SpectralWeight) and layer.spectral:
            training, layer.training = layer.training, False
            layer.weight.copy_(layer.normed_weight())
            layer.spectral, layer.training = False, training
    return net
