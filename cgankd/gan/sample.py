"""A trained generator as a plain function from labels to uint8 images."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cgankd.data.pixels import signed_to_u8
from cgankd.fit.device import PLAIN, Plan, autocast, channels_last
from cgankd.fit.pieces import Halves
from cgankd.nets.gans.spectral import fold_spectral
from cgankd.nets.gans.zoo import AnyGenerator


@dataclass(frozen=True)
class GanDraw:
    """Images of latents z ~ N(0, I) and labels, see cgankd.bank.hard.LatentDraw; `image` makes those of [B, Z] and labels [B]."""

    image: Callable[[Tensor, Tensor], Tensor]
    z_dim: int

    def at(self, z_BZ: Tensor, label_B: Tensor) -> Tensor:
        """uint8 [B, C, H, W]."""
        return self.image(z_BZ, label_B)

    def __call__(self, label_B: Tensor, gen: torch.Generator) -> Tensor:
        """uint8 [B, C, H, W] of z drawn from `gen`."""
        return self.at(torch.randn(len(label_B), self.z_dim, generator=gen), label_B)


def make_draw(
    generator: nn.Module,
    embed: nn.Module,
    *,
    z_dim: int,
    precision: str,
    batch_size: int = 256,
    plan: Plan = PLAIN,
    expected: int = 0,
) -> GanDraw:
    """A frozen copy of generator and embedding as draw(label_B, gen) -> uint8 [B, C, H, W].

    The latents are drawn at once, so the images do not depend on how they are cut into batches. Spectral norms are
    folded into the copy's weights. `expected` images are to come, by which `plan` decides whether to compile.
    """
    assert isinstance(generator, AnyGenerator)
    device = plan.device
    frozen = fold_spectral(channels_last(copy.deepcopy(generator).eval().requires_grad_(False)).to(device))
    frozen_embed = copy.deepcopy(embed).eval().requires_grad_(False).to(device)
    shape = (generator.channels, generator.image_size, generator.image_size)
    run: Callable[..., Tensor] | None = None
    halves = Halves(plan.say)

    def image(z_BZ: Tensor, label_B: Tensor) -> Tensor:
        # Made outside inference mode, so that callers may train on the images.
        images_BCHW = torch.empty(len(label_B), *shape, dtype=torch.uint8)
        nonlocal run
        with torch.inference_mode():
            for low in range(0, len(label_B), batch_size):
                part = slice(low, low + batch_size)
                z_PZ, h_PE = z_BZ[part].to(device), frozen_embed(label_B[part].to(device))
                with autocast(precision, device):
                    if run is None:
                        example = (z_PZ, h_PE)
                        run = plan.inference(frozen, "generator", example, images=expected, batch_size=batch_size)
                    plan.step()
                    images_BCHW[part] = signed_to_u8(halves(run, z_PZ, h_PE)).cpu()
        return images_BCHW

    return GanDraw(image, z_dim)
