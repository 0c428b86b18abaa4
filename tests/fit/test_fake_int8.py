"""Rounding as int8 does it, against torch's own fake quantisation and against whole numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cgankd.fit.fake_int8 import FakeInt8, fake_activation, fake_weight
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor


@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (4, 7)])
def test_weights_are_rounded_a_channel(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape) * torch.logspace(-2, 2, shape[0]).view(-1, *[1] * (len(shape) - 1))
    scale = weight.abs().flatten(1).amax(1) / 127
    zero = torch.zeros(shape[0], dtype=torch.int32)
    torch.testing.assert_close(
        fake_weight(weight), torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)
    )
    steps = fake_weight(weight) / scale.view(-1, *[1] * (len(shape) - 1))
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shift", [-3.0, 0.0, 2.0])
def test_activations_are_rounded_in_256_steps_with_an_exact_zero(shift: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(50) + shift
    x[0] = 0
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = (high - low) / 255
    expected = torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale) - 128, -128, 127)
    found = fake_activation(x)
    torch.testing.assert_close(found, expected)
    assert found[0] == 0 and len(found.unique()) > 30


def test_all_zeros_stay() -> None:
    assert not fake_activation(torch.zeros(3)).any() and not fake_weight(torch.zeros(2, 3)).any()


def test_gradients_pass_as_if_nothing_was_rounded() -> None:
    for function in (fake_weight, fake_activation):
        x = torch.randn(4, 6, requires_grad=True)
        factor = torch.randn(4, 6)
        (function(x) * factor).sum().backward()
        torch.testing.assert_close(x.grad, factor)


def net() -> nn.Module:
    torch.manual_seed(1)
    found = make_predictor("resnet8x4", NetShape(3, 3, 16), width=None, mean=(0.5,) * 3, std=(0.25,) * 3)
    with torch.no_grad():
        found(torch.rand(8, 3, 16, 16))
    return found


def test_parameters_are_the_nets_own_and_norms_keep_their_statistics() -> None:
    own = net()
    before = copy.deepcopy(own.state_dict())
    fake = FakeInt8(own).train()
    out = fake(torch.rand(8, 3, 16, 16))
    out.square().sum().backward()
    assert all(p.grad is not None for p in own.parameters())
    assert own.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())


def test_a_rounded_net_is_near_the_net_and_not_the_net() -> None:
    own, x = net().eval(), torch.rand(16, 3, 16, 16)
    with torch.no_grad():
        plain, rounded = own(x), FakeInt8(own).eval()(x)
        again = own(x)
    assert torch.equal(plain, again), "no hook is left behind"
    spread = float(plain.std())
    assert 0 < float((plain - rounded).abs().max()) < 0.5 * spread
    assert len(rounded.unique()) <= 256
