"""Features of images as a frozen predictor sees them: the pooled input of its last linear layer.

Kept here and not in `nets`: a predictor needs nothing new for it, and stages that train are not run anew.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from cgankd.data.batches import chunks
from cgankd.data.pixels import to_unit
from cgankd.types import Images


class FeaturePass(Protocol):
    """uint8 images [B, C, H, W] to float32 features [B, F] and outputs [B, O]."""

    def __call__(self, images_BCHW: Images) -> tuple[Tensor, Tensor]: ...


def make_features(net: nn.Module, batch_size: int = 256) -> FeaturePass:
    """Features and outputs of a predictor in eval mode and float32, in one pass over un-augmented images.

    The features are what the last `nn.Linear` receives. Where that is a flattened map [B, C, H, W] the map is averaged
    over its places, as Inception's is: C features in place of C * H * W. Of several members they are the heaviest's.
    Raises ValueError where the net has no linear layer.
    """
    shown = getattr(net, "shown", net)  # of a teacher with members the one whose features it shows
    linear = [module for module in shown.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(
            "the teacher has no linear layer, or is a program that shows none, so it has no features to compare images by"
        )

    @torch.no_grad()
    def features(images_BCHW: Images) -> tuple[Tensor, Tensor]:
        maps: list[tuple[Tensor, Tensor]] = []
        caught: list[Tensor] = []

        def at_flatten(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            maps.append((inputs[0], output))

        def at_linear(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            map_, flat = maps[-1] if maps else (None, None)
            pooled = map_.mean((2, 3)) if map_ is not None and flat is inputs[0] and map_.ndim == 4 else inputs[0]
            caught.append(pooled.flatten(1).float())
            maps.clear()

        hooks = [m.register_forward_hook(at_flatten) for m in shown.modules() if isinstance(m, nn.Flatten)]
        hooks.append(linear[-1].register_forward_pre_hook(at_linear))
        was_training = net.training
        net.eval()
        try:
            outputs = [net(to_unit(chunk)).float() for chunk in chunks(images_BCHW, batch_size)]
        finally:
            for hook in hooks:
                hook.remove()
            net.train(was_training)
        return torch.cat(caught), torch.cat(outputs)

    return features
