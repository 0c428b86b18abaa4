"""Shapes of a net as KD losses need them, read off a dry run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cgankd.distill.base import ModelSpec

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def model_spec(
    net: nn.Module, image_shape: tuple[int, int, int], make: Callable[[float], nn.Module] | None = None
) -> ModelSpec:
    """The spec of a net with an `outputs` method, from two grey images [2, C, H, W]; its buffers and mode stay as they are.

    A stage's norm is the batch norm whose very output is the stage's map before the ReLU, else None.
    """
    seen: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((module, output))

    hooks = [m.register_forward_hook(keep) for m in net.modules() if isinstance(m, NORMS)]
    was_training = net.training
    net.eval()
    with torch.no_grad():
        out = net.outputs(torch.full((2, *image_shape), 0.5))  # type: ignore[operator]
    net.train(was_training)
    for hook in hooks:
        hook.remove()
    norms = tuple(next((m for m, made in seen if made is before), None) for before in out.preacts)
    stages = tuple((int(s.shape[1]), int(s.shape[2]), int(s.shape[3])) for s in out.stages)
    pooled_dim = 0 if out.pooled is None else int(out.pooled.shape[1])
    return ModelSpec(int(out.pred.shape[1]), pooled_dim, stages, net, make, norms)
