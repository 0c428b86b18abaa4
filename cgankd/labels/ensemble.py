"""Several nets as one teacher: the weighted mean of their answers, how far they disagree, and weights from validation.

`outputs` [K, B, O] are those of K members, weights [K] are not negative and sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.labels.circle import label_of, points
from cgankd.types import DatasetInfo

EVEN_IMAGES = 20
"""Strength of the pull to equal weights, in validation images on which all members do equally well."""
ROUNDS = 5000
"""Steps of either minimisation; far more than they need to stand still."""


class Mean(Protocol):
    """What an ensemble of teachers says, by the kind of label."""

    def combine(self, output_KBO: Tensor, weight_K: Tensor) -> Tensor:
        """Outputs [B, O] of the ensemble, in float32."""

    def spread(self, output_KBO: Tensor, weight_K: Tensor) -> Tensor:
        """How far the members disagree on each image, [B], zero or more."""

    def loss(self, output_BO: Tensor, label_B: Tensor) -> Tensor:
        """Mean loss that weights are chosen by."""

    def weights(self, output_KNO: Tensor, label_N: Tensor) -> Tensor:
        """Weights [K], in float64, from outputs on images with these labels in raw units."""


class ClassMean:
    """Class labels: probabilities are averaged."""

    def combine(self, output_KBO: Tensor, weight_K: Tensor) -> Tensor:
        """log sum_k w_k softmax(z_k), whose softmax is the weighted mean of the probabilities."""
        return torch.logsumexp(F.log_softmax(output_KBO.float(), dim=2) + weight_K.log()[:, None, None], dim=0)

    def spread(self, output_KBO: Tensor, weight_K: Tensor) -> Tensor:
        """sum_k w_k KL(p_k || sum_j w_j p_j) in nats, the generalised Jensen-Shannon divergence (Lin 1991)."""
        log_KBO = F.log_softmax(output_KBO.float(), dim=2)
        mean_BO = torch.logsumexp(log_KBO + weight_K.log()[:, None, None], dim=0)
        kl_KB = (log_KBO.exp() * (log_KBO - mean_BO)).sum(2)
        return (weight_K[:, None] * kl_KB).sum(0).clamp(min=0)

    def loss(self, output_BO: Tensor, label_B: Tensor) -> Tensor:
        """Cross-entropy in nats."""
        return F.cross_entropy(output_BO.double(), label_B)

    def weights(self, output_KNO: Tensor, label_N: Tensor) -> Tensor:
        """Maximiser of sum_i log sum_k w_k p_k(y_i | x_i) + (c / K) sum_k log w_k with c = EVEN_IMAGES, by EM.

        That is convex, and its second term a Dirichlet prior: c further images that speak for each member alike.
        """
        log_KNO = F.log_softmax(output_KNO.double(), dim=2)
        log_KN = log_KNO.gather(2, label_N.expand(len(log_KNO), -1)[:, :, None])[:, :, 0]
        num, count = len(label_N), len(log_KN)
        weight_K = torch.full((count,), 1 / count, dtype=torch.float64)
        for _ in range(ROUNDS):
            share_KN = torch.softmax(log_KN + weight_K.log()[:, None], dim=0)
            weight_K = (share_KN.sum(1) + EVEN_IMAGES / count) / (num + EVEN_IMAGES)
        return weight_K


class ScalarMean:
    """Scalar labels: the normalised answers are averaged; on a circle the points (cos, sin) of their directions.

    `period` is the length of the circle in normalised units (None = a line), `span` the label range in raw units.
    """

    def __init__(self, label_min: float, span: float, period: float | None) -> None:
        self.label_min, self.span, self.period = label_min, span, period

    def directions(self, output_KBO: Tensor) -> Tensor:
        """The answers of each member as what is averaged: numbers [K, B, 1], or points of the unit circle [K, B, 2]."""
        output_KBO = output_KBO.float()
        if self.period is None:
            return output_KBO
        if output_KBO.shape[2] == 2:
            return F.normalize(output_KBO, dim=2)
        return points(output_KBO.flatten(), self.period).reshape(*output_KBO.shape[:2], 2)

    def combine(self, output_KBO: Tensor, weight_K: Tensor) -> Tensor:
        """sum_k w_k y_k; of points of the circle their mean, whose angle is the answer, and of angles that angle."""
        mean_BD = (weight_K[:, None, None] * self.directions(output_KBO)).sum(0)
        return mean_BD if mean_BD.shape[1] == output_KBO.shape[2] else label_of(mean_BD, self.period)[:, None]

    def spread(self, output_KBO: Tensor, weight_K: Tensor) -> Tensor:
        """Weighted standard deviation in raw units; on a circle that of the differences from the mean direction."""
        mean_BO = self.combine(output_KBO, weight_K)
        count, num = output_KBO.shape[:2]
        label_KB = label_of(output_KBO.float().flatten(0, 1), self.period).reshape(count, num)
        gap_KB = label_KB - label_of(mean_BO, self.period)
        if self.period is not None:
            gap_KB = torch.remainder(gap_KB + self.period / 2, self.period) - self.period / 2
        return (weight_K[:, None] * gap_KB.square()).sum(0).sqrt() * self.span

    def misses(self, output_KNO: Tensor, label_N: Tensor) -> Tensor:
        """Differences [K, N, D] of what is averaged from the labels, in normalised units."""
        unit_N = (label_N.double() - self.label_min) / self.span
        given_KND = self.directions(output_KNO).double()
        if self.period is None:
            return given_KND - unit_N[:, None]
        return (given_KND - points(unit_N, self.period)) * (self.period / (2 * torch.pi))

    def loss(self, output_BO: Tensor, label_B: Tensor) -> Tensor:
        """Mean squared error in normalised units; on a circle that of the chord."""
        if self.period is not None and output_BO.shape[1] == 2:
            unit_B = (label_B.double() - self.label_min) / self.span
            return ((output_BO - points(unit_B, self.period)) * (self.period / (2 * torch.pi))).square().sum(1).mean()
        return self.misses(output_BO[None], label_B).square().sum(2).mean()

    def weights(self, output_KNO: Tensor, label_N: Tensor) -> Tensor:
        """Minimiser over the simplex of N w'Gw / g + c K |w - 1/K|^2 with c = EVEN_IMAGES, by projected gradients.

        G [K, K] are the mean products of the members' errors, so that w'Gw is the ensemble's mean squared error, and g is
        the mean of its diagonal: the pull does not depend on the unit of the label.
        """
        miss_KM = self.misses(output_KNO, label_N).flatten(1)
        num, count = len(label_N), len(miss_KM)
        gram_KK = miss_KM @ miss_KM.T / num
        scale = float(gram_KK.diagonal().mean())
        pull_KK = EVEN_IMAGES * count * torch.eye(count, dtype=torch.float64)
        curve_KK = pull_KK + (num * gram_KK / scale if scale > 0 else 0)
        even_K = torch.full((count,), 1 / count, dtype=torch.float64)
        step = 1 / float(torch.linalg.eigvalsh(curve_KK)[-1])
        weight_K = even_K
        for _ in range(ROUNDS):
            weight_K = onto_simplex(weight_K - step * (curve_KK @ weight_K - pull_KK @ even_K))
        return weight_K


def spread_weights(spread_M: Tensor, strength: float) -> Tensor:
    """exp(-strength d / median d) of the disagreements d [M], divided by its mean; the mean of d where its median is 0."""
    scale = float(spread_M.double().quantile(0.5)) or float(spread_M.double().mean()) or 1.0
    weight_M = torch.exp(-strength * spread_M.double() / scale)
    return (weight_M / weight_M.mean()).float()


def best_or_all(
    mean: Mean, output_KNO: Tensor, label_N: Tensor, weight_K: Tensor, score: Callable[[Tensor], float]
) -> Tensor:
    """The weights [K], or all the weight on the member whose loss on these images is smallest, where theirs is no smaller.

    Where the two losses are equal the smaller `score` of the outputs [N, O] decides, and the mean where that is equal too.
    """
    alone = [mean.loss(output_NO, label_N) for output_NO in output_KNO]
    best = min(range(len(alone)), key=lambda k: float(alone[k]))
    together_NO = mean.combine(output_KNO, weight_K.float())
    gain = float(alone[best] - mean.loss(together_NO, label_N))
    if gain > 0 or (gain == 0 and score(together_NO) <= score(output_KNO[best])):
        return weight_K
    return F.one_hot(torch.tensor(best), len(weight_K)).to(weight_K)


def onto_simplex(value_K: Tensor) -> Tensor:
    """The nearest point with entries that are not negative and sum to 1 (Duchi et al. 2008, figure 1)."""
    sorted_K = value_K.sort(descending=True).values
    excess_K = (sorted_K.cumsum(0) - 1) / torch.arange(1, len(value_K) + 1, dtype=value_K.dtype)
    last = int((sorted_K > excess_K).nonzero()[-1])
    return (value_K - excess_K[last]).clamp(min=0)


def make_mean(info: DatasetInfo) -> Mean:
    """How the answers of several teachers of this data set are averaged."""
    if info.kind == "class":
        return ClassMean()
    span = info.label_max - info.label_min
    return ScalarMean(info.label_min, span, None if info.label_period is None else info.label_period / span)
