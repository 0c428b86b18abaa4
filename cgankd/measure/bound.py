"""The measurable ingredients of the error bound of cGAN-KD, as a diagnostic: it certifies nothing.

With a loss in [0, B], M = M^r + M^g samples and theta = M^r / M, the excess risk of the student is at most
4 Rad_M(l o F) + 2 B sqrt(ln(2 / delta) / (2 M)) + 2 (1 - theta) B TV(p_real(x, y), p_bank(x, y)) with chance 1 - delta.

Two ingredients are left out because they cannot be measured: the Rademacher complexity is a supremum over every
student F could be (training one network on random signs bounds it from neither side), and the total variation distance
itself is known for no pair of image sets; what a classifier of the images alone proves is a lower bound of it, so the
last term is given as "at least". The teacher's error against the true labels of fakes is unknown too, since fakes have
none: the error against the label asked for, and the error on validation images, stand on either side of it. Fakes are
drawn from a generator that saw the real training images, so even the terms given hold for independent samples only.
"""

from __future__ import annotations

import math


def deviation(num_samples: int, loss_bound: float = 1.0, delta: float = 0.05) -> float:
    """2 B sqrt(ln(2 / delta) / (2 M)): what M samples leave to chance, in units of the loss bound B."""
    return 2 * loss_bound * math.sqrt(math.log(2 / delta) / (2 * num_samples))


def mismatch(theta: float, total_variation: float, loss_bound: float = 1.0) -> float:
    """2 (1 - theta) B TV: what fakes from another distribution cost; grows with the share of fakes to a plateau."""
    return 2 * (1 - theta) * loss_bound * total_variation


def ingredients(num_real: int, num_fakes: int, total_variation_at_least: float) -> dict[str, float]:
    """theta = M^r / M, the deviation with real images alone and with the bank, and the least the mismatch can be.

    The loss is taken relative to its largest value (B = 1) and delta is 0.05. A negative estimate of the total
    variation distance counts as 0.
    """
    theta = num_real / (num_real + num_fakes)
    tv = max(0.0, total_variation_at_least)
    return {
        "theta": theta,
        "deviation_real": deviation(num_real),
        "deviation": deviation(num_real + num_fakes),
        "tv_at_least": tv,
        "mismatch_at_least": mismatch(theta, tv),
    }
