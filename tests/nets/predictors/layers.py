"""Numbers and operations of nets by arithmetic on their layers, written down anew and not read off the modules."""

from __future__ import annotations

import torch
from torch import nn


class Count:
    """Adds up the trainable numbers and the multiplications of one image, layer by layer; `size` is the map's height."""

    def __init__(self, size: int) -> None:
        self.size, self.numbers, self.macs = size, 0, 0

    def conv(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, norm: bool = True) -> int:
        """A convolution, by default without bias and with batch norm after it; returns its channels."""
        self.size //= stride
        weights = c_in // groups * c_out * kernel**2
        self.numbers += weights + (2 * c_out if norm else 0)
        self.macs += weights * self.size**2
        return c_out

    def beside(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        """A convolution with batch norm on the input of the block that ended at the present height."""
        self.size *= stride
        self.conv(c_in, c_out, kernel, stride, groups)

    def norm(self, channels: int) -> None:
        self.numbers += 2 * channels

    def fc(self, c_in: int, c_out: int, norm: bool = False) -> int:
        self.numbers += c_in * c_out + c_out + (2 * c_out if norm else 0)
        self.macs += c_in * c_out
        return c_out

    def end(self, features: int, outputs: int, hidden: int | None, norm: bool = True) -> tuple[int, int]:
        """Two hidden layers, or none, and the last one; returns numbers and multiplications of the whole net."""
        if hidden is not None:
            features = self.fc(self.fc(features, hidden, norm), hidden, norm)
        self.fc(features, outputs)
        return self.numbers, self.macs


def measured(net: nn.Module, size: int) -> tuple[int, int]:
    """Numbers with a gradient of a net, and the multiplications of its convolutions and linear layers on one image."""
    macs = 0

    def add(module: nn.Module, inputs: object, out: torch.Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            macs += module.weight[0].numel() * out[0].numel()
        elif isinstance(module, nn.Linear):
            macs += module.weight.numel()

    hooks = [module.register_forward_hook(add) for module in net.modules()]
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, size, size, device=next(net.parameters()).device))
    for hook in hooks:
        hook.remove()
    return sum(p.numel() for p in net.parameters()), macs


