"""Labels on a circle, such as angles: differences the short way round, points of the circle, and values taken back to the range.

The distance of two labels a and b on a circle of length P is d(a, b) = min over whole k of |a - b + k P|, at most P / 2.
A label y is the point (cos, sin) of the angle 2 pi y / P, in which the place of the seam says nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TAU = 2 * math.pi


def wrapped(difference: Tensor, period: float | None) -> Tensor:
    """A difference of labels on a circle of this length, in [-period / 2, period / 2]; unchanged on a line (None)."""
    if period is None:
        return difference
    return torch.remainder(difference + period / 2, period) - period / 2


def onto_range(label: Tensor, low: float, high: float, period: float | None) -> Tensor:
    """Labels in [low, high]: clipped on a line (period None), taken round a circle of this length to the nearest in it.

    Where the range is the whole circle, its two ends are one label, and that is `low`.
    """
    if period is None:
        return label.clamp(low, high)
    if is_whole(low, high, period):
        # A remainder may be rounded up to the period itself.
        inside = low + torch.remainder(label - low, period)
        return torch.where(inside < high, inside, low)
    middle = (low + high) / 2
    return (middle + wrapped(label - middle, period)).clamp(low, high)


def is_whole(low: float, high: float, period: float | None) -> bool:
    """Whether labels from low to high go all the way round a circle of this length."""
    return period is not None and math.isclose(high - low, period, rel_tol=1e-6)


def points(label_B: Tensor, period: float) -> Tensor:
    """(cos, sin) of 2 pi y / P for labels y [B] on a circle of length P, [B, 2]."""
    angle_B = label_B * (TAU / period)
    return torch.stack([angle_B.cos(), angle_B.sin()], dim=1)


def label_of(out_BO: Tensor, period: float | None) -> Tensor:
    """The label [B] in an output: its one number, or of a pair (cos, sin) [B, 2] the angle P / (2 pi) atan2(sin, cos).

    An angle lies in [-P / 2, P / 2], so that only its differences on the circle mean something.
    """
    if out_BO.shape[1] == 1:
        return out_BO[:, 0]
    assert period is not None and out_BO.shape[1] == 2, "a pair stands for a label on a circle"
    return torch.atan2(out_BO[:, 1], out_BO[:, 0]) * (period / TAU)


def chord(out_B2: Tensor, point_B2: Tensor, period: float) -> Tensor:
    """Distance [B] of answers from points of the circle, P / (2 pi) |(c, s) - (cos, sin)|, in units of the label.

    Near the circle it is the distance of the labels along it; its gradient stays finite at the centre, where atan2 has none.
    """
    # The root of a square has no gradient at zero: an exact answer gets that of a distance of 1e-6.
    return (period / TAU) * ((out_B2 - point_B2).square().sum(dim=1) + 1e-12).sqrt()


def is_label(out_BO: Tensor, period: float | None) -> bool:
    """Whether outputs answer with a scalar label: one number, or on a circle the pair (cos, sin); else they are class logits."""
    return out_BO.shape[1] == 1 or (period is not None and out_BO.shape[1] == 2)


def miss(out_BO: Tensor, label_B: Tensor, period: float | None) -> Tensor:
    """How far answers are from labels [B], to be minimised: |out - y| the short way round, or of a pair (cos, sin) the chord."""
    if out_BO.shape[1] == 1:
        return wrapped(out_BO[:, 0] - label_B, period).abs()
    assert period is not None and out_BO.shape[1] == 2, "a pair stands for a label on a circle"
    return chord(out_BO, points(label_B, period), period)


def spread(label_N: Tensor, period: float | None) -> float:
    """Standard deviation of labels; on a circle the smallest of those of the labels rolled out from any cut (Frechet).

    Turning the labels does not change it. With N - 1 in the denominator, as `Tensor.std` has it.
    """
    if period is None:
        return float(label_N.std())
    rolled_N = torch.remainder(label_N.double(), period).sort().values
    num, cut_N = len(rolled_N), torch.arange(len(rolled_N), dtype=torch.float64)
    # Rolled out from the k-th label on, the first k come one turn later.
    mean_N = (rolled_N.sum() + period * cut_N) / num
    before_N = torch.cat([rolled_N.new_zeros(1), rolled_N.cumsum(0)[:-1]])
    square_N = rolled_N.square().sum() + 2 * period * before_N + cut_N * period**2
    variance_N = (square_N / num - mean_N.square()).clamp(min=0)
    return math.sqrt(float(variance_N.min()) * num / (num - 1))
