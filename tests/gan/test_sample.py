"""Sampling: uint8 of the right shape, reproducible, blind to the batch size, and leaving the generator as it was."""

from __future__ import annotations

import copy

import pytest
import torch

from cgankd.data.pixels import signed_to_u8
from cgankd.gan.sample import make_draw
from cgankd.nets.gans.generator import Generator
from cgankd.nets.gans.label_embed import ClassEmbed
from cgankd.rng import generator, seed_all

LABELS = torch.arange(3).repeat(7)


def nets() -> tuple[Generator, ClassEmbed]:
    seed_all("sample")
    net, embed = Generator(6, 5, 4, 3, 16), ClassEmbed(3, 5)
    net(torch.randn(16, 6), embed(LABELS[:16]))
    return net, embed


def test_images_are_what_the_generator_makes_in_evaluation_mode() -> None:
    net, embed = nets()
    images = make_draw(net, embed, z_dim=6, precision="fp32")(LABELS, generator("z"))
    with torch.no_grad():
        expected = signed_to_u8(net.eval()(torch.randn(21, 6, generator=generator("z")), embed(LABELS)))
    assert images.dtype == torch.uint8 and images.shape == (21, 3, 16, 16)
    assert int((images.int() - expected.int()).abs().max()) <= 1


@pytest.mark.parametrize("batch_size", [1, 4, 21, 100])
def test_the_batch_size_changes_no_image(batch_size: int) -> None:
    net, embed = nets()
    whole = make_draw(net, embed, z_dim=6, precision="fp32")(LABELS, generator("z"))
    pieces = make_draw(net, embed, z_dim=6, precision="fp32", batch_size=batch_size)(LABELS, generator("z"))
    # Sums in another order may round a pixel the other way.
    assert int((whole.int() - pieces.int()).abs().max()) <= 1


def test_same_generator_same_images_other_generator_others() -> None:
    draw = make_draw(*nets(), z_dim=6, precision="auto")
    assert torch.equal(draw(LABELS, generator(1)), draw(LABELS, generator(1)))
    assert not torch.equal(draw(LABELS, generator(1)), draw(LABELS, generator(2)))


def test_the_generator_is_left_as_it_was_and_later_training_does_not_leak_in() -> None:
    net, embed = nets()
    before = copy.deepcopy(net.state_dict())
    draw = make_draw(net, embed, z_dim=6, precision="fp32")
    images = draw(LABELS, generator("z"))
    assert net.training and all(p.requires_grad for p in net.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    with torch.no_grad():
        net.start.weight.mul_(-1)
        embed.table.weight.zero_()
    assert torch.equal(draw(LABELS, generator("z")), images)


def test_the_images_may_be_trained_on() -> None:
    images = make_draw(*nets(), z_dim=6, precision="fp32")(LABELS, generator("z"))
    assert not images.is_inference()
