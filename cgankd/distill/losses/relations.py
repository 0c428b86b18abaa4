"""KD losses on relations between the samples of a batch: SP, RKD and PKT."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.distill.base import Batch, Distiller, Flow, Needs
from cgankd.distill.losses.feature_terms import Scope, in_range, last_maps, one_of, over_sources, pooled_pair, unit_rows
from cgankd.types import Outputs

SCOPES = ("mixed", "within_source")


class SimilarityPreserving(Distiller):
    """w sum_ij (G_s - G_t)^2 / B^2, G the Gram matrix [B, B] of the flattened last maps with rows of unit length.

    Scale and rotation of the features do not matter. The loss shrinks as 1 / B and its weight is that of B = 64;
    `normalize_by_batch` multiplies by B / 64. `relational_scope` within_source compares real with real, fake with fake.
    """

    name = "sp"
    needs = Needs(stages=True)
    scalar = True
    source = "Tung and Mori, ICCV 2019, arXiv 1907.09682"
    flows = (
        Flow("teacher.stage:last", "student.stage:last", "Gram matrix, unit rows", "squared Frobenius / B^2", "3000"),
    )

    def __init__(
        self,
        *,
        similarity_weight: float = 3000.0,
        relational_scope: Scope = "mixed",
        normalize_by_batch: bool = False,
    ) -> None:
        super().__init__()
        in_range(self.name, similarity_weight=similarity_weight)
        one_of(self.name, SCOPES, relational_scope=relational_scope)
        self.similarity_weight, self.scope, self.normalize = similarity_weight, relational_scope, normalize_by_batch

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"similarity"}."""
        s, t = (m.flatten(1) for m in last_maps(student, teacher, self.name))
        loss = over_sources(similarity_gap, s, t, batch, self.scope, self.normalize)
        return {"similarity": self.similarity_weight * loss}


def similarity_gap(s_BF: Tensor, t_BF: Tensor) -> Tensor:
    """Mean squared difference of the row-normalised Gram matrices (SP)."""
    return (F.normalize(s_BF @ s_BF.T) - F.normalize(t_BF @ t_BF.T)).square().mean()


