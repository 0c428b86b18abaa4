"""KD losses that take KL apart into the label's share and the other classes': DKD and ATKD."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs
from cgankd.distill.losses.logit_terms import (
    a_share,
    above_zero,
    both,
    decoupled,
    not_negative,
    row_mean,
    split,
    standardized,
    wide,
)
from cgankd.labels.circle import is_label, label_of, miss, wrapped
from cgankd.types import Outputs


def warm_up(epoch: float, epochs: float) -> float:
    """min((epoch + 1) / epochs, 1), the published ramp, which counts epochs from 1; 1 where there is none."""
    return min((epoch + 1) / epochs, 1.0) if epochs > 0 else 1.0


class DecoupledKD(Distiller):
    """r(epoch) T^2 (a TCKD + b NCKD), mean over the batch (Zhao et al., arXiv 2203.08679).

    TCKD compares the label with the rest, NCKD the rest among itself; KL = TCKD + (1 - p_t[y]) NCKD. r ramps up
    over `warmup_epochs`. Logits are [B, O]. Left out (null), the options are those of CIFAR-100: a = target_weight 1,
    b = non_target_weight 8 (2 and 6 for some pairs), T 4, 20 epochs; with `standardize` (arXiv 2403.01427) 9, 72 and T 2.
    """

    name = "dkd"
    needs = Needs(logits=True, label=True, teacher_pred_only=True)
    source = "Zhao et al., CVPR 2022, arXiv 2203.08679"
    flows = (
        Flow("teacher.logits", "student.logits", "label against the rest at T", "KL T^2", "1", "ramp of 20 epochs"),
        Flow("teacher.logits", "student.logits", "other classes at T", "KL T^2", "8", "ramp of 20 epochs"),
    )

    def __init__(
        self,
        *,
        target_weight: float | None = None,
        non_target_weight: float | None = None,
        temperature: float | None = None,
        warmup_epochs: float = 20.0,
        standardize: bool = False,
        task_weight: float = 1.0,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        times = 9.0 if standardize else 1.0
        target_weight = times if target_weight is None else target_weight
        non_target_weight = 8.0 * times if non_target_weight is None else non_target_weight
        temperature = (2.0 if standardize else 4.0) if temperature is None else temperature
        above_zero(self.name, temperature=temperature)
        not_negative(self.name, target_weight=target_weight, non_target_weight=non_target_weight)
        not_negative(self.name, warmup_epochs=warmup_epochs, task_weight=task_weight, fake_weight=fake_weight)
        self.target_weight, self.non_target_weight = target_weight, non_target_weight
        self.temperature, self.warmup_epochs, self.standardize = temperature, warmup_epochs, standardize
        self.task_weight, self.fake_weight = task_weight, fake_weight

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"target", "non_target"}."""
        pair = both(student, teacher)
        if self.standardize:
            pair = standardized(pair[0]), standardized(pair[1])
        parts = [split(z_BO / self.temperature, batch.y) for z_BO in pair]
        target_B, others_B = decoupled(*parts)
        ramp = warm_up(epoch, self.warmup_epochs) * self.temperature**2
        return {
            "target": self.target_weight * ramp * row_mean(target_B, batch.is_fake, self.fake_weight),
            "non_target": self.non_target_weight * ramp * row_mean(others_B, batch.is_fake, self.fake_weight),
        }


