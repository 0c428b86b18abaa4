"""Spectral norm against numpy's singular values, and what its state has to survive."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from cgankd.nets.gans.spectral import SNConv2d, SNLinear, fold_spectral
from cgankd.rng import seed_all


def layers() -> list[nn.Module]:
    seed_all("spectral")
    conv, wide, linear = SNConv2d(3, 8, 3), SNConv2d(8, 4, 3, stride=2), SNLinear(12, 5, bias=False)
    for layer in (conv, wide, linear):
        nn.init.normal_(layer.weight, std=3.0)
    wide.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return [conv, wide, linear]


def largest_singular(weight: torch.Tensor) -> float:
    return float(np.linalg.svd(weight.detach().numpy().reshape(len(weight), -1), compute_uv=False)[0])


def inputs(layer: nn.Module) -> torch.Tensor:
    return torch.randn(2, layer.in_channels, 8, 8) if isinstance(layer, SNConv2d) else torch.randn(2, 12)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_largest_singular_value_is_one(which: int) -> None:
    layer = layers()[which]
    for _ in range(60):
        layer(inputs(layer))
    assert largest_singular(layer.normed_weight()) == pytest.approx(1.0, abs=2e-3)
    scale = largest_singular(layer.weight)
    np.testing.assert_allclose(
        layer.normed_weight().detach().numpy() * scale, layer.weight.detach().numpy(), rtol=5e-3, atol=1e-4
    )


def test_a_layer_without_the_norm_is_plain() -> None:
    layer = SNLinear(4, 3, spectral=False)
    assert layer.normed_weight() is layer.weight and "u" not in layer.state_dict()


def test_the_vector_moves_in_training_only() -> None:
    layer = layers()[0]
    before = layer.u.clone()
    layer.eval()(inputs(layer))
    assert torch.equal(layer.u, before)
    layer.train()(inputs(layer))
    assert not torch.equal(layer.u, before)


def test_gradient_flows_through_sigma() -> None:
    """d/dW of <C, W / sigma> is C / sigma - <C, W> / sigma^2 * u v^T at the true singular vectors."""
    layer = layers()[2]
    for _ in range(100):
        layer(inputs(layer))
    layer.eval()
    weight = layer.weight.detach().double().numpy()
    left, values, right = np.linalg.svd(weight)
    cost = np.arange(weight.size, dtype=float).reshape(weight.shape)
    (torch.from_numpy(cost).float() * layer.normed_weight()).sum().backward()
    expected = cost / values[0] - (cost * weight).sum() / values[0] ** 2 * np.outer(left[:, 0], right[0])
    np.testing.assert_allclose(layer.weight.grad.numpy(), expected, rtol=1e-3, atol=1e-2)


def test_two_forwards_share_one_backward() -> None:
    layer = layers()[0]
    (layer(inputs(layer)).sum() + layer(inputs(layer)).sum()).backward()
    assert bool(layer.weight.grad.isfinite().all())


def test_deepcopy_and_state_dict_carry_the_vector() -> None:
    layer = layers()[1]
    layer(inputs(layer))
    x = inputs(layer)
    other = layers()[1]
    other.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), other):
        assert torch.equal(twin.eval()(x), layer.eval()(x))


def test_folding_changes_no_output() -> None:
    net = nn.Sequential(*layers()[:2])
    x = torch.randn(2, 3, 8, 8)
    net(x)
    folded = fold_spectral(copy.deepcopy(net))
    torch.testing.assert_close(folded.eval()(x), net.eval()(x))
    assert torch.equal(fold_spectral(copy.deepcopy(folded))(x), folded(x))


def test_the_norm_is_taken_in_fp32_under_autocast() -> None:
    layer = layers()[2].eval()
    exact = layer.normed_weight()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.normed_weight(), exact)
