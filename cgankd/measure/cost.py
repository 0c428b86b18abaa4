"""What a net costs where it runs: trained numbers, multiplications, and the most values of maps it holds at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

GATHERS = ("conv", "linear", "addmm", "mm", "bmm", "matmul", "pool", "mean", "sum", "cat", "upsample", "attention")
"""Parts of the names of operators whose result cannot take the place of what they read."""


@dataclass(frozen=True)
class Cost:
    """Trained numbers, multiplications for one image, and values of maps held at once while it is answered."""

    parameters: int
    multiplications: int
    values_held: int


def cost_of(net: nn.Module, image_1CHW: Tensor) -> Cost:
    """The cost of a net on one image [1, C, H, W] in [0, 1].

    Raises RuntimeError where torch.export finds no graph in the net.
    """
    numbers = sum(p.numel() for p in net.parameters())
    return Cost(numbers, multiplications(net, image_1CHW), values_held(net, image_1CHW))


@torch.no_grad()
def multiplications(net: nn.Module, image_1CHW: Tensor) -> int:
    """Multiplications of convolutions and matrix products on one image, as torch counts them (an addition with each)."""
    with FlopCounterMode(display=False) as counter:
        net.eval()(image_1CHW)
    return int(counter.get_total_flops()) // 2


def values_held(net: nn.Module, image_1CHW: Tensor) -> int:
    """The largest sum of the sizes of maps that are needed at one moment, the image among them.

    Normalisation, activations and sums of two maps count as done in place where their input is not needed again. It is
    a lower bound of what a runtime takes, whose kernels want room of their own.
    """
    graph = torch.export.export(net.eval(), (image_1CHW,)).graph
    steps = [node for node in graph.nodes if node.op in ("call_function", "output")]
    last_read = {read: now for now, step in enumerate(steps) for read in step.all_input_nodes}
    image = [node for node in graph.nodes if node.op == "placeholder"][-1]  # parameters and buffers come first
    home, since, until = {image: image}, {image: 0}, {image: last_read[image]}
    for now, node in enumerate(steps):
        reads = [home[read] for read in node.all_input_nodes if read in home]
        if node.op == "output" or not reads:
            continue
        apart = any(part in str(node.target) for part in GATHERS)
        free = [] if apart else [place for place in reads if until[place] <= now and _size(place) == _size(node)]
        place = home[node] = free[0] if free else node
        since.setdefault(place, now)
        until[place] = max(until.get(place, now), last_read.get(node, now))
    moments = range(len(steps))
    return max(sum(_size(place) for place in since if since[place] <= now <= until[place]) for now in moments)


def _size(node: fx.Node) -> int:
    value: Any = node.meta["val"]
    return prod(value.shape) if isinstance(value, Tensor) else 0
