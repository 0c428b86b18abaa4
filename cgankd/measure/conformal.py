"""Split-conformal margins: how far off the answers of a frozen model may be, from held-out images."""

from __future__ import annotations

import math

from torch import Tensor

from cgankd.labels.answers import Margin


def images_needed(level: float) -> int:
    """The fewest held-out images from which `conformal_margin` gives a margin of this level."""
    assert 0 < level < 1, level
    num = max(1, math.floor(level / (1 - level)) - 1)
    while math.ceil((num + 1) * level - 1e-9) > num:
        num += 1
    return num


def conformal_margin(miss_N: Tensor, level: float) -> Margin | None:
    """The ceil((N + 1) level)-th smallest of N misses (Vovk et al.; Lei et al., arXiv 1604.04173, section 2.2).

    A new image, exchangeable with the N held-out ones, misses by no more with a probability of at least `level`,
    whatever the model. None where N is too small for the level: (N + 1) level > N.
    """
    assert 0 < level < 1, level
    num = len(miss_N)
    rank = math.ceil((num + 1) * level - 1e-9)  # 1e-9: 0.9 * 10 is 9.000000000000002 in some orders of rounding
    if rank > num:
        return None
    return Margin(level, float(miss_N.sort().values[rank - 1]), num)
