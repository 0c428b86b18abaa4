"""What a net costs: counts by arithmetic on its layers, and the maps held at once drawn by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cgankd.measure.cost import Cost, cost_of, values_held
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from tests.nets.predictors.layers import measured


def net(name: str, width: int | None) -> nn.Module:
    return make_predictor(name, NetShape(10, 3, 32), width=width, mean=[0.5] * 3, std=[0.2] * 3)


@pytest.mark.parametrize(
    ("name", "width", "held"),
    [
        ("convnet", 8, 3 * 32**2 + 8 * 16**2),  # the image and the first map
        ("convnet", 32, 2 * 32 * 16**2),  # the first two maps
        ("ds-cnn", 8, 3 * 32**2 + 8 * 16**2),
        ("tiny-mobilenet", 8, (8 + 16) * 16**2),  # before and after the block that widens
        ("resnet8", None, 3 * 16 * 32**2),  # a block's input waits for its end: input, inner map, result
    ],
)
def test_cost_of_a_net(name: str, width: int | None, held: int) -> None:
    made = net(name, width)
    assert cost_of(made, torch.zeros(1, 3, 32, 32)) == Cost(*measured(made, 32), held)


def test_a_net_in_training_is_measured_as_it_answers() -> None:
    made = net("convnet", 4).train()
    before = {key: value.clone() for key, value in made.state_dict().items()}
    cost_of(made, torch.zeros(1, 3, 32, 32))
    assert all(torch.equal(value, made.state_dict()[key]) for key, value in before.items())


class Late(nn.Module):
    """Needs its first map twice: the activation must not overwrite it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = self.first(x)
        made: torch.Tensor = self.second(kept.relu()) + kept
        return made


def test_a_map_that_is_needed_later_is_not_overwritten() -> None:
    """kept, its ReLU and the second map of 4 x 8 x 8 values at once; the sum goes in place of one of them."""
    assert values_held(Late(), torch.zeros(1, 1, 8, 8)) == 3 * 4 * 64
