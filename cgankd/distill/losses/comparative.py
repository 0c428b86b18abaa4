"""Comparative KD: the student matches how images differ, not what each of them is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.distill.base import Batch, Distiller, Flow, Needs
from cgankd.distill.losses.logit_terms import (
    above_zero,
    both,
    kl_terms,
    not_negative,
    nothing,
    row_weights,
    weighted_mean,
)
from cgankd.labels.circle import is_label, label_of, wrapped
from cgankd.types import Outputs


def groups(rows_BO: Tensor, group_size: int) -> Tensor:
    """Rows [B, ...] as groups [num, group_size, ...]: with num groups, group g holds rows g, g + num, g + 2 num, ...

    Batches are drawn at random, so these groups are random without a draw of their own, and where real images come
    before fakes a group holds both.
    """
    num = len(rows_BO) // group_size
    return rows_BO[: num * group_size].reshape(group_size, num, *rows_BO.shape[1:]).transpose(0, 1)


class Comparative(Distiller):
    """w_rel T^2 KL(D_t || D_s) + w_cls T^2 KL(D_y || D_s), D [G, O] the softmax at T of a difference of mean logits (CKD).

    In groups of `group_size` images the difference is the mean of the first `num_positive` less the mean of the
    others; D_y takes one-hot labels for logits. Wilf et al., arXiv 2311.02253: group size 3 with 2 positives, T 4,
    both weights 1. An adaptation: groups are made in the batch, the authors draw them from the data set. The student
    enters through differences alone: a vector added to all its logits changes nothing, and the task's own loss fixes
    it. Rows left over after the last full group take no part. A
    group weighs the product of its rows' weights, and with `fake_weight` 0 groups are made of real images alone.

    Scalars: w_rel mean over pairs of |(s_i - s_j) - (t_i - t_j)| on normalised labels, round a circle the short way.
    """

    name = "ckd_comparative"
    needs = Needs(label=True, teacher_pred_only=True)
    scalar = True
    source = "Wilf et al., WACV 2025, arXiv 2311.02253"
    status = "adaptation"
    flows = (
        Flow("teacher.logits", "student.logits", "difference within a group, softmax at T", "KL T^2", "1"),
        Flow("labels", "student.logits", "difference of one-hot labels, softmax at T", "KL T^2", "1"),
    )

    def __init__(
        self,
        *,
        relation_weight: float = 1.0,
        label_weight: float = 1.0,
        temperature: float = 4.0,
        group_size: int = 3,
        num_positive: int = 2,
        task_weight: float = 1.0,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        above_zero(self.name, temperature=temperature, num_positive=num_positive)
        not_negative(self.name, relation_weight=relation_weight, label_weight=label_weight)
        not_negative(self.name, task_weight=task_weight, fake_weight=fake_weight)
        if num_positive >= group_size:
            raise ValueError(
                f"{self.name}.num_positive must be below {self.name}.group_size {group_size}, but is {num_positive}"
            )
        self.relation_weight, self.label_weight, self.temperature = relation_weight, label_weight, temperature
        self.group_size, self.num_positive = group_size, num_positive
        self.task_weight, self.fake_weight = task_weight, fake_weight

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"relation"}, and {"labels"} of classes."""
        student_BO, teacher_BO = both(student, teacher)
        weight_B = row_weights(batch.is_fake, self.fake_weight, student_BO)
        if is_label(student_BO, self.period):
            student_B, teacher_B = label_of(student_BO, self.period), label_of(teacher_BO, self.period)
            return {"relation": self.relation_weight * self.pairs(student_B, teacher_B, weight_B)}
        y_B = batch.y.long()
        if self.fake_weight == 0 and batch.is_fake is not None:  # A group would count for nothing with one fake in it.
            real_B = ~batch.is_fake
            student_BO, teacher_BO, y_B, weight_B = (rows[real_B] for rows in (student_BO, teacher_BO, y_B, weight_B))
        if len(student_BO) < self.group_size:
            return {"relation": nothing(student_BO), "labels": nothing(student_BO)}
        one_hot_BO = F.one_hot(y_B, student_BO.shape[1]).to(student_BO)
        student_GO, teacher_GO, labels_GO = (self.differences(z_BO) for z_BO in (student_BO, teacher_BO, one_hot_BO))
        weight_G = groups(weight_B, self.group_size).prod(dim=1)
        return {
            "relation": self.relation_weight * self.divergence(student_GO, teacher_GO, weight_G),
            "labels": self.label_weight * self.divergence(student_GO, labels_GO, weight_G),
        }

    def differences(self, rows_BO: Tensor) -> Tensor:
        """Mean of the positives less mean of the negatives of each group [G, O]."""
        group_GSO = groups(rows_BO, self.group_size)
        return group_GSO[:, : self.num_positive].mean(dim=1) - group_GSO[:, self.num_positive :].mean(dim=1)

    def divergence(self, student_GO: Tensor, target_GO: Tensor, weight_G: Tensor) -> Tensor:
        """T^2 KL of the softened differences, mean over groups."""
        kl_G = kl_terms(student_GO, target_GO, self.temperature).sum(dim=1)
        return weighted_mean(kl_G, weight_G) * self.temperature**2

    def pairs(self, student_B: Tensor, teacher_B: Tensor, weight_B: Tensor) -> Tensor:
        """Mean over pairs of rows of the miss of the difference; a pair weighs the product of its rows' weights."""
        if len(student_B) < 2:
            return nothing(student_B)
        first_P, second_P = torch.triu_indices(len(student_B), len(student_B), 1, device=student_B.device)
        offset_B = student_B - teacher_B
        miss_P = wrapped(offset_B[first_P] - offset_B[second_P], self.period).abs()
        return weighted_mean(miss_P, weight_B[first_P] * weight_B[second_P])


METHODS: dict[str, type[Distiller]] = {m.name: m for m in (Comparative,)}
