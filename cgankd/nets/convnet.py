"""Small convolutional predictors for images of 16 to 64 px: a tiny student and a plain VGG-style teacher."""

from __future__ import annotations

from torch import Tensor, nn


def conv_block(c_in: int, c_out: int, stride: int = 1) -> list[nn.Module]:
    """3x3 convolution, batch norm, ReLU."""
    return [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]


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

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalised images to outputs [B, O]."""
        out_BO: Tensor = self.body(x_BCHW)
        return out_BO
