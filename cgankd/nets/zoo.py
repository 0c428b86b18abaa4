"""Predictors by name: a plain dict from the name in params.yaml to a constructor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from cgankd.nets.convnet import ConvNet, PlainVGG
from cgankd.types import Outputs


class Predictor(nn.Module):
    """A body that normalises its own input: images [B, C, H, W] in [0, 1] to outputs [B, O].

    Mean and sd of the training pixels travel with the weights, so a saved student needs no side file to be used.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, unit_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] to outputs [B, O]."""
        out_BO: Tensor = self.body((unit_BCHW - self.mean) / self.std)
        return out_BO

    def outputs(self, unit_BCHW: Tensor) -> Outputs:
        """Images in [0, 1] to outputs with the features that KD losses compare; `pred` equals `forward`."""
        out: Outputs = self.body.outputs((unit_BCHW - self.mean) / self.std)  # type: ignore[operator]
        return out


NETS: dict[str, Callable[..., nn.Module]] = {"convnet": ConvNet, "plain-vgg": PlainVGG}


def make_predictor(
    name: str,
    *,
    width: int,
    num_outputs: int,
    channels: int,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Predictor:
    """Build a predictor; weights are drawn from torch's global generator. Raises ValueError on an unknown name."""
    if name not in NETS:
        raise ValueError(f"net {name!r} is not known; choose one of {', '.join(sorted(NETS))}")
    return Predictor(NETS[name](num_outputs, channels, image_size, width), mean, std)
