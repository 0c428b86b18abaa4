"""A trained generator as a plain function from labels to uint8 images."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cgankd.data.pixels import signed_to_u8
from cgankd.fit.device import autocast, channels_last
from cgankd.nets.generator import Generator
from cgankd.nets.residual_gan import ResidualGenerator
from cgankd.nets.spectral import fold_spectral
from cgankd.types import Draw


def make_draw(generator: nn.Module, embed: nn.Module, *, z_dim: int, precision: str, batch_size: int = 256) -> Draw:
    """A frozen copy of generator and embedding as draw(label_B, gen) -> uint8 [B, C, H, W].

    The latents are drawn at once, so the images do not depend on how they are cut into batches.
    """
    assert isinstance(generator, Generator | ResidualGenerator)
    frozen = fold_spectral(channels_last(copy.deepcopy(generator).eval().requires_grad_(False)))
    frozen_embed = copy.deepcopy(embed).eval().requires_grad_(False)
    shape = (generator.channels, generator.image_size, generator.image_size)

    def draw(label_B: Tensor, gen: torch.Generator) -> Tensor:
        z_BZ = torch.randn(len(label_B), z_dim, generator=gen)
        # Made outside inference mode, so that callers may train on the images.
        images_BCHW = torch.empty(len(label_B), *shape, dtype=torch.uint8)
        with torch.inference_mode():
            for low in range(0, len(label_B), batch_size):
                part = slice(low, low + batch_size)
                h_BE = frozen_embed(label_B[part])
                with autocast(precision):
                    images_BCHW[part] = signed_to_u8(frozen(z_BZ[part], h_BE))
        return images_BCHW

    return draw
