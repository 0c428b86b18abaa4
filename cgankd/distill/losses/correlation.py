"""KD losses that match correlations in the place of values: DIST (Pearson), CMKD (Pearson and Spearman)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.distill.base import Batch, Distiller, Flow, Needs
from cgankd.distill.losses.logit_terms import (
    above_zero,
    both,
    not_negative,
    nothing,
    one_of,
    pearson,
    row_mean,
    scopes,
    standardized,
)
from cgankd.labels.circle import is_label, points
from cgankd.types import Outputs


class DistKD(Distiller):
    """w T^2 (b (1 - mean_rows r) + g (1 - mean_classes r)), r the Pearson correlation of softened probabilities (DIST).

    Rows of probabilities [B, O] compare the classes of one image, columns the images of one class, so the second term
    wants batches of many images and is constant for one. A row or column without spread counts as uncorrelated.
    `relational_scope` within_source relates real and fake images apart in the second term. Huang et al., arXiv
    2205.10536; defaults of its CIFAR-100 settings (w = loss_weight 2, b = g = 1, T 4).
    """

    name = "dist"
    needs = Needs(logits=True, teacher_pred_only=True)
    source = "Huang et al., NeurIPS 2022, arXiv 2205.10536"
    flows = (
        Flow("teacher.logits", "student.logits", "softmax at T, each image", "1 - Pearson", "2 T^2"),
        Flow("teacher.logits", "student.logits", "softmax at T, each class over the batch", "1 - Pearson", "2 T^2"),
    )

    def __init__(
        self,
        *,
        inter_weight: float = 1.0,
        intra_weight: float = 1.0,
        temperature: float = 4.0,
        loss_weight: float = 2.0,
        relational_scope: Literal["mixed", "within_source"] = "mixed",
        task_weight: float = 1.0,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        above_zero(self.name, temperature=temperature)
        not_negative(self.name, inter_weight=inter_weight, intra_weight=intra_weight, loss_weight=loss_weight)
        not_negative(self.name, task_weight=task_weight, fake_weight=fake_weight)
        one_of(self.name, ("mixed", "within_source"), relational_scope=relational_scope)
        self.inter_weight, self.intra_weight, self.temperature = inter_weight, intra_weight, temperature
        self.loss_weight, self.scope = loss_weight, relational_scope
        self.task_weight, self.fake_weight = task_weight, fake_weight

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"inter", "intra"}."""
        student_BO, teacher_BO = (F.softmax(z_BO / self.temperature, dim=1) for z_BO in both(student, teacher))
        inter = row_mean(1 - pearson(student_BO, teacher_BO), batch.is_fake, self.fake_weight)
        parts = [
            len(student_BO[rows]) / len(student_BO) * (1 - pearson(student_BO[rows].T, teacher_BO[rows].T)).mean()
            for rows in scopes(len(student_BO), batch.is_fake, self.scope)
        ]
        scale = self.loss_weight * self.temperature**2
        return {
            "inter": scale * self.inter_weight * inter,
            "intra": scale * self.intra_weight * torch.stack(parts).sum(),
        }


def ranks(x_BO: Tensor) -> Tensor:
    """Ranks [B, O] of each row from 1 up; equal values share the mean of their ranks."""
    apart_BOO = x_BO[:, :, None] - x_BO[:, None, :]
    return 0.5 + ((apart_BOO > 0).to(x_BO) + 0.5 * (apart_BOO == 0).to(x_BO)).sum(dim=2)


def soft_ranks(x_BO: Tensor, softness: float) -> Tensor:
    """0.5 + sum_j sigmoid((x_i - x_j) / softness) [B, O]: `ranks` in the limit of softness 0, with a gradient."""
    return 0.5 + torch.sigmoid((x_BO[:, :, None] - x_BO[:, None, :]) / softness).sum(dim=2)


def joint(rows_RB: Tensor) -> Tensor:
    """Rows as one centred row [1, R B]: of cosines and sines one correlation, which turning all labels does not change."""
    return rows_RB if len(rows_RB) == 1 else (rows_RB - rows_RB.mean(dim=1, keepdim=True)).flatten()[None]


