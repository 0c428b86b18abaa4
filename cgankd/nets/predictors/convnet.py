"""Small convolutional predictors for images of 16 to 64 px: a tiny student and a plain VGG-style teacher."""

from __future__ import annotations

from torch import Tensor, nn

from cgankd.types import Outputs


def conv_block(c_in: int, c_out: int, stride: int = 1) -> list[nn.Module]:
    """3x3 convolution, batch norm, ReLU."""
    return [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]


def run_stages(body: nn.Sequential, x_BCHW: Tensor, sizes: tuple[int, ...]) -> Outputs:
    """Run a sequence of layers that ends in a linear one, keeping the last map at each of these heights."""
    stages: dict[int, Tensor] = {}
    preacts: dict[int, Tensor] = {}
    before = x_BCHW
    for layer in list(body)[:-1]:
        before, x_BCHW = x_BCHW, layer(x_BCHW)
        if x_BCHW.ndim == 4 and isinstance(layer, nn.ReLU) and x_BCHW.shape[2] in sizes:
            stages[x_BCHW.shape[2]], preacts[x_BCHW.shape[2]] = x_BCHW, before
    head = body[-1]
    out_BO: Tensor = head(x_BCHW)
    return Outputs(out_BO, x_BCHW, tuple(stages.values()), tuple(preacts.values()), head)


def halvings(image_size: int) -> tuple[int, ...]:
    """Heights of the stages: half the image, a quarter, ... down to 4."""
    return tuple(image_size >> k for k in range(1, (image_size // 4).bit_length()))


class ConvNet(nn.Module):
    """The student: strided convolutions w, w, 2w, 2w, 4w down to 4x4, flattened into one linear layer.

    At 16 px the channels are w, w, 2w. The first layer already halves the resolution: a stage at full resolution
    costs four times as much as all the others together.
    """

    def __init__(self, num_outputs: int, channels: int, image_size: int, width: int) -> None:
        super().__init__()
        layers = conv_block(channels, width, 2)
        size, c = image_size // 2, width
        while size > 4:
            layers += conv_block(c, c) + conv_block(c, 2 * c, 2)
            size, c = size // 2, 2 * c
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(c * size * size, num_outputs))
        self.sizes = halvings(image_size)

    def outputs(self, x_BCHW: Tensor) -> Outputs:
        """Normalised images to outputs with features: one stage for each halving of the resolution."""
        return run_stages(self.body, x_BCHW, self.sizes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalised images to outputs [B, O]."""
        out_BO: Tensor = self.body(x_BCHW)
        return out_BO


class PlainVGG(nn.Module):
    """The teacher: two convolutions a stage (w, 2w, 4w), the second strided, then a hidden layer of 4w units."""

    def __init__(self, num_outputs: int, channels: int, image_size: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        size, c_in, c = image_size, channels, width
        while size > 4:
            layers += conv_block(c_in, c) + conv_block(c, c, 2)
            size, c_in, c = size // 2, c, min(2 * c, 4 * width)
        hidden = 4 * width
        head = [nn.Flatten(), nn.Linear(c_in * size * size, hidden), nn.BatchNorm1d(hidden), nn.ReLU()]
        self.body = nn.Sequential(*layers, *head, nn.Linear(hidden, num_outputs))
        self.sizes = halvings(image_size)

    def outputs(self, x_BCHW: Tensor) -> Outputs:
        """Normalised images to outputs with features: one stage for each halving; pooled is the hidden layer."""
        return run_stages(self.body, x_BCHW, self.sizes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalised images to outputs [B, O]."""
        out_BO: Tensor = self.body(x_BCHW)
        return out_BO