class RelationalKD(Distiller):
    """w (25 L_d + 50 L_a): smooth L1 of distances d_ij over their mean, and of cosines of the angles at i, of pooled features.

    Features are [B, F]. Means run over B^2 distances and B^3 angles, so neither depends on the batch size much and there
    is nothing to normalise by it. Scale, shift and rotation of the features do not matter. Angles take the first
    `max_angle_rows` rows, as their memory grows as the cube. Rows closer than 1e-6 give no direction, hence no angle and
    no gradient.
    """

    name = "rkd"
    needs = Needs(pooled=True)
    scalar = True
    source = "Park et al., CVPR 2019, arXiv 1904.05068"
    flows = (
        Flow("teacher.pooled", "student.pooled", "distances over their mean", "smooth L1", "25"),
        Flow("teacher.pooled", "student.pooled", "cosines of angles in triples", "smooth L1", "50"),
    )

    def __init__(
        self,
        *,
        relation_weight: float = 1.0,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        max_angle_rows: int = 256,
        relational_scope: Scope = "mixed",
    ) -> None:
        super().__init__()
        in_range(self.name, relation_weight=relation_weight, distance_weight=distance_weight, angle_weight=angle_weight)
        in_range(self.name, low=3, max_angle_rows=max_angle_rows)
        one_of(self.name, SCOPES, relational_scope=relational_scope)
        self.distance_weight, self.angle_weight = relation_weight * distance_weight, relation_weight * angle_weight
        self.max_angle_rows, self.scope = max_angle_rows, relational_scope

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"distance", "angle"}."""
        s, t = pooled_pair(student, teacher)
        rows = self.max_angle_rows
        return {
            "distance": self.distance_weight * over_sources(distance_gap, s, t, batch, self.scope),
            "angle": self.angle_weight
            * over_sources(lambda a, b: angle_gap(a[:rows], b[:rows]), s, t, batch, self.scope),
        }


def distance_gap(s_BF: Tensor, t_BF: Tensor) -> Tensor:
    """Smooth L1 of pairwise distances, each over the mean of its own net (RKD-D)."""
    return F.smooth_l1_loss(_relative_distances(s_BF), _relative_distances(t_BF))


def _relative_distances(x_BF: Tensor) -> Tensor:
    square_B = x_BF.square().sum(1)
    square_BB = (square_B[:, None] + square_B[None] - 2 * x_BF @ x_BF.T).clamp_min(1e-12)
    apart_BB = 1 - torch.eye(len(x_BF), device=x_BF.device)
    distance_BB = square_BB.sqrt() * apart_BB
    mean = distance_BB.sum() / apart_BB.sum().clamp_min(1)
    return distance_BB / mean.clamp_min(1e-12)


def angle_gap(s_BF: Tensor, t_BF: Tensor) -> Tensor:
    """Smooth L1 of the cosines of the angles that pairs of samples make, seen from a third (RKD-A)."""
    return F.smooth_l1_loss(_angles(s_BF), _angles(t_BF))


def _angles(x_BF: Tensor) -> Tensor:
    difference_BBF = x_BF[None] - x_BF[:, None]
    square = difference_BBF.square().sum(2, keepdim=True)
    # The direction between two equal rows has no gradient; dividing by a tiny length would give one of 1e12.
    far = square > 1e-12
    unit_BBF = torch.where(far, difference_BBF * torch.where(far, square, 1.0).rsqrt(), 0.0)
    return unit_BBF @ unit_BBF.transpose(1, 2)


class ProbabilisticTransfer(Distiller):
    """w mean_ij P_t log((P_t + e) / (P_s + e)), P the rows of (cosine + 1) / 2 of pooled features over their sums, e = 1e-7.

    Features are [B, F]. Their lengths and a rotation do not matter. The mean over B^2 shrinks as 1 / B and its weight is that
    of B = 64; `normalize_by_batch` multiplies by B / 64. `relational_scope` as in SP.
    """

    name = "pkt"
    needs = Needs(pooled=True)
    scalar = True
    source = "Passalis and Tefas, ECCV 2018, arXiv 1803.10837"
    flows = (Flow("teacher.pooled", "student.pooled", "rows of cosines as probabilities", "mean KL terms", "30000"),)

    def __init__(
        self,
        *,
        probability_weight: float = 30000.0,
        relational_scope: Scope = "mixed",
        normalize_by_batch: bool = False,
    ) -> None:
        super().__init__()
        in_range(self.name, probability_weight=probability_weight)
        one_of(self.name, SCOPES, relational_scope=relational_scope)
        self.probability_weight, self.scope, self.normalize = probability_weight, relational_scope, normalize_by_batch

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"probability"}."""
        loss = over_sources(probability_gap, *pooled_pair(student, teacher), batch, self.scope, self.normalize)
        return {"probability": self.probability_weight * loss}


def probability_gap(s_BF: Tensor, t_BF: Tensor, eps: float = 1e-7) -> Tensor:
    """Mean of the KL terms between the two nets' neighbour probabilities (PKT)."""
    s_BB, t_BB = _neighbours(s_BF, eps), _neighbours(t_BF, eps)
    terms_BB: Tensor = t_BB * ((t_BB + eps).log() - (s_BB + eps).log())
    return terms_BB.mean()


def _neighbours(x_BF: Tensor, eps: float) -> Tensor:
    unit_BF = unit_rows(x_BF, eps)
    kernel_BB = (unit_BF @ unit_BF.T + 1) / 2
    return kernel_BB / kernel_BB.sum(1, keepdim=True)


METHODS: dict[str, type[Distiller]] = {"sp": SimilarityPreserving, "rkd": RelationalKD, "pkt": ProbabilisticTransfer}