class AdaptiveTeaching(Distiller):
    """w (a mean_easy NCKD + (1 - a) mean_hard (TCKD + NCKD)), hard where the teacher is unsure of the label (ATKD).

    u = 1 - p_t[y]; hard rows have u at or above its quantile in the batch, so a fake whose label the teacher doubts
    is hard. No T^2; `reverse` swaps the roles of both nets in the divergences. Zhong et al. teach language models;
    this adaptation takes images for tokens and keeps the task's own loss. u is compared in logs, so rows of a sure
    teacher are still told apart; `uncertainty_temperature` softens it. Below 8 rows the quantile is coarse.

    Scalars (adaptation): u = |t - y|; easy rows match only the distances of the pooled features to the other rows
    (smooth L1 of distances divided by their mean, as in RKD), hard rows also the label, |s - t|.
    """

    name = "atkd"
    needs = Needs(pooled=True, label=True)
    scalar = True
    source = "Zhong et al., ACL 2024"
    status = "adaptation"
    flows = (
        Flow("teacher.logits", "student.logits", "other classes, easy rows", "KL", "0.2"),
        Flow("teacher.logits", "student.logits", "label and other classes, hard rows", "KL", "0.8"),
        Flow("teacher.pooled", "student.pooled", "distances between rows, scalar labels", "smooth L1", "0.2 and 0.8"),
    )

    def __init__(
        self,
        *,
        easy_weight: float = 0.2,
        hard_quantile: float = 0.5,
        temperature: float = 1.0,
        uncertainty_temperature: float = 1.0,
        reverse: bool = False,
        loss_weight: float = 1.0,
        task_weight: float = 1.0,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        a_share(self.name, easy_weight=easy_weight, hard_quantile=hard_quantile)
        above_zero(self.name, temperature=temperature, uncertainty_temperature=uncertainty_temperature)
        not_negative(self.name, loss_weight=loss_weight, task_weight=task_weight, fake_weight=fake_weight)
        self.easy_weight, self.hard_quantile, self.reverse = easy_weight, hard_quantile, reverse
        self.temperature, self.uncertainty_temperature = temperature, uncertainty_temperature
        self.loss_weight, self.task_weight, self.fake_weight = loss_weight, task_weight, fake_weight

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Ask for the teacher's outputs alone where labels are classes, whose terms look at no features."""
        if data.num_classes:
            self.needs = Needs(label=True, teacher_pred_only=True)  # type: ignore[misc]
        super().build(student, teacher, data)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"easy", "hard"}."""
        student_BO, teacher_BO = both(student, teacher)
        if is_label(student_BO, self.period):
            teacher_B = label_of(teacher_BO, self.period)
            unsure_B = wrapped(teacher_B - batch.y, self.period).abs()
            label_B = miss(student_BO, teacher_B, self.period)
            rest_B = distance_misses(student, teacher)
        else:
            unsure_B = split(teacher_BO / self.uncertainty_temperature, batch.y).log_rest_B
            parts = [split(z_BO / self.temperature, batch.y) for z_BO in (student_BO, teacher_BO)]
            label_B, rest_B = decoupled(*(reversed(parts) if self.reverse else parts))
        hard_B = unsure_B >= unsure_B.quantile(self.hard_quantile)
        easy = row_mean(rest_B, batch.is_fake, self.fake_weight, ~hard_B)
        hard = row_mean(label_B + rest_B, batch.is_fake, self.fake_weight, hard_B)
        return {
            "easy": self.loss_weight * self.easy_weight * easy,
            "hard": self.loss_weight * (1 - self.easy_weight) * hard,
        }


def distance_misses(student: Outputs, teacher: Outputs) -> Tensor:
    """Mean smooth L1 [B] between each row's distances to the others, divided by their mean in either net."""
    assert student.pooled is not None and teacher.pooled is not None, "needs.pooled"
    student_BB = relative_distances(wide(student.pooled))
    teacher_BB = relative_distances(wide(teacher.pooled).detach())
    return F.smooth_l1_loss(student_BB, teacher_BB, reduction="none").mean(dim=1)


def relative_distances(pooled_BF: Tensor) -> Tensor:
    """Euclidean distances [B, B] divided by the mean of those above 0; equal rows have distance 0 and no gradient."""
    squared_BB = (pooled_BF[:, None] - pooled_BF[None]).square().sum(dim=2)
    apart_BB = squared_BB > 0
    distance_BB = torch.where(apart_BB, torch.where(apart_BB, squared_BB, 1.0).sqrt(), 0.0)
    mean = distance_BB.sum() / apart_BB.sum().clamp_min(1)
    return distance_BB / torch.where(mean > 0, mean, 1.0)


METHODS: dict[str, type[Distiller]] = {m.name: m for m in (DecoupledKD, AdaptiveTeaching)}
