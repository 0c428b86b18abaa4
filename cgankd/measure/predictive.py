"""Means, spreads and paired intervals over seeds: what a claim about an arm rests on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Gain:
    """Paired gain of an arm over a rival, positive = better, with its interval; values are one a seed."""

    gain: float
    low: float
    high: float
    values: tuple[float, ...]

    @property
    def proved(self) -> bool:
        """The interval lies above zero."""
        return self.low > 0


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1)."""
    return float(np.mean(values)), float(np.std(values, ddof=1))


def mean_interval(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """Mean and the ends of its Student t interval, mean -+ t_(n-1) sd / sqrt(n)."""
    mean, sd = mean_sd(values)
    half = float(stdtrit(len(values) - 1, 0.5 + confidence / 2)) * sd / math.sqrt(len(values))
    return mean, mean - half, mean + half


def paired_gain(rival: Sequence[float], arm: Sequence[float], *, higher_is_better: bool, confidence: float) -> Gain:
    """Mean of the seed-by-seed differences and its Student t interval, mean +- t_(n-1) sd / sqrt(n)."""
    assert len(rival) == len(arm) >= 2, "pairs need the same seeds, at least two"
    sign = 1.0 if higher_is_better else -1.0
    difference = sign * (np.asarray(arm, dtype=np.float64) - np.asarray(rival, dtype=np.float64))
    mean, low, high = mean_interval(difference.tolist(), confidence)
    return Gain(mean, low, high, tuple(difference.tolist()))


def unpaired_gain(rival: Sequence[float], arm: Sequence[float], *, higher_is_better: bool, confidence: float) -> Gain:
    """Difference of two means and its interval where values do not pair up (Welch's t with Satterthwaite's degrees).

    `values` is empty, as there are no seed-by-seed differences.
    """
    assert min(len(rival), len(arm)) >= 2, "a spread needs at least two seeds"
    sign = 1.0 if higher_is_better else -1.0
    parts = [np.asarray(values, dtype=np.float64) for values in (rival, arm)]
    errors = [float(part.var(ddof=1)) / len(part) for part in parts]
    mean = sign * float(parts[1].mean() - parts[0].mean())
    total = sum(errors)
    if total == 0.0:
        return Gain(mean, mean, mean, ())
    freedom = total**2 / sum(error**2 / (len(part) - 1) for error, part in zip(errors, parts, strict=True))
    half = float(stdtrit(freedom, 0.5 + confidence / 2)) * math.sqrt(total)
    return Gain(mean, mean - half, mean + half, ())
