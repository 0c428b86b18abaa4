"""Generator and discriminator: shapes, ranges, conditioning, and the formulas of their heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cgankd.nets.gans.discriminator import Discriminator
from cgankd.nets.gans.generator import ConditionalNorm, Generator, stage_widths
from cgankd.nets.gans.spectral import SpectralWeight
from cgankd.rng import generator, seed_all

Z, E = 6, 5


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spectral", [True, False])
def test_shapes_range_and_type(size: int, channels: int, spectral: bool) -> None:
    seed_all("shapes")
    net_g, net_d = Generator(Z, E, 4, channels, size, spectral=spectral), Discriminator(E, 4, channels, size)
    h_BE = torch.randn(3, E)
    for context in (torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)):
        with context:
            fake = net_g(torch.randn(3, Z), h_BE)
            score = net_d(fake, h_BE)
        assert fake.shape == (3, channels, size, size) and fake.dtype == torch.float32
        assert float(fake.detach().abs().max()) <= 1
        assert score.shape == (3,) and score.dtype == torch.float32


def test_widths_double_towards_4x4_up_to_four_times() -> None:
    assert stage_widths(8, 16) == [32, 16, 8]
    assert stage_widths(8, 32) == [32, 32, 16, 8]
    assert stage_widths(8, 128) == [32, 32, 32, 32, 16, 8]


def test_latent_and_label_each_change_the_image_and_the_label_the_score() -> None:
    seed_all("changes")
    net_g, net_d = Generator(Z, E, 4, 1, 16), Discriminator(E, 4, 1, 16)
    z_BZ, h_BE = torch.randn(4, Z), torch.randn(4, E)
    fake = net_g(z_BZ, h_BE)
    net_g.eval()
    fake = net_g(z_BZ, h_BE)
    assert float((net_g(z_BZ.flip(0), h_BE) - fake).detach().abs().mean()) > 1e-3
    assert float((net_g(z_BZ, h_BE.flip(0)) - fake).detach().abs().mean()) > 1e-3
    assert float((net_d(fake, h_BE.flip(0)) - net_d(fake, h_BE)).detach().abs().mean()) > 1e-3


def test_the_latent_reaches_every_norm() -> None:
    net_g = Generator(Z, E, 4, 1, 32)
    net_g(torch.randn(4, Z), torch.zeros(4, E)).square().sum().backward()
    norms = [m for m in net_g.modules() if isinstance(m, ConditionalNorm)]
    assert len(norms) == 6
    for norm in norms:
        assert float(norm.gain_shift.weight.grad[:, :Z].abs().max()) > 0


def test_conditional_norm_is_the_formula() -> None:
    seed_all("norm")
    norm = ConditionalNorm(3, 4, spectral=False)
    x, cond = torch.randn(5, 3, 4, 4), torch.randn(5, 4)
    a, w, c = x.double().numpy(), norm.gain_shift.weight.detach().double().numpy(), cond.double().numpy()
    normed = (a - a.mean((0, 2, 3), keepdims=True)) / np.sqrt(a.var((0, 2, 3), keepdims=True) + 1e-5)
    gain, shift = np.split(c @ w.T, 2, axis=1)
    expected = (1 + gain)[:, :, None, None] * normed + shift[:, :, None, None]
    np.testing.assert_allclose(norm(x, cond).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_score_is_linear_in_the_label_embedding() -> None:
    """D(x, a h1 + (1 - a) h2) = a D(x, h1) + (1 - a) D(x, h2), and D(x, 0) = psi(phi)."""
    seed_all("linear")
    net_d = Discriminator(E, 4, 3, 16).eval()
    x, h1, h2 = torch.randn(4, 3, 16, 16), torch.randn(4, E), torch.randn(4, E)
    torch.testing.assert_close(
        net_d(x, 0.3 * h1 + 0.7 * h2), 0.3 * net_d(x, h1) + 0.7 * net_d(x, h2), rtol=1e-4, atol=1e-5
    )
    phi_BF = torch.relu(net_d.blocks(net_d.stem(x))).sum((2, 3))
    torch.testing.assert_close(net_d(x, torch.zeros(4, E)), net_d.psi(phi_BF)[:, 0])


def test_spectral_norm_is_in_every_layer_of_both_nets() -> None:
    for net in (Generator(Z, E, 4, 1, 16), Discriminator(E, 4, 1, 16)):
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                assert isinstance(layer, SpectralWeight) and layer.spectral


def test_images_are_judged_one_by_one() -> None:
    net_d = Discriminator(E, 4, 1, 16).eval()
    x, h = torch.randn(4, 1, 16, 16, generator=generator("x")), torch.randn(4, E, generator=generator("h"))
    torch.testing.assert_close(net_d(x, h)[1:3], net_d(x[1:3], h[1:3]))
