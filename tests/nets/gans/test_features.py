"""Fixed features: never trained, mixed by fixed weights, standardised once; the heads on them condition by projection."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional as F

from cgankd.nets.gans.features import MIXED, FeatureHeads, pooled
from cgankd.rng import generator
from tests.gan.guided import toy_features

IMAGES = torch.rand(12, 3, 16, 16, generator=generator("images")) * 2 - 1


def test_the_mixing_written_out() -> None:
    """1x1 convolutions across channels, then from coarse to fine 3x3 convolutions of the sum with what is below."""
    net = toy_features()
    fine, coarse = net.maps(IMAGES)
    x = ((IMAGES + 1) / 2 - 0.4) / 0.3
    torch.testing.assert_close(fine, net.stages[0](x))
    torch.testing.assert_close(coarse, net.stages[1](net.stages[0](x)))
    across = [F.conv2d(a, m.weight) for a, m in zip((fine, coarse), net.across, strict=True)]
    low = F.conv2d(across[1], net.down[1].weight, padding=1)
    up = F.interpolate(low, (8, 8), mode="bilinear", align_corners=False)
    high = F.conv2d(across[0] + up, net.down[0].weight, padding=1)
    found = net(IMAGES)
    torch.testing.assert_close(found[0], high)
    torch.testing.assert_close(found[1], low)
    assert [tuple(m.shape[1:]) for m in found] == [(MIXED, 8, 8), (MIXED, 4, 4)] and net.sides == [8, 4]


def test_calibrated_maps_have_mean_zero_and_sd_one_in_every_channel() -> None:
    net = toy_features()
    net.calibrate(IMAGES)
    for x_BCHW in net(IMAGES):
        torch.testing.assert_close(x_BCHW.mean((0, 2, 3)), torch.zeros(MIXED), atol=1e-4, rtol=0)
        torch.testing.assert_close(x_BCHW.std((0, 2, 3), correction=0), torch.ones(MIXED), atol=1e-3, rtol=0)


def test_nothing_of_it_is_trained_and_a_gradient_passes_to_the_images() -> None:
    net = toy_features()
    net.calibrate(IMAGES)
    before = copy.deepcopy(net.state_dict())
    x_BCHW = IMAGES.clone().requires_grad_(True)
    sum(m.square().sum() for m in net(x_BCHW)).backward()
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert x_BCHW.grad is not None and float(x_BCHW.grad.abs().sum()) > 0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_net_is_in_full_precision_and_the_generator_alone_decides_the_mixing() -> None:
    net = toy_features()
    with torch.autocast("cpu", torch.bfloat16):
        found = net.maps(IMAGES)
    for one, other in zip(found, net.maps(IMAGES), strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)
    assert torch.equal(net.across[0].weight, toy_features().across[0].weight)
    assert not torch.equal(net.across[0].weight, toy_features("other").across[0].weight)


def test_grey_images_are_seen_as_three_equal_channels_and_others_sizes_resized() -> None:
    net, grey = toy_features(), IMAGES[:, :1]
    for one, other in zip(net(grey), net(grey.expand(-1, 3, -1, -1)), strict=True):
        assert torch.equal(one, other)
    flat = net(torch.full((2, 3, 40, 40), 0.25))
    for one, other in zip(flat, net(torch.full((2, 3, 16, 16), 0.25)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_head_judges_by_projection() -> None:
    """psi(phi) + <V h, phi> with spectrally normed psi and V, for each map."""
    torch.manual_seed(3)
    heads = FeatureHeads(5, [8, 4]).eval()
    maps = [torch.randn(4, MIXED, 8, 8), torch.randn(4, MIXED, 4, 4)]
    h_BE = torch.randn(4, 5)
    score_KB = heads(maps, h_BE)
    assert score_KB.shape == (2, 4)
    for score_B, head, x_BCHW in zip(score_KB, heads.heads, maps, strict=True):
        phi = head.blocks(x_BCHW)
        assert phi.shape[-1] == 4
        phi = phi.sum((2, 3))
        psi, project = head.psi, head.project
        wanted = phi @ psi.normed_weight()[0] + psi.bias + ((h_BE @ project.normed_weight().T) * phi).sum(1)
        torch.testing.assert_close(score_B, wanted)


def test_pooled_features_are_means_over_places() -> None:
    maps = [torch.randn(2, MIXED, 8, 8), torch.randn(2, MIXED, 4, 4)]
    torch.testing.assert_close(pooled(maps), torch.cat([m.mean((2, 3)) for m in maps], dim=1))