def resnet(net: str, count: Count, stem: tuple[int, int, bool], first: int) -> int:
    """A residual net; `stem` is kernel, stride, pool, and `first` the stride of the first stage. Returns its features."""
    deep = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
    wide, depth = net.endswith("x4"), int(net.removeprefix("resnet").removesuffix("x4"))
    blocks = deep.get(net, ((depth - 2) // 6,) * 3)
    widths = [64 * 2**k for k in range(4)] if net in deep else [(64 if wide else 16) * 2**k for k in range(3)]
    c = count.conv(3, 64 if net in deep else 32 if wide else 16, stem[0], stem[1])
    count.size //= 2 if stem[2] else 1
    for stage, (num, width) in enumerate(zip(blocks, widths, strict=True)):
        for number in range(num):
            stride = (2 if stage else first) if number == 0 else 1
            if net == "resnet50":
                out = 4 * width
                count.conv(count.conv(count.conv(c, width, 1), width, 3, stride), out, 1)
            else:
                out = width
                count.conv(count.conv(c, out, 3, stride), out, 3)
            if stride > 1 or c != out:
                count.beside(c, out, 1, stride)
            c = out
    return c


def wrn(net: str, count: Count, stem: tuple[int, int, bool]) -> int:
    """A wide residual net whose stem has batch norm; norms stand before convolutions. Returns its features."""
    depth, factor = map(int, net.removeprefix("wrn").split("-"))
    c = count.conv(3, 16, stem[0], stem[1])
    count.size //= 2 if stem[2] else 1
    for stage in range(3):
        for number in range((depth - 4) // 6):
            out, stride = 16 * factor * 2**stage, 2 if stage and number == 0 else 1
            count.norm(c)
            count.conv(c, out, 3, stride)  # its norm is the second one of the block
            count.conv(out, out, 3, norm=False)
            if c != out:
                count.beside(c, out, 1, stride)
                count.numbers -= 2 * out
            c = out
    count.norm(c)
    return c


def vgg(net: str, count: Count, pools: tuple[int, ...]) -> int:
    """A VGG whose convolutions have biases, with a pool after each stage. Returns its features, flattened."""
    per_stage = {"vgg8": 11111, "vgg11": 11222, "vgg13": 22222, "vgg16": 22333, "vgg19": 22444}[net]
    c = 3
    for num, width, pool in zip(map(int, str(per_stage)), (64, 128, 256, 512, 512), pools, strict=True):
        for _ in range(num):
            c = count.conv(c, width, 3)
            count.numbers += width
        count.size //= pool
    return c * count.size**2


def densenet(net: str, count: Count, stem: tuple[int, int, bool] | None, extra_pool: bool) -> int:
    """A DenseNet; without a stem of its own a bare 3x3 convolution. Returns its features."""
    blocks = {"121": (6, 12, 24, 16), "161": (6, 12, 36, 24), "169": (6, 12, 32, 32), "201": (6, 12, 48, 32)}[net[-3:]]
    growth = 48 if net == "densenet161" else 32
    kernel, stride, pool = stem or (3, 1, False)
    c = count.conv(3, 2 * growth, kernel, stride, norm=stem is not None)
    count.size //= 2 if pool else 1
    for stage, num in enumerate(blocks):
        for _ in range(num):
            count.norm(c)
            count.conv(count.conv(c, 4 * growth, 1), growth, 3, norm=False)
            c += growth
        count.norm(c)
        if stage < 3:
            c = count.conv(c, c // 2, 1, norm=False)
            count.size //= 4 if stage == 0 and extra_pool else 2
    return c


def mobilenetv2(count: Count, stem: int, strides: tuple[int, ...], factor: float, plain: bool, shortcut: bool) -> int:
    """MobileNetV2; `plain`: nothing expands the first block, `shortcut`: a 1x1 one where channels change. 1280 features."""
    blocks = zip((1, 6, 6, 6, 6, 6, 6), (16, 24, 32, 64, 96, 160, 320), (1, 2, 3, 4, 3, 3, 1), strides, strict=True)
    c = count.conv(3, int(32 * factor), 3, stem)
    for expansion, width, num, first in blocks:
        for number in range(num):
            out, stride = int(width * factor), first if number == 0 else 1
            inner = c * expansion
            if expansion > 1 or not plain:
                count.conv(c, inner, 1)
            count.conv(count.conv(inner, inner, 3, stride, inner), out, 1)
            if shortcut and stride == 1 and c != out:
                count.conv(c, out, 1)
            c = out
    return count.conv(c, 1280, 1)


def shufflenetv1(count: Count, stem: tuple[int, int, bool]) -> int:
    """ShuffleNetV1 of three groups; a strided unit keeps its input as channels of its own. 960 features."""
    c = count.conv(3, 24, stem[0], stem[1])
    count.size //= 2 if stem[2] else 1
    for out, num in ((240, 4), (480, 8), (960, 4)):
        for number in range(num):
            made = out - c if number == 0 else out
            inner = count.conv(c, made // 4, 1, groups=1 if c == 24 else 3)
            count.conv(count.conv(inner, inner, 3, 2 if number == 0 else 1, inner), made, 1, groups=3)
            c = out
    return c


def shufflenetv2(count: Count, stem: tuple[int, int, bool]) -> int:
    """ShuffleNetV2 of size 1; half of the channels pass, and a strided unit works on both halves. 1024 features."""
    c = count.conv(3, 24, stem[0], stem[1])
    count.size //= 2 if stem[2] else 1
    for out, num in ((116, 4), (232, 8), (464, 4)):
        half = out // 2
        for number in range(num):
            stride = 2 if number == 0 else 1
            count.conv(count.conv(count.conv(c if number == 0 else half, half, 1), half, 3, stride, half), half, 1)
            if number == 0:
                count.beside(c, c, 3, 2, c)
                count.conv(c, half, 1)
        c = out
    return count.conv(c, 1024, 1)


def efficientnet(count: Count, stem: int, last: bool) -> int:
    """EfficientNet-B0; the gate of a block sees one value a channel. 1280 features, or 320 without the last convolution."""
    blocks = zip(
        (1, 6, 6, 6, 6, 6, 6),
        (16, 24, 40, 80, 112, 192, 320),
        (1, 2, 2, 3, 3, 4, 1),
        (1, 2, 2, 2, 1, 2, 1),
        (3, 3, 5, 3, 5, 5, 3),
        strict=True,
    )
    c = count.conv(3, 32, 3, stem)
    for expansion, out, num, first, kernel in blocks:
        for number in range(num):
            inner = count.conv(c, c * expansion, 1) if expansion > 1 else c
            count.conv(inner, inner, kernel, first if number == 0 else 1, inner)
            count.fc(count.fc(inner, c // 4), inner)
            count.conv(inner, out, 1)
            c = out
    return count.conv(c, 1280, 1) if last else c
