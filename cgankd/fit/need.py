"""How much memory a training needs, counted on two images before it begins."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BASE_BYTES = {"cpu": 6.5e8, "cuda": 3e9}
"""A process that has imported torch and has done a first step; on a CUDA device its context lies in main memory too."""
STATES = 4
"""Copies of the weights: themselves, their gradients, and up to two running means of an optimiser."""
PASSING = 1.5
"""What forward and backward pass hold for a moment, as a share of what is kept between them."""


def step_bytes(net: nn.Module, unit_BCHW: Tensor, batch_size: int) -> float:
    """Bytes of a training step in full precision on a batch of so many images like these, with the weights and their states.

    Statistics of the net's norms move; give it a net of its own.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*net.parameters(), *net.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    # The graph is held until all is counted, as the place of a tensor that is gone is given to another.
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = net.train()(unit_BCHW)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in net.parameters())
    an_image = sum(kept.values()) / len(unit_BCHW)
    del out
    return STATES * weights + PASSING * batch_size * an_image


def worker_bytes(step: float, at_rest: float, device: str) -> float:
    """Bytes of main memory of a process that trains with steps of so many bytes and holds images of so many."""
    return BASE_BYTES[device] + at_rest + (step if device == "cpu" else 0.0)
