"""Small students for the tests of files for devices."""

from __future__ import annotations

from dataclasses import replace

import torch

from cgankd.export import ShippedModel
from cgankd.labels.answers import make_answer
from cgankd.nets.predictors.shape import NetShape
from cgankd.nets.predictors.zoo import make_predictor
from cgankd.rng import generator
from cgankd.types import DatasetInfo, Split
from pipelines.device.forms import Source

CLASSES = DatasetInfo("class", "test", "", 3, 16, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), ("ant", 'b"ee', "\u00fcber"))
SCALAR = DatasetInfo("scalar", "test", "mm", 1, 16, (0.5,), (0.25,), label_min=2.0, label_max=12.0)
CIRCLE = replace(
    SCALAR, label_min=0.0, label_max=360.0, label_period=360.0, label_answer="circle", label_unit="degrees"
)
INFOS = {"classes": CLASSES, "scalar": SCALAR, "circle": CIRCLE}


def source_of(info: DatasetInfo, net: str = "convnet", width: int | None = 4) -> Source:
    """A random student whose batch norms have seen images, and whose outputs spread."""
    torch.manual_seed(3)
    answer = make_answer(info)
    shape = NetShape(answer.num_outputs, info.channels, info.image_size)
    body = make_predictor(net, shape, width=width, mean=info.pixel_mean, std=info.pixel_std)
    body.train()
    with torch.no_grad():
        for _ in range(20):
            body(images_of(info, 32).float() / 255)
    last = [module for module in body.modules() if isinstance(module, torch.nn.Linear)][-1]
    last.weight.data *= 4
    return Source(ShippedModel(body.eval(), answer).eval().requires_grad_(False), info, "0" * 64, net)


def images_of(info: DatasetInfo, num: int) -> torch.Tensor:
    """Images with smooth parts, as photographs have."""
    size = (num, info.channels, 4, 4)
    small = torch.rand(size, generator=generator("device", num)) * 255
    shape = (info.image_size, info.image_size)
    return torch.nn.functional.interpolate(small, shape, mode="bilinear").round().to(torch.uint8)


def split_of(info: DatasetInfo, num: int = 40) -> Split:
    """Images with labels that have nothing to do with them."""
    labels = torch.arange(num) % 3 if info.class_names else torch.linspace(info.label_min, info.label_max - 1, num)
    return Split(images_of(info, num), labels)
