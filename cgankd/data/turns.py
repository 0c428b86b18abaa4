"""Scalar labels that go round: which stretch of the circle they cover, and labels of other turns brought back to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from cgankd.config import DataConfig
from cgankd.types import Split

EMPTY_SHARE, EMPTY_TIMES = 0.1, 3.0
"""Labels cover a part of the circle where they leave a gap of this share of it, so many times the next largest gap."""


def brought(label_N: Tensor, low: float, period: float) -> Tensor:
    """Labels [N] in [low, low + period), float32; those that lie there keep their bits."""
    exact_N = label_N.double()
    turned_N = (low + torch.remainder(exact_N - low, period)).float()
    # Rounding may reach the end of the turn, which is its beginning.
    turned_N = torch.where(turned_N < low + period, turned_N, low)
    inside_N = (exact_N >= low) & (exact_N < low + period)
    return torch.where(inside_N, label_N.float(), turned_N)


def covered(label_N: Tensor, period: float, low: float | None = None, high: float | None = None) -> tuple[float, float]:
    """Ends of the stretch of a circle that labels cover: a whole turn, or where they leave a wide gap, the part without it.

    An end that is given stays, and the other one is a turn away. A whole turn begins at 0, or at -period / 2 where labels
    lie on both sides of 0 within half a turn; a part may begin before 0 so that no seam lies in it.
    """
    if low is not None or high is not None:
        first = low if low is not None else float(high or 0.0) - period
        return first, high if high is not None else first + period
    label_N = label_N.double()
    start = -period / 2 if float(label_N.min()) < 0 and float(label_N.abs().max()) <= period / 2 else 0.0
    place_D = torch.unique(torch.remainder(label_N - start, period))
    gap_D = torch.cat([place_D[1:], place_D[:1] + period]) - place_D
    widest = int(gap_D.argmax())
    others = torch.cat([gap_D[:widest], gap_D[widest + 1 :]])
    gap, other = float(gap_D[widest]), float(others.max()) if len(others) else 0.0
    if gap < EMPTY_SHARE * period or gap < EMPTY_TIMES * other:
        return start, start + period
    last = start + float(place_D[widest])
    first = start + float(place_D[(widest + 1) % len(place_D)])
    first = first if first <= last else first - period
    # Outwards, so that no label lies outside by a rounding error.
    digits = 3 - math.floor(math.log10(period))
    return _rounded(first, digits, math.floor), _rounded(last, digits, math.ceil)


def _rounded(value: float, digits: int, way: Callable[[float], int]) -> float:
    return round(way(value * 10.0**digits) / 10.0**digits, max(digits, 0))


def on_one_turn(cfg: DataConfig, splits: Mapping[str, Split]) -> tuple[DataConfig, dict[str, Split], list[str]]:
    """Settings with the label range filled in, the splits with labels on one turn of it, and what was done, in words.

    Nothing changes without `data.label_period`.
    """
    period = cfg.label_period
    if period is None:
        return cfg, dict(splits), []
    low, high = covered(splits["train"].labels, period, cfg.label_min, cfg.label_max)
    moved = {name: Split(split.images, brought(split.labels, low, period)) for name, split in splits.items()}
    before, after = (torch.cat([split.labels for split in parts.values()]) for parts in (splits, moved))
    part = f", and labels cover it up to {high:g}" if high - low < period * (1 - 1e-6) else ""
    said = [f"labels go round in {period:g}; a turn begins at {low:g}{part}"]
    rows = (before != after).nonzero()[:, 0]
    if len(rows):
        first = f"{before[rows[0]]:g} is now {after[rows[0]]:g}"
        said.append(f"{len(rows)} labels of other turns brought to this one, such as {first} (data.label_period)")
    return replace(cfg, label_min=low, label_max=high), moved, said
