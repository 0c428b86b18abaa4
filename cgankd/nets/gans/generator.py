"""The conditional generator: a residual SNGAN generator whose every batch norm is driven by the latent and the label."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.gans.spectral import SNConv2d, SNLinear


class ConditionalNorm(nn.Module):
    """Batch norm whose gain and shift are linear in the condition [z, h] (de Vries et al., arXiv 1707.00683).

    z enters every norm beside the label: with the label alone the nets of this size learn to ignore z.
    """

    def __init__(self, channels: int, cond_dim: int, spectral: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain_shift = SNLinear(cond_dim, 2 * channels, bias=False, spectral=spectral)

    def forward(self, x_BCHW: Tensor, cond_BD: Tensor) -> Tensor:
        """(1 + gain(cond)) * norm(x) + shift(cond), [B, C, H, W]."""
        gain_BC, shift_BC = self.gain_shift(cond_BD).to(x_BCHW.dtype).chunk(2, dim=1)
        return torch.addcmul(shift_BC[:, :, None, None], self.norm(x_BCHW), 1 + gain_BC[:, :, None, None])


class UpBlock(nn.Module):
    """A residual block that doubles the resolution.

    The first convolution, both norms and the shortcut run before the upsampling, which halves the time of the block.
    """

    def __init__(self, inputs: int, outputs: int, cond_dim: int, spectral: bool, gains: bool = True) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(inputs, cond_dim, spectral and gains)
        self.conv1 = SNConv2d(inputs, outputs, 3, spectral=spectral)
        self.norm2 = ConditionalNorm(outputs, cond_dim, spectral and gains)
        self.conv2 = SNConv2d(outputs, outputs, 3, spectral=spectral)
        self.shortcut = SNConv2d(inputs, outputs, 1, spectral=spectral)

    def forward(self, x_BCHW: Tensor, cond_BD: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', 2H, 2W]."""
        inner = self.conv1(F.relu(self.norm1(x_BCHW, cond_BD)))
        inner = F.relu(self.norm2(inner, cond_BD))
        inner = self.conv2(F.interpolate(inner, scale_factor=2.0))
        out: Tensor = inner + F.interpolate(self.shortcut(x_BCHW), scale_factor=2.0)
        return out


def stage_widths(width: int, image_size: int) -> list[int]:
    """Channels from 4x4 to full resolution: `width` at full resolution, doubling towards 4x4 up to four times."""
    num_blocks = (image_size // 4).bit_length() - 1
    return [width * min(4, 2**level) for level in range(num_blocks, -1, -1)]


class Generator(nn.Module):
    """Latent and label embedding to an image: linear to 4x4, log2(size / 4) residual blocks, tanh."""

    def __init__(
        self,
        z_dim: int,
        embed_dim: int,
        width: int,
        channels: int,
        image_size: int,
        *,
        spectral: bool = True,
        gains: bool = True,
    ) -> None:
        super().__init__()
        self.channels, self.image_size = channels, image_size
        widths = stage_widths(width, image_size)
        cond_dim = z_dim + embed_dim
        self.start = SNLinear(cond_dim, widths[0] * 16, spectral=spectral)
        self.blocks = nn.ModuleList(UpBlock(a, b, cond_dim, spectral, gains) for a, b in itertools.pairwise(widths))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.to_pixels = SNConv2d(widths[-1], channels, 3, spectral=spectral)

    def forward(self, z_BZ: Tensor, h_BE: Tensor) -> Tensor:
        """z [B, Z] and h [B, E] to float32 images [B, C, H, W] in [-1, 1]."""
        cond_BD = torch.cat([z_BZ, h_BE], dim=1)
        x_BCHW = self.start(cond_BD).unflatten(1, (-1, 4, 4)).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x_BCHW = block(x_BCHW, cond_BD)
        x_BCHW = self.to_pixels(F.relu(self.norm(x_BCHW)))
        return torch.tanh(x_BCHW.float())
