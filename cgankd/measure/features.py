"""Features of images as a frozen predictor sees them: the input of its last linear layer.

Kept here and not in `nets`: a predictor needs nothing new for it, and stages that train are not run anew.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from cgankd.data.pixels import to_unit


class FeaturePass(Protocol):
    """uint8 images [B, C, H, W] to float32 features [B, F] and outputs [B, O]."""

    def __call__(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]: ...


def make_features(net: nn.Module, batch_size: int = 256) -> FeaturePass:
    """Features and outputs of a predictor in eval mode and float32, in one pass over un-augmented images.

    The features are what the last `nn.Linear` receives: the penultimate layer, flattened or pooled as the net has it.
    Raises ValueError where the net has no linear layer.
    """
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError("teacher.net has no linear layer, so it has no penultimate features to compare images by")

    @torch.no_grad()
    def features(images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        caught: list[Tensor] = []
        hook = linear[-1].register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0].flatten(1).float()))
        was_training = net.training
        net.eval()
        try:
            outputs = [net(to_unit(chunk)).float() for chunk in torch.split(images_BCHW, batch_size)]
        finally:
            hook.remove()
            net.train(was_training)
        return torch.cat(caught), torch.cat(outputs)

    return features
