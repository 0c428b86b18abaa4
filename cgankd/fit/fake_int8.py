"""A net that is trained as int8 will compute it: rounded in the forward pass, with gradients as if it were not.

Straight-through estimator (Bengio et al., arXiv 1308.3432) in the scheme of TFLite (Jacob et al., arXiv 1712.05877): weights
in [-127, 127] with a scale a channel, activations in 256 steps between the ends of their range, which holds zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

LAYERS = (nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def fake_weight(weight: Tensor) -> Tensor:
    """Weights [O, ...] rounded to int8 and back, a scale for each output channel."""
    most_O = weight.detach().abs().flatten(1).amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    scale = (most_O / 127).view(-1, *[1] * (weight.ndim - 1))
    return weight + ((weight / scale).round().clamp(-127, 127) * scale - weight).detach()


def fake_activation(x: Tensor) -> Tensor:
    """Values rounded to 256 steps between their smallest and largest one, zero among them, and back."""
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).tiny)
    point = (-low / scale).round()
    rounded = ((x / scale).round() + point).clamp(0, 255) - point
    return x + (rounded * scale - x).detach()


class FakeInt8(nn.Module):
    """A predictor whose weights, whose layers' inputs and whose outputs are rounded; its parameters are the predictor's own.

    Batch norms keep their statistics: a converter folds them into the layer before, and a factor a channel commutes with the
    rounding of weights.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.layers = [name for name, module in net.named_modules() if isinstance(module, LAYERS)]

    def train(self, mode: bool = True) -> FakeInt8:
        """Training mode of all but batch norms."""
        super().train(mode)
        for module in self.net.modules():
            if isinstance(module, NORMS):
                module.eval()
        return self

    def forward(self, unit_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] to outputs [B, O]."""
        rounded = {f"{name}.weight": fake_weight(self.net.get_submodule(name).weight) for name in self.layers}  # type: ignore[arg-type]
        hooks = [
            self.net.get_submodule(name).register_forward_pre_hook(
                lambda _, args: (fake_activation(args[0]), *args[1:])
            )
            for name in self.layers
        ]
        try:
            out_BO: Tensor = functional_call(self.net, rounded, (unit_BCHW,))
        finally:
            for hook in hooks:
                hook.remove()
        return fake_activation(out_BO)
