"""Images that are there already, such as unlabelled ones, in the place of a generator while their density ratio is fitted."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cgankd.types import Draw, Images


def stock_draw(images_NCHW: Images, label_N: Tensor, radius: float, period: float | None = None) -> Draw:
    """draw(label_B, gen): for each label an image drawn uniformly of those whose label is within +-radius, raw units; where there
    is none the one with the nearest label. Classes have radius 0; labels may go round in `period`.

    The same image may come again.
    """
    assert len(images_NCHW) == len(label_N) > 0, "one label an image"
    values = label_N.double().numpy()
    rows = np.arange(len(values))
    if period is not None:  # a turn more on both sides
        values = np.concatenate([values - period, values, values + period])
        rows = np.tile(rows, 3)
    order = np.argsort(values, kind="stable")
    values, rows = values[order], rows[order]

    def draw(label_B: Tensor, gen: torch.Generator) -> Tensor:
        asked = label_B.double().numpy()
        low, high = np.searchsorted(values, asked - radius, "left"), np.searchsorted(values, asked + radius, "right")
        # Where nothing is within reach, the neighbour on the nearer side.
        left, right = np.clip(low - 1, 0, None), np.clip(low, None, len(values) - 1)
        nearer = np.where(np.abs(values[left] - asked) <= np.abs(values[right] - asked), left, right)
        low, high = np.where(low == high, nearer, low), np.where(low == high, nearer + 1, high)
        share = torch.rand(len(label_B), generator=gen, dtype=torch.float64).numpy()
        place = np.minimum(low + (share * (high - low)).astype(np.int64), high - 1)
        return images_NCHW[torch.from_numpy(rows[place])]

    return draw
