"""DiffAugment (Zhao et al., arXiv 2006.10738): differentiable augmentation of all that the discriminator sees.

Every function of it takes float images [B, C, H, W] in [-1, 1] and an explicit generator, and draws anew for each image.
`real_images` is what comes before it: the augmentation of the real ones alone. `Strength` adapts how often it is applied.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cgankd.data.augment import augment
from cgankd.data.pixels import to_signed, to_unit, unit_to_signed


def diff_augment(
    x_BCHW: Tensor, policy: str, gen: torch.Generator, cutout_share: float, probability: float | None = None
) -> Tensor:
    """Apply the comma-separated parts of `policy` (color, translation, cutout) in the order given; empty = unchanged.

    With a `probability` each part of it changes each image with that probability, independently.
    """
    for part in filter(None, policy.split(",")):
        before_BCHW = x_BCHW
        if part == "color":
            x_BCHW = jitter_colour(x_BCHW, gen)
        elif part == "translation":
            x_BCHW = translate(x_BCHW, draw_shifts(len(x_BCHW), x_BCHW.shape[-1] // 8, gen))
        elif part == "cutout":
            x_BCHW = cut_out(x_BCHW, cutout_share, gen)
        else:
            raise ValueError(f"cgan.diffaugment must be made of color, translation, cutout, but has {part!r}")
        if probability is not None:
            # As many draws whatever the probability, so that it moves no other draw of the step.
            changed_B = torch.rand(len(x_BCHW), generator=gen) < probability
            x_BCHW = torch.where(changed_B[:, None, None, None].to(x_BCHW.device), x_BCHW, before_BCHW)
    return x_BCHW


class Strength(nn.Module):
    """The probability p of DiffAugment's parts, adapted (Karras et al., arXiv 2006.06676, section 3).

    r = E[sign D(real)] over EVERY steps of the discriminator; p moves by the share of `speed` that their images are, up where r >
    target, down where r < target, and stays in [0, 1]. All of it is in the state, so that a resumed training goes on with it.
    """

    EVERY = 4
    p: Tensor
    r: Tensor
    sums: Tensor

    def __init__(self, target: float, speed: int) -> None:
        super().__init__()
        self.target, self.speed = target, speed
        for name, size in (("p", ()), ("r", ()), ("sums", (4,))):  # weighted signs, weights, images, steps
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    @torch.no_grad()
    def see(self, real_B: Tensor, weight_B: Tensor) -> None:
        """Take in scores of real images, which count by the weights of the vicinity."""
        weight_B = weight_B.double().cpu()
        signs = (weight_B * real_B.detach().double().cpu().sign()).sum()
        self.sums[:3] += torch.stack([signs, weight_B.sum(), torch.tensor(len(real_B), dtype=torch.float64)])

    @torch.no_grad()
    def step(self) -> None:
        """End a step of the discriminator, and after EVERY of them move p."""
        self.sums[3] += 1
        total, weight, images, steps = self.sums.tolist()
        if steps < self.EVERY:
            return
        if weight > 0:
            self.r.fill_(total / weight)
            self.p.add_(torch.sign(self.r - self.target) * images / self.speed).clamp_(0, 1)
        self.sums.zero_()


def jitter_colour(x_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    """Brightness +U(-0.5, 0.5), then saturation times U(0, 2), then contrast times U(0.5, 1.5)."""
    bright, saturation, contrast = torch.rand(3, len(x_BCHW), 1, 1, 1, generator=gen).to(x_BCHW.device)
    x_BCHW = x_BCHW + (bright - 0.5)
    grey_B1HW = x_BCHW.mean(dim=1, keepdim=True)
    x_BCHW = grey_B1HW + (x_BCHW - grey_B1HW) * (2 * saturation)
    mean_B111 = x_BCHW.mean(dim=(1, 2, 3), keepdim=True)
    out: Tensor = mean_B111 + (x_BCHW - mean_B111) * (0.5 + contrast)
    return out


def draw_shifts(num: int, reach: int, gen: torch.Generator) -> Tensor:
    """Shifts (down, right) in pixels, int64 [B, 2], uniform in -reach..reach."""
    return torch.randint(-reach, reach + 1, (num, 2), generator=gen)


def translate(x_BCHW: Tensor, shift_B2: Tensor) -> Tensor:
    """Move each image by (down, right) whole pixels; what comes in from outside is 0, mid-grey.

    Done as two products with 0/1 shift matrices: exact in fp32, and its backward is a product too, not a scatter.
    """
    size = x_BCHW.shape[-1]
    place = torch.arange(size)
    move_B2HH = (place[:, None] == place[None, :] + shift_B2[:, :, None, None]).to(x_BCHW)
    return move_B2HH[:, :1] @ x_BCHW @ move_B2HH[:, 1:].mT


def cut_out(x_BCHW: Tensor, share: float, gen: torch.Generator) -> Tensor:
    """Set a square of side share * H around a random pixel of each image to 0 (cut where it leaves the image)."""
    size = x_BCHW.shape[-1]
    side = int(share * size + 0.5)
    start_B2 = torch.randint(0, size + 1 - side % 2, (len(x_BCHW), 2), generator=gen) - side // 2
    offset_B2H = torch.arange(size) - start_B2[:, :, None]
    inside_B2H = (offset_B2H >= 0) & (offset_B2H < side)
    hole_BHW = inside_B2H[:, 0, :, None] & inside_B2H[:, 1, None, :]
    return x_BCHW.masked_fill(hole_BHW[:, None].to(x_BCHW.device), 0.0)


def real_images(images_BCHW: Tensor, spec: str, gen: torch.Generator) -> Tensor:
    """The uint8 images as the GAN sees them, float32 in [-1, 1], after the augmentation that its fakes are to show too."""
    if spec == "none":
        return to_signed(images_BCHW)
    return unit_to_signed(augment(to_unit(images_BCHW), spec, gen))
