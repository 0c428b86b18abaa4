"""The kernel widths of CcGAN by its rules of thumb (arXiv 2011.07466), in raw label units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cgankd.config import VicinityConfig
from cgankd.labels.circle import spread


@dataclass(frozen=True)
class Kernel:
    """The kernel widths of CcGAN in raw units, and the two label gaps they come from."""

    label_sigma: float
    kappa: float
    largest_gap: float
    median_gap: float

    @property
    def nu(self) -> float:
        """Decay of the soft weight, nu = 1 / kappa^2."""
        return 1.0 / self.kappa**2


def kernel_rules(label_N: Tensor, cfg: VicinityConfig, period: float | None = None, *, whole: bool = True) -> Kernel:
    """Rule-of-thumb widths: sigma = 1.06 sd(y) N^(-1/5), kappa = m_k * (quantile of the gaps of distinct labels).

    On a circle of length `period` sd is `circle.spread`, and where the labels go all the way round (`whole`) there is one gap
    more, from the last to the first.
    Raises ValueError where all labels are equal.
    """
    label_N = label_N.double()
    distinct = torch.unique(label_N)
    if len(distinct) < 2:
        raise ValueError("data: all training labels are equal, so a scalar label has no vicinity; give more labels")
    gaps = distinct.diff()
    if period is not None and whole:
        gaps = torch.cat([gaps, distinct[:1] + period - distinct[-1:]])
    sigma = cfg.label_sigma or 1.06 * spread(label_N, period) * len(label_N) ** -0.2
    kappa = cfg.kappa or cfg.kappa_multiplier * float(torch.quantile(gaps, cfg.gap_quantile))
    return Kernel(sigma, kappa, float(gaps.max()), float(gaps.median()))
