"""Every operation of RandAugment beside torchvision's, one image at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandAugment
from torchvision.transforms import autoaugment as reference

from cgankd.data.randaugment import MAGNITUDE, OPS, rand_augment
from cgankd.rng import generator

LEVELS = ("Posterize", "Equalize")
"""torchvision has these for uint8 alone."""
NEAREST = ("ShearX", "ShearY", "Rotate")


def images(num: int, channels: int, size: int = 32) -> Tensor:
    """Smooth images on the 256 levels, of differing brightness, as [0, 1] floats."""
    gen = generator("randaugment images", num, channels, size)
    coarse = torch.rand(num, channels, 8, 8, generator=gen)
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return (fine * (0.4 + 0.6 * torch.rand(num, 1, 1, 1, generator=gen)) * 255).round() / 255


def expected(x_CHW: Tensor, name: str, sign: float) -> Tensor:
    magnitudes, signed = RandAugment()._augmentation_space(31, (x_CHW.shape[1], x_CHW.shape[2]))[name]
    magnitude = float(magnitudes[MAGNITUDE]) if magnitudes.ndim else 0.0
    magnitude *= sign if signed else 1.0
    given = (x_CHW * 255).round().to(torch.uint8) if name in LEVELS else x_CHW
    if name == "Solarize":
        magnitude /= 255.0  # torchvision's threshold is in the unit of the pixels
    out = reference._apply_op(given, name, magnitude, InterpolationMode.NEAREST, None)
    return out.float() / 255 if name in LEVELS else out


def test_the_operations_are_those_of_torchvision() -> None:
    assert list(OPS) == list(RandAugment()._augmentation_space(31, (32, 32)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(OPS))
def test_each_operation_gives_torchvisions_image(name: str, channels: int) -> None:
    x = images(12, channels)
    sign = torch.tensor([1.0, -1.0]).repeat(6)
    out = OPS[name](x, sign)
    wanted = torch.stack([expected(image, name, float(s)) for image, s in zip(x, sign, strict=True)])
    if name in NEAREST:
        # A pixel half-way between two may go either way by rounding.
        assert float((out != wanted).float().mean()) < 0.01
    else:
        torch.testing.assert_close(out, wanted, atol=1e-5, rtol=0)
    assert name == "Identity" or (name, channels) == ("Color", 1) or not torch.equal(out, x)


@pytest.mark.parametrize("name", ["AutoContrast", "Equalize"])
def test_a_flat_image_stays(name: str) -> None:
    flat = torch.full((2, 3, 16, 16), 80 / 255)
    torch.testing.assert_close(OPS[name](flat, torch.ones(2)), flat)


def test_each_image_gets_two_operations_of_its_own_from_the_generator_alone() -> None:
    x = images(1, 3).expand(400, -1, -1, -1).contiguous()
    torch.manual_seed(0)
    out = rand_augment(x, generator(1))
    torch.manual_seed(1)
    assert torch.equal(out, rand_augment(x, generator(1)))
    assert not torch.equal(out, rand_augment(x, generator(2)))
    kinds = {image.numpy().tobytes() for image in out}
    # Of 14 * 14 pairs, some with two directions, about this many differ among 400 draws.
    assert 100 < len(kinds) < 330
    unchanged = int((out == x).flatten(1).all(1).sum())
    assert unchanged < 20  # two times Identity is 1 in 196


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    x = images(16, 3)
    other = x.clone()
    other[1:] = 0.5
    assert torch.equal(rand_augment(x, generator(3))[0], rand_augment(other, generator(3))[0])
