"""VGG with batch norm (Simonyan and Zisserman, arXiv 1409.1556) and one linear layer, as in the KD literature."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.nets.predictors.staged import Staged, start_weights

WIDTHS = (64, 128, 256, 512, 512)


class VGG(Staged):
    """Five stages of 3x3 convolutions with bias, `counts` of them in each, in 64, 128, 256, 512 and 512 channels.

    Max pooling halves the map before each stage but the first, as long as it is higher than 4: at 32 px the stages are
    32, 16, 8, 4 and 4 high, as Tian et al. (arXiv 1910.10699) have them; from 64 px on each is half the one before.
    """

    def __init__(self, num_outputs: int, channels: int, image_size: int, *, counts: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        c_in = channels
        for width, count in zip(WIDTHS, counts, strict=True):
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [nn.Conv2d(c_in, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
                c_in = width
            self.blocks.append(nn.Sequential(*layers[:-1]))
        self.head = nn.Linear(c_in, num_outputs)
        start_weights(self)

    def walk(self, x_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """Each stage before its last ReLU, and the last one after it."""
        preacts: list[Tensor] = []
        for block in self.blocks:
            if preacts and x_BCHW.shape[2] > 4:
                x_BCHW = F.max_pool2d(x_BCHW, 2)
            preacts.append(block(x_BCHW))
            x_BCHW = F.relu(preacts[-1])
        return preacts, x_BCHW
