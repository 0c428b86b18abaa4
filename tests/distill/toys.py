"""Two small nets, their specs and a mixed batch, on which every KD loss can be built and taken."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from cgankd.distill.base import VIEWS, Batch, DataSpec, Distiller, ModelSpec
from cgankd.distill.engine import wants_features
from cgankd.distill.spec import model_spec
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from cgankd.rng import generator
from cgankd.types import Outputs

ROWS = 24
SHAPE = (1, 16, 16)


def net(name: str, num_outputs: int, width: int = 4) -> nn.Module:
    return make_predictor(name, NetShape(num_outputs, 1, 16), width=width, mean=(0.5,), std=(0.25,))


@dataclass
class Pair:
    """Student and teacher with their specs, and the training set they share."""

    student: ModelSpec
    teacher: ModelSpec
    data: DataSpec

    def batch(self, distiller: Distiller, num: int = 6, constant: bool = False) -> tuple[Batch, torch.Tensor]:
        """A batch whose second half is fake, and the input of both nets."""
        gen = generator("toy batch", num)
        image = torch.rand(num, *SHAPE, generator=gen)
        if constant:
            image = torch.full_like(image, 0.5)
        views = {"plain": image, "weak": image, "strong": image.flip(3)}
        views["rot4"] = torch.cat([image.rot90(turn, (2, 3)) for turn in range(4)])
        index = torch.arange(num) * (ROWS // num)
        assert self.data.labels is not None
        negatives = torch.randint(ROWS, (num, distiller.num_negatives), generator=gen)
        batch = Batch(views, self.data.labels[index], index, negatives, torch.arange(num) >= num / 2)
        inputs = torch.cat([views[name] for name in VIEWS if name in distiller.needs.views])
        if distiller.needs.input_grad:
            views["plain"] = inputs = inputs.requires_grad_(True)
        return batch, inputs


def pair(scalar: bool, num_outputs: int | None = None) -> Pair:
    """A student and a wider teacher on random weights, both in eval mode, the teacher frozen."""
    torch.manual_seed(3)
    num = num_outputs or (1 if scalar else 3)
    student, teacher = net("convnet", num).eval(), net("convnet", num, 8).eval().requires_grad_(False)
    labels = torch.linspace(0, 1, ROWS) if scalar else torch.arange(ROWS) % 3
    data = DataSpec(ROWS, 0 if scalar else 3, SHAPE, labels, torch.arange(ROWS) >= ROWS / 2, None, 3, 6)

    def again(factor: float) -> nn.Module:
        return net("convnet", num, max(1, round(8 * factor)))

    made = model_spec(student, SHAPE, lambda f: net("convnet", num, max(1, round(4 * f))))
    return Pair(made, model_spec(teacher, SHAPE, again), data)


def outputs_of(spec: ModelSpec, x: torch.Tensor, distiller: Distiller) -> Outputs:
    """What the engine would hand over."""
    assert spec.net is not None
    if wants_features(distiller.needs):
        out: Outputs = spec.net.outputs(x)  # type: ignore[operator]
        return out
    return Outputs(spec.net(x))


def with_pred(outputs: Outputs, pred: torch.Tensor) -> Outputs:
    return replace(outputs, pred=pred)
