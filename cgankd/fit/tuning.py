"""Which weights of a net a training moves: all of them, its last layer, or the last layer and the norm layers' affine maps."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from torch import nn

Tune = Literal["all", "head", "norms"]


def head_name(net: nn.Module) -> str:
    """Name of the last linear layer of a net, or of its last convolution where it has no linear one."""
    layers: list[tuple[str, nn.Module]] = list(net.named_modules())
    linear = [name for name, module in layers if isinstance(module, nn.Linear)]
    return (linear or [name for name, module in layers if isinstance(module, nn.Conv2d)])[-1]


def head_parameters(net: nn.Module) -> list[nn.Parameter]:
    """Weight and bias of the last layer."""
    return list(net.get_submodule(head_name(net)).parameters())


def norm_layers(net: nn.Module) -> dict[str, nn.Module]:
    """The norm layers by their name, torch's and those of libraries, which all have it in that of their class."""
    return {name: module for name, module in net.named_modules() if "norm" in type(module).__name__.lower()}


def norm_parameters(net: nn.Module) -> list[nn.Parameter]:
    """Scale and shift of every norm layer."""
    return [p for module in norm_layers(net).values() for p in module.parameters(recurse=False) if p.ndim == 1]


def freeze(net: nn.Module, tune: Tune) -> list[nn.Parameter]:
    """Take the gradient of all that `tune` does not move; the parameters that it was taken of."""
    if tune == "all":
        return []
    moving = {id(p) for p in head_parameters(net) + (norm_parameters(net) if tune == "norms" else [])}
    frozen = [p for p in net.parameters() if p.requires_grad and id(p) not in moving]
    for p in frozen:
        p.requires_grad_(False)
    return frozen


def stuck(net: nn.Module, fresh: Collection[str], tune: Tune) -> list[str]:
    """Those of the tensors named `fresh` that a training by `tune` would leave as they were drawn.

    Norm layers take statistics from what passes wherever they move. Whole numbers are indices and counts, never drawn.
    """
    if tune == "all":
        return []
    moving = {head_name(net)} | (set(norm_layers(net)) if tune == "norms" else set())
    state = net.state_dict()
    return [key for key in fresh if state[key].is_floating_point() and key.rpartition(".")[0] not in moving]


def set_training(net: nn.Module, tune: Tune) -> None:
    """Training mode; with tune head of the last layer alone, so that batch norms keep to the statistics they have."""
    net.train(tune != "head")
    if tune == "head":
        net.get_submodule(head_name(net)).train()


def head_rates(net: nn.Module, rate: float) -> list[tuple[nn.Parameter, float]]:
    """The last layer's parameters with their multiple of the learning rate; none where it is that of the others."""
    return [] if rate == 1.0 else [(p, rate) for p in head_parameters(net)]