class CorrelationMatching(Distiller):
    """w mean_n [a_n (1 - Pearson) + (1 - a_n) (1 - Spearman)] over the classes of each image (CMKD, reconstruction).

    Logits are standardised first. Pearson compares softened probabilities, Spearman soft ranks of the student with the
    teacher's hard ones. a_n is the teacher's entropy at `difficulty_temperature` over log O (weighting "entropy"), one
    minus that ("entropy_inverse"), or a half ("equal"). The paper's abstract names the parts (Niu et al., arXiv
    2410.06561); its formula of the weights, rank operator and constants were not available, so these are our own.
    Ranks cost O^2 a row and those of near-zero probabilities are noise: only the teacher's best `top_classes` count.

    Scalars (reconstruction): both correlations over the batch, half each; on a circle those of cosines and sines: one
    Pearson correlation of both, and two of ranks, which depend a little on where the angles begin. They do not fix offset
    and scale: the task's own loss does. `fake_weight` says nothing there.
    """

    name = "cmkd"
    needs = Needs(teacher_pred_only=True)
    scalar = True
    source = "Niu, Wang, Cai and Hou 2024, arXiv 2410.06561"
    status = "reconstruction"
    flows = (
        Flow("teacher.logits", "student.logits", "standardised, softmax at T", "1 - Pearson", "2 a_n"),
        Flow("teacher.logits", "student.logits", "standardised, ranks", "1 - Spearman", "2 (1 - a_n)"),
    )

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        difficulty_temperature: float = 4.0,
        rank_softness: float = 0.1,
        weighting: Literal["entropy", "entropy_inverse", "equal"] = "entropy",
        top_classes: int = 100,
        loss_weight: float = 2.0,
        task_weight: float = 1.0,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        above_zero(self.name, temperature=temperature, difficulty_temperature=difficulty_temperature)
        above_zero(self.name, rank_softness=rank_softness)
        not_negative(self.name, loss_weight=loss_weight, task_weight=task_weight, fake_weight=fake_weight)
        one_of(self.name, ("entropy", "entropy_inverse", "equal"), weighting=weighting)
        if top_classes < 2:
            raise ValueError(f"{self.name}.top_classes must be 2 or above, but is {top_classes}")
        self.temperature, self.difficulty_temperature = temperature, difficulty_temperature
        self.rank_softness, self.weighting, self.top_classes = rank_softness, weighting, top_classes
        self.loss_weight, self.task_weight, self.fake_weight = loss_weight, task_weight, fake_weight

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"pearson", "spearman"}."""
        student_BO, teacher_BO = both(student, teacher)
        if is_label(student_BO, self.period):
            return self.over_batch(student_BO, teacher_BO)
        student_BO, teacher_BO = standardized(student_BO), standardized(teacher_BO)
        share_B = self.pearson_share(teacher_BO)
        values_B = pearson(F.softmax(student_BO / self.temperature, 1), F.softmax(teacher_BO / self.temperature, 1))
        orders_B = self.spearman(student_BO, teacher_BO)
        return {
            "pearson": self.loss_weight * row_mean(share_B * (1 - values_B), batch.is_fake, self.fake_weight),
            "spearman": self.loss_weight * row_mean((1 - share_B) * (1 - orders_B), batch.is_fake, self.fake_weight),
        }

    def pearson_share(self, teacher_BO: Tensor) -> Tensor:
        """Weight [B] of the Pearson term, from how spread the teacher's answer is."""
        if self.weighting == "equal":
            return torch.full_like(teacher_BO[:, 0], 0.5)
        log_p_BO = F.log_softmax(teacher_BO / self.difficulty_temperature, dim=1)
        entropy_B = -(log_p_BO.exp() * log_p_BO).sum(dim=1) / math.log(teacher_BO.shape[1])
        return entropy_B if self.weighting == "entropy" else 1 - entropy_B

    def spearman(self, student_BO: Tensor, teacher_BO: Tensor) -> Tensor:
        """Correlation [B] of the student's soft ranks with the teacher's ranks, over the teacher's best classes."""
        if teacher_BO.shape[1] > self.top_classes:
            best_BO = teacher_BO.topk(self.top_classes, dim=1).indices
            student_BO, teacher_BO = student_BO.gather(1, best_BO), teacher_BO.gather(1, best_BO)
        return pearson(soft_ranks(student_BO, self.rank_softness), ranks(teacher_BO))

    def over_batch(self, student_BO: Tensor, teacher_BO: Tensor) -> dict[str, Tensor]:
        """Both terms of scalar labels, the batch in the place of the classes."""
        if len(student_BO) < 2:
            return {"pearson": nothing(student_BO), "spearman": nothing(student_BO)}
        student_RB, teacher_RB = (self.coordinates(out_BO).T for out_BO in (student_BO, teacher_BO))
        values = 1 - pearson(joint(student_RB), joint(teacher_RB)).mean()
        student_RB, teacher_RB = standardized(student_RB), standardized(teacher_RB)
        orders = 1 - pearson(soft_ranks(student_RB, self.rank_softness), ranks(teacher_RB)).mean()
        return {"pearson": self.loss_weight / 2 * values, "spearman": self.loss_weight / 2 * orders}

    def coordinates(self, out_BO: Tensor) -> Tensor:
        """The labels themselves [B, 1], or cosine and sine [B, 2] of labels on a circle, as a net that answers so gives them."""
        return out_BO if self.period is None or out_BO.shape[1] == 2 else points(out_BO[:, 0], self.period)


METHODS: dict[str, type[Distiller]] = {m.name: m for m in (DistKD, CorrelationMatching)}
