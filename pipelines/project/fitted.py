"""Settings fitted to the user's own images: what `cgankd init` changes in the preset it starts from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from cgankd.config import ConfigError
from cgankd.data.turns import covered
from pipelines.project.own_data import OwnData

LARGEST_SIZE = 64
"""Larger images are reduced to this unless the user asks for more: a GAN of 128 pixels takes days on a processor."""
LEAST_SIZE = 16
WIDEST_VICINITY = 0.05
"""kappa as a share of the label range where the rule from the gaps would give more than the health check lets pass."""
MOST_VAL = 1000
"""Validation images of classes in all, unless that is less than 50 of each."""
VICINITY_SHARE, DROP_SHARE = 0.25, 0.15


def image_size(data: OwnData, wanted: int | None, fit: str | None = None, *, enlarge: bool = False) -> int:
    """A power of two near the median side, from 16 to 64; unless enlarging, no larger than the smallest image is once it
    is square (`fit`).

    Raises ConfigError where an image is smaller than 16 pixels or than the size wanted.
    """
    survey = data.survey
    size = wanted or 2 ** round(math.log2(max(survey.median_side, 1)))
    size = size if wanted else min(max(size, LEAST_SIZE), LARGEST_SIZE)
    smallest, least = survey.smallest(fit)
    if enlarge or least >= size:
        return size
    if wanted is None and least >= LEAST_SIZE:
        return int(2 ** math.floor(math.log2(least)))
    raise ConfigError(f"{smallest} is {least} pixels high or wide, less than {size}; remove it, or add --enlarge")


def fitted(data: OwnData, size: int, channels: int | None = None) -> dict[str, Any]:
    """Changes to the preset, by dotted name: sizes, splits, steps and widths, fakes, and for scalars the label's radii."""
    channels = channels or (1 if data.survey.grey else 3)
    values: dict[str, Any] = {"data.source": data.source, "data.image_size": size, "data.channels": channels}
    splits, num_train = _splits(data)
    groups = len(data.counts()) if not data.scalar else 1
    values |= splits
    values["bank.num_fakes"] = _nice(min(max(10 * num_train, 40 * groups, 1000), 10000))
    values["ratio.feature_width"] = min(512, channels * size * size)
    values |= _effort(data, size)
    values |= _labels(data, num_train) if data.scalar else {}
    if data.scalar is False and channels == 1:
        # Grey images are often writing or scans, which mean something else in a mirror.
        for key, text in {
            "teacher.augment": "affine",
            "ratio.feature_augment": "affine",
            "student.augment": "shift",
            "student.strong_augment": "affine",
        }.items():
            values[key] = text
    return values


def _splits(data: OwnData) -> tuple[dict[str, Any], int]:
    """A fifth for test, a fifth of the rest for validation, and how many train. Classes validate in proportion, with a floor
    for small ones, and at most MOST_VAL images or 50 a class in all; scalars with at most 500.
    """
    own = set(data.parts)
    share = None if "test" in own else 0.2
    if data.scalar:
        num_val = min(max(round(len(data.labels) * 0.16), 10), 500)
        return {"data.test_share": share, "data.num_val": num_val}, len(data.labels) - num_val - len(data.labels) // 5
    counts = data.counts()
    left = {name: count - (0 if share is None else max(1, round(share * count))) for name, count in counts.items()}
    total = sum(left.values())
    val = _round(min(0.2, max(MOST_VAL, 50 * len(left)) / max(total, 1)))
    taken = 0 if "val" in own else round(val * total)
    return {"data.test_share": share, "data.val_per_label": None, "data.val_share": val}, total - taken


def _effort(data: OwnData, size: int) -> dict[str, Any]:
    """Steps and widths: the presets are made for 32 pixels; 16 need less, and from 64 each step costs four times more."""
    if size <= 16:
        return {
            "teacher.num_steps": 2000 if data.scalar else 600,
            "cgan.num_steps": 800 if data.scalar else 1500,
            "cgan.width": 24,
            "student.num_steps": 1200 if data.scalar else 1000,
            "student.base_steps": 1200 if data.scalar else 1000,
            "student.width": 8,
        }
    if size >= 64:
        return {"cgan.width": 24, "cgan.batch_size": 32, "ratio.feature_channels": 16, "bank.batch_size": 250}
    return {}


def _labels(data: OwnData, num_train: int) -> dict[str, Any]:
    """Range, bins and radii in the label's own unit. Null is kept where CcGAN's rules give what the checks accept."""
    labels = np.array(data.numbers, dtype=np.float32).astype(np.float64)  # as the data set will hold them
    period = data.label_period
    low, high = label_range(float(labels[0]), float(labels[-1])) if period is None else covering(data)
    span = high - low
    if period is not None:
        labels = low + (labels - low) % period
    gaps = np.diff(np.unique(labels))
    if period is not None and math.isclose(span, period):
        gaps = np.append(gaps, labels.min() + period - labels.max())
    values: dict[str, Any] = {} if period is None else {"data.label_period": period}
    values |= {
        "data.label_min": low,
        "data.label_max": high,
        "bank.label_bin": _round(span / min(max(num_train // 25, 3), 18)),
        "bank.num_conditions": min(max(num_train, 50), 450),
    }
    rule = 2.0 * float(np.quantile(gaps, 0.95))  # the preset's multiplier and quantile
    if 2 * rule / span > VICINITY_SHARE:
        values["cgan.vicinity.kappa"] = _round(WIDEST_VICINITY * span)
    if 6 * float(gaps.max()) / span > DROP_SHARE:
        values["ratio.vicinity_drop"] = _round(DROP_SHARE * span)
    return values


def covering(data: OwnData) -> tuple[float, float]:
    """The stretch of their circle that labels which go round cover: a whole turn, or a part of it."""
    assert data.label_period is not None
    return covered(torch.tensor(data.numbers, dtype=torch.float32), data.label_period)


def label_range(low: float, high: float) -> tuple[float, float]:
    """Ends of a range rounded outwards to a thousandth or so of it, so that no label lies outside by a rounding error."""
    digits = 2 - math.floor(math.log10(high - low))
    unit = 10.0**-digits
    return round(math.floor(low / unit) * unit, max(digits, 0)), round(math.ceil(high / unit) * unit, max(digits, 0))


def _round(value: float) -> float:
    """Two significant digits."""
    return float(f"{value:.2g}")


def _nice(count: int) -> int:
    """A whole number of two significant digits."""
    return int(float(f"{count:.2g}"))
