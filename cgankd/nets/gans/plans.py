"""Widths of the residual conditional GANs at each image size, in units of `width` (ch), as published.

BigGAN: arXiv 1809.11096, appendix B (64 and 128 px up; 32 px is the authors' CIFAR net). SNGAN and SAGAN: arXiv 1802.05957
(32 px), 1802.05637 (128 px) and the 64-px nets of CcGAN, arXiv 2011.07466. The nets of 16 and 256 px, which no paper has,
go on in the same way. At ch = 64 these are the published channels.
"""

from __future__ import annotations

from dataclasses import dataclass

BIGGAN_G = {
    16: (4, 4, 4),
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
"""Channels of the generator at 4x4, 8x8 and so on up to full resolution."""
BIGGAN_D = {
    16: (4, 4, 4),
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
}
"""Channels of the discriminator after each of its blocks; `down_blocks` of them halve the resolution."""
SNGAN_G = {
    16: (4, 4, 4),
    32: (4, 4, 4, 4),
    64: (16, 8, 4, 2, 1),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
SNGAN_D = {
    16: (2, 2, 2),
    32: (2, 2, 2, 2),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
}


@dataclass(frozen=True)
class Plan:
    """What tells one residual GAN from another: channels (times ch), how the latent enters, and where it attends.

    `hierarchical`: each norm reads h and a part of z; otherwise h alone, and z enters at 4x4. `wide`: the blocks of the
    discriminator grow in their first convolution, otherwise in the second. `attention`: resolution in pixels, or None.
    `flat`: the discriminator's head reads every unit of the last map and not their sum over places.
    """

    image_size: int
    generator: tuple[int, ...]
    discriminator: tuple[int, ...]
    hierarchical: bool
    wide: bool
    attention: int | None
    flat: bool = False

    @property
    def down_blocks(self) -> int:
        """Blocks of the discriminator that halve the resolution: down to 8x8 at 32 px and below, else to 4x4."""
        return self.image_size.bit_length() - (4 if self.image_size <= 32 else 3)


def make_plan(arch: str, image_size: int, attention: int | None, shared_embed: bool, d_style: str = "pooled") -> Plan:
    """The plan of a residual GAN for square images of a size in pixels (16 to 256, a power of two)."""
    if arch in ("biggan", "biggan-deep"):
        return Plan(image_size, BIGGAN_G[image_size], BIGGAN_D[image_size], shared_embed, True, attention)
    assert arch in ("sngan", "sagan"), arch
    if arch == "sagan":
        attention = attention or min(32, image_size // 2)
    flat = d_style == "flat"
    return Plan(image_size, SNGAN_G[image_size], SNGAN_D[image_size], False, flat, attention, flat)
