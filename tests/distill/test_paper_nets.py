"""Every KD loss on teachers and students of the paper's experiments, at 64 px for numbers and 128 px for classes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cgankd.distill import make_distiller
from cgankd.distill.base import VIEWS, Batch, DataSpec
from cgankd.distill.methods import METHODS
from cgankd.distill.spec import model_spec
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from cgankd.rng import generator
from tests.distill.toys import outputs_of

REFUSED = {"takd": "must name a net", "ifm": "must name a net", "vam": "finds no module behind stage"}
"""Of nets with fixed channels two losses want another one by name; `vam` wants stages that modules end in."""


@pytest.mark.parametrize(
    ("student", "teacher", "size", "classes"),
    [("utkface:shufflenetv1", "utkface:resnet8", 64, 0), ("imagenet100:resnet8", "imagenet100:resnet14", 128, 3)],
)
def test_every_loss_runs(student: str, teacher: str, size: int, classes: int) -> None:
    shape = (3, size, size)

    def made(name: str) -> nn.Module:
        wanted = NetShape(classes or 1, *shape[:2])
        return make_predictor(name, wanted, width=None, mean=(0.5,) * 3, std=(0.25,) * 3).eval()

    torch.manual_seed(0)
    own, other = model_spec(made(student), shape), model_spec(made(teacher).requires_grad_(False), shape)
    labels = torch.arange(12) % 3 if classes else torch.linspace(0, 1, 12)
    data = DataSpec(12, classes, shape, labels, torch.arange(12) >= 6, None, 3, 4)
    images = torch.rand(4, *shape, generator=generator("paper nets"))
    views = {"plain": images, "weak": images, "strong": images.flip(3)}
    views["rot4"] = torch.cat([images.rot90(turn, (2, 3)) for turn in range(4)])
    index = torch.arange(4) * 3
    for name in METHODS:
        distiller = make_distiller(name)
        if not distiller.accepts(classes):
            continue
        if name in REFUSED:
            with pytest.raises(ValueError, match=REFUSED[name]):
                distiller.build(own, other, data)
            continue
        distiller.build(own, other, data)
        negatives = torch.randint(12, (4, distiller.num_negatives), generator=generator("negatives"))
        batch = Batch(views, labels[index], index, negatives, torch.arange(4) >= 2)
        x = torch.cat([views[view] for view in VIEWS if view in distiller.needs.views])
        if distiller.needs.input_grad:
            views["plain"] = x = x.clone().requires_grad_(True)
        losses = distiller.losses(*(outputs_of(spec, x, distiller) for spec in (own, other)), batch)
        assert losses and all(value.isfinite() and value.ndim == 0 for value in losses.values()), name
