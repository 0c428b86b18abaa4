"""Several predictors as one net: outputs, features of the heaviest, the spread as one more column, export."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cgankd.labels.ensemble import ClassMean
from cgankd.nets.predictors.ensemble import Ensemble, Spreading
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor


def members() -> list[nn.Module]:
    torch.manual_seed(5)
    wide = make_predictor("plain-vgg", NetShape(4, 1, 16), width=8, mean=(0.4,), std=(0.3,))
    small = make_predictor("convnet", NetShape(4, 1, 16), width=4, mean=(0.5,), std=(0.2,))
    for net in (wide, small):
        net(torch.rand(16, 1, 16, 16))
        net.eval().requires_grad_(False)
    return [wide, small]


@pytest.mark.parametrize("weights", [[0.3, 0.7], [0.7, 0.3]])
def test_outputs_are_the_mean_and_features_those_of_the_heaviest(weights: list[float]) -> None:
    nets, x = members(), torch.rand(6, 1, 16, 16)
    ensemble = Ensemble(nets, weights, ClassMean()).eval()
    expected = sum(w * net(x).softmax(1) for w, net in zip(weights, nets, strict=True))
    assert torch.allclose(ensemble(x).softmax(1), expected, atol=1e-6)
    out, heavy = ensemble.outputs(x), nets[weights.index(max(weights))]
    assert ensemble.shown is heavy and torch.equal(out.pred, ensemble(x))
    shown = heavy.outputs(x)  # type: ignore[operator]
    assert torch.equal(out.pooled, shown.pooled) and len(out.stages) == len(shown.stages)
    assert all(torch.equal(a, b) for a, b in zip(out.stages, shown.stages, strict=True))
    both = Spreading(ensemble)(x)
    assert torch.equal(both[:, :-1], ensemble(x))
    assert torch.equal(both[:, -1], ClassMean().spread(torch.stack([net(x) for net in nets]), torch.tensor(weights)))


def test_of_equally_heavy_members_the_first_is_shown() -> None:
    nets = members()
    assert Ensemble(nets, [0.5, 0.5], ClassMean()).shown is nets[0]
    assert not [
        name for name in Ensemble(nets, [0.5, 0.5], ClassMean()).state_dict() if not name.startswith("members.")
    ]


@pytest.mark.parametrize("weights", [[0.3, 0.7], [0.7, 0.3]])
def test_a_member_in_full_precision_leaves_autocast(weights: list[float]) -> None:
    nets, x = members(), torch.rand(6, 1, 16, 16)
    ensemble = Ensemble(nets, weights, ClassMean(), full=[1]).eval()
    with torch.autocast("cpu", torch.bfloat16):
        half = nets[0](x).float()
        found = ensemble.each(x)
        out = ensemble.outputs(x)
        assert torch.equal(out.pred, ensemble(x)) and torch.is_autocast_enabled("cpu")
    assert torch.equal(found[1], nets[1](x)) and torch.equal(found[0], half)
    assert not torch.equal(half, nets[0](x))
    assert torch.equal(out.pred, ClassMean().combine(torch.stack([half, nets[1](x)]), torch.tensor(weights)))


def test_it_can_be_exported_with_a_free_batch() -> None:
    ensemble = Ensemble(members(), [0.4, 0.6], ClassMean()).eval()
    x = torch.rand(3, 1, 16, 16)
    program = torch.export.export(ensemble, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert torch.allclose(program.module()(torch.cat([x, x])), ensemble(torch.cat([x, x])), atol=1e-5)
