"""Shapes of a net as KD losses need them, read off a dry run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cgankd.config.nets import NETS, SCALED_NETS
from cgankd.config.settings import nearest
from cgankd.distill.base import ModelSpec

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def model_spec(
    net: nn.Module,
    image_shape: tuple[int, int, int],
    make: Callable[[float], nn.Module] | None = None,
    named: Callable[[str, int | None], nn.Module] | None = None,
) -> ModelSpec:
    """The spec of a net with an `outputs` method, from two grey images [2, C, H, W]; its buffers and mode stay as they are.

    A stage's norm is the batch norm whose very output is the stage's map before the ReLU; where that map is a sum, the
    one that ends its longer branch (a residual block's last one, as OFD's authors have it); else None.
    """
    seen: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((module, output))

    hooks = [m.register_forward_hook(keep) for m in net.modules() if isinstance(m, NORMS)]
    was_training, image = net.training, torch.full((2, *image_shape), 0.5)
    net.eval()
    with torch.no_grad():
        out = net.outputs(image)  # type: ignore[operator]
    norms = tuple(next((m for m, made in seen if made is before), None) for before in out.preacts)
    if None in norms:
        seen.clear()
        with torch.enable_grad():  # The graph tells what a sum was made of.
            maps = net.outputs(image.requires_grad_()).preacts  # type: ignore[operator]
        norms = tuple(
            _last_norm(before, seen) if norm is None else norm for norm, before in zip(norms, maps, strict=True)
        )
    net.train(was_training)
    for hook in hooks:
        hook.remove()
    stages = tuple((int(s.shape[1]), int(s.shape[2]), int(s.shape[3])) for s in out.stages)
    pooled_dim = 0 if out.pooled is None else int(out.pooled.shape[1])
    return ModelSpec(int(out.pred.shape[1]), pooled_dim, stages, net, make, norms, named)


def _last_norm(sum_BCHW: Tensor, seen: list[tuple[nn.Module, Tensor]]) -> nn.Module | None:
    """The norm whose output is an operand of the sum, of several the one with most behind it."""
    added = [] if sum_BCHW.grad_fn is None else [fn for fn, _ in sum_BCHW.grad_fn.next_functions]
    found = [(m, y) for m, y in seen if y.grad_fn in added and y.shape == sum_BCHW.shape]
    return max(found, key=lambda pair: _num_behind(pair[1]))[0] if found else None


def _num_behind(x: Tensor) -> int:
    """Operations that made a tensor."""
    known, left = set(), [x.grad_fn]
    while left:
        fn = left.pop()
        if fn is not None and fn not in known:
            known.add(fn)
            left += [before for before, _ in fn.next_functions]
    return len(known)


def another_net(
    like: ModelSpec, role: str, option: str, factor: float, net: str | None, width: int | None
) -> nn.Module:
    """A fresh net with `factor` times the channels of `like`, or the one called `net` at this width where given.

    Raises ValueError naming `option`, where a name is to be set, if the channels of `like` are fixed; `role` says whose
    net `like` is.
    """
    if net is not None:
        assert like.named is not None, "built with a way to make nets by name"
        return like.named(net, width)
    if like.make is None:
        raise ValueError(
            f"{option} must name a net, as {role}.net has fixed channels and cannot be made {factor:g} times as wide"
        )
    return like.make(factor)


def check_named(option: str, net: str | None, width_option: str, width: int | None) -> None:
    """Raise ValueError unless the net of an option is known and the width of another goes with it."""
    if net is None:
        if width is not None:
            raise ValueError(f"{width_option} must be null where {option} is null, but is {width}")
        return
    if ":" not in net and net not in NETS:
        raise ValueError(f"{option} must be one of {', '.join(NETS)}, but is {net!r}{nearest(net, NETS)}")
    if net in SCALED_NETS and (width is None or width < 1):
        raise ValueError(f"{width_option} must be at least 1 for {net}, but is {width!r}")
    if net not in SCALED_NETS and width is not None:
        raise ValueError(f"{width_option} must be null for {net}, whose channels are fixed, but is {width}")
