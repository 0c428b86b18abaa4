"""Nets of torchvision and timm, by `torchvision:NAME` and `timm:NAME`, for larger images and for their trained weights.

timm is an extra and is imported here alone. torchvision, which takes two seconds, is imported where one of its nets is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cgankd.config.settings import nearest
from cgankd.nets.predictors.shape import NetShape
from cgankd.types import Outputs


class External(nn.Module):
    """A net written elsewhere, with the features that hooks catch.

    The stages are the last map at each height on the trunk, which is the net's modules and theirs: the outputs of
    `layer1` to `layer4`, or of the parts of `features`. Maps of one pixel are left out, and where the channels come
    last they are moved. A map made by a ReLU comes with its preact; any other is the preact itself, and its ReLU the
    stage. Tokens of a transformer are no map, so that a ViT shows its patches alone.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        for module in net.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]  # in place, a ReLU would overwrite its preact

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalised images to outputs [B, O]."""
        out_BO: Tensor = self.net(x_BCHW)
        return out_BO

    def outputs(self, x_BCHW: Tensor) -> Outputs:
        """Normalised images to outputs with features; no head where the last layer is not linear."""
        seen = Seen()
        linear = [module for module in self.net.modules() if isinstance(module, nn.Linear)]
        hooks = [module.register_forward_hook(seen.relu) for module in self.net.modules() if type(module) is nn.ReLU]
        hooks += [
            m.register_forward_hook(seen.map) for name, m in self.net.named_modules() if name and name.count(".") < 2
        ]
        hooks += [module.register_forward_hook(seen.linear) for module in linear[-1:]]
        try:
            out_BO: Tensor = self.net(x_BCHW)
        finally:
            for hook in hooks:
                hook.remove()
        preacts = tuple(before for before, _ in seen.maps.values())
        stages = tuple(after for _, after in seen.maps.values())
        if seen.last is not None and seen.last[1] is out_BO and seen.last[0].ndim == 2:
            return Outputs(out_BO, seen.last[0], stages, preacts, linear[-1])
        return Outputs(out_BO, None, stages, preacts, None)


class Seen:
    """What hooks caught in one pass: maps by height, from fine to coarse, and the input and output of the last layer."""

    def __init__(self) -> None:
        self.maps: dict[int, tuple[Tensor, Tensor]] = {}
        self.last: tuple[Tensor, Tensor] | None = None
        self.active: tuple[Tensor, Tensor] | None = None

    def relu(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Remember the latest ReLU alone: a stage that ends in one has just called it."""
        self.active = inputs[0], output

    def linear(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Remember what the last linear layer was given."""
        self.last = inputs[0], output

    def map(self, module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        """Keep a map that is no higher than the one before: a pool to a fixed size may enlarge it."""
        if not isinstance(output, Tensor) or output.ndim != 4:
            return
        before, after = output, None
        if self.active is not None and self.active[1] is output:
            before, after = self.active
        if output.shape[2] != output.shape[3]:
            if output.shape[1] != output.shape[2]:
                return
            before, after = before.permute(0, 3, 1, 2), None if after is None else after.permute(0, 3, 1, 2)
        height = before.shape[2]
        if height > 1 and height <= min(self.maps, default=height):
            self.maps[height] = before, before.relu() if after is None else after


def make_external(name: str, shape: NetShape, *, pretrained: bool = False) -> External:
    """A net of a library by its prefixed name, fresh, or with the library's weights (downloaded) in all but its head.

    Raises ValueError on an unknown name, on a missing package, on a download that fails, and on a net that
    cannot take images of this size.
    """
    library, _, short = name.partition(":")
    make = {"torchvision": torchvision_net, "timm": timm_net}[library]
    try:
        net = make(short, shape, pretrained)
    except OSError as error:
        raise ValueError(
            f"the weights of {name} could not be downloaded ({one_line(error)}); check the connection, or set"
            " teacher.pretrained to false and weights to null, package:NAME or a file"
        ) from error
    body = External(net).eval()
    try:
        with torch.no_grad():
            given = body(torch.zeros(1, shape.channels, shape.image_size, shape.image_size)).shape
    except Exception as error:  # each net has its own way to fail on an image too small for it
        raise ValueError(f"net {name} cannot take images of {shape.image_size} px ({one_line(error)})") from error
    if given != (1, shape.num_outputs):
        outputs = f"{tuple(given[1:])} outputs instead of {shape.num_outputs}"
        raise ValueError(f"net {name} gives {outputs}; choose another net")
    body.train()
    return body


def library_pixels(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and sd a colour channel that the library's weights of a net were trained with; None where it does not say."""
    library, _, short = name.partition(":")
    if library == "timm":
        import timm

        known = timm.models.get_pretrained_cfg(short, allow_unregistered=True)
        return None if known is None else (tuple(known.mean), tuple(known.std))
    import torchvision

    if short not in torchvision.models.list_models(module=torchvision.models):
        return None
    preset = torchvision.models.get_model_weights(short).DEFAULT.transforms()
    return tuple(map(float, preset.mean)), tuple(map(float, preset.std))


def left_fresh(name: str, num_outputs: int, head: str) -> tuple[str, ...]:
    """The layers of a net that the library's weights do not fill, `head` being its last one.

    In torchvision always that one; in timm none where it has as many outputs, and else all classifiers.
    """
    library, _, short = name.partition(":")
    if library == "timm":
        import timm

        known = timm.models.get_pretrained_cfg(short, allow_unregistered=True)
        if known is not None and known.num_classes == num_outputs:
            return ()
    return classifiers(name, head)


def classifiers(name: str, head: str) -> tuple[str, ...]:
    """The layers of a net that are as large as its outputs are many: `head`, its last one, and all that timm calls classifiers.

    Those are two in distilled nets.
    """
    library, _, short = name.partition(":")
    if library != "timm":
        return (head,)
    import timm

    named = getattr(timm.models.get_pretrained_cfg(short, allow_unregistered=True), "classifier", None) or ()
    layers = (named,) if isinstance(named, str) else tuple(named)
    return tuple(dict.fromkeys((head, *(f"net.{layer}" for layer in layers))))


def one_line(error: Exception) -> str:
    """The first line of an error's text, or its kind."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def built(make: Callable[[], nn.Module], name: str, image_size: int) -> nn.Module:
    """What `make` makes. Raises ValueError where the library refuses the image size."""
    try:
        return make()
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"net {name} cannot be built for images of {image_size} px ({one_line(error)})") from error


def torchvision_net(name: str, shape: NetShape, pretrained: bool) -> nn.Module:
    """A classifier of torchvision.models with this many outputs and input channels. Raises ValueError."""
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}{nearest(name, known)}")
    options: dict[str, Any] = {"num_classes": shape.num_outputs}
    image_size, channels = shape.image_size, shape.channels
    if name.startswith("vit_"):
        options["image_size"] = image_size
    if name == "maxvit_t":
        options["input_size"] = (image_size, image_size)
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    net = built(lambda: torchvision.models.get_model(name, weights=None, **options), f"torchvision:{name}", image_size)
    where, first = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    if channels != first.in_channels:
        parent, _, leaf = where.rpartition(".")
        setattr(net.get_submodule(parent), leaf, with_channels(first, channels))
    if pretrained:
        weights = torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True)
        take_weights(net, weights, f"{where}.weight", f"torchvision:{name}")
    return net


def with_channels(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """A fresh convolution like this one with another number of input channels."""
    return nn.Conv2d(
        channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )


def take_weights(net: nn.Module, weights: dict[str, Tensor], first: str, name: str) -> None:
    """Copy trained weights into a net, but for the last linear or convolutional layer, which stays fresh.

    A first convolution of one channel gets the sum over the colours, which is its answer to a grey image in colour.
    Raises ValueError where anything else does not fit.
    """
    own = net.state_dict()
    layers = [n for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    fresh = {f"{layers[-1]}.weight", f"{layers[-1]}.bias"}
    given = {key: value for key, value in weights.items() if key in own and key not in fresh}
    if given[first].shape[1] != own[first].shape[1]:
        given[first] = given[first].sum(dim=1, keepdim=True)
    wrong = [key for key in own if key not in fresh and (key not in given or given[key].shape != own[key].shape)]
    if wrong:
        raise ValueError(
            f"the trained weights of {name} do not fit this image size (first in {wrong[0]}); set weights to"
            " null (teacher.pretrained to false) or choose another net"
        )
    net.load_state_dict(given, strict=False)


def timm_net(name: str, shape: NetShape, pretrained: bool) -> nn.Module:
    """A net of timm with this many outputs and input channels. Raises ValueError."""
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"net timm:{name} needs the package timm; run pip install 'cgankd[timm]'") from error
    if not timm.is_model(name):
        raise ValueError(f"timm has no net {name!r}{nearest(name, timm.list_models())}")
    options: dict[str, Any] = {"num_classes": shape.num_outputs, "in_chans": shape.channels}
    options["pretrained"] = pretrained
    defaults = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if defaults is not None and defaults.fixed_input_size:
        options["img_size"] = shape.image_size
    net: nn.Module = built(lambda: timm.create_model(name, **options), f"timm:{name}", shape.image_size)
    return net
