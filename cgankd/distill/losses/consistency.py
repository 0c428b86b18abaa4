"""`uda`: unsupervised data augmentation, one answer for an image and for its strongly augmented view."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.distill.base import Batch, Distiller, Flow, Needs
from cgankd.distill.losses.logit_terms import (
    a_share,
    above_zero,
    both,
    kl_terms,
    not_negative,
    nothing,
    one_of,
    row_mean,
    row_weights,
    weighted_mean,
)
from cgankd.distill.rows import hard_labels
from cgankd.labels.circle import is_label, label_of, miss
from cgankd.types import Outputs

FORMS = ("teacher", "self")
UNLABELLED = ("fakes", "all")


class DataAugmentation(Distiller):
    """KD on an image and on its strong view (first version of cGAN-KD), or Xie et al.'s consistency beside KD.

    Outputs [2 B, O] hold the rows of the plain view, then those of the strong one (student.strong_augment).
    form "teacher": w (KD(s, t) + KD(s', t')) / 2 + (1 - w) (CE(s, y) + CE(s', y)) / 2, KD = T^2 KL(p_t^T || p_s^T), a prime
    for the strong view. This is what the first version of cGAN-KD ran as UDA, with w = 0.5 and T = 5, on real images and on
    fakes: the teacher answers for both views. An adaptation of Xie et al.
    form "self": w KD(s, t) + (1 - w) CE(s, y) on the plain view, and c KL(q || p_s') with q the student's own answer to the
    plain view at temperature `sharpen`, held fixed; mean over the rows where the largest probability of that answer
    exceeds `confidence` and, with `unlabelled` fakes, which are fake (all = every row); a row left out counts as 0. c =
    `consistency_weight`. Scalars: absolute differences of the labels in [0, 1], the short way round a circle, in place of
    KL and CE; there T, `sharpen` and `confidence` say nothing, and the strong view must not move the label.
    """

    name = "uda"
    needs = Needs(label=True, teacher_pred_only=True, views=frozenset({"plain", "strong"}))
    scalar = True
    source = "Xie et al., NeurIPS 2020, arXiv 1904.12848; form teacher: arXiv 2104.03164, first version"
    status = "adaptation"
    flows = (
        Flow("teacher.logits", "student.logits", "plain view, softmax at T", "KL T^2", "0.25"),
        Flow("teacher.logits", "student.logits", "strong view, softmax at T", "KL T^2 (form teacher)", "0.25"),
        Flow("labels", "student.logits", "strong view", "task loss (form teacher)", "0.25"),
        Flow("student.logits", "student.logits", "plain to strong view (form self)", "KL", "1"),
    )

    def __init__(
        self,
        *,
        form: Literal["teacher", "self"] = "teacher",
        soft_weight: float = 0.5,
        temperature: float = 5.0,
        consistency_weight: float = 1.0,
        sharpen: float = 0.4,
        confidence: float = 0.8,
        unlabelled: Literal["fakes", "all"] = "fakes",
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        one_of(self.name, FORMS, form=form)
        one_of(self.name, UNLABELLED, unlabelled=unlabelled)
        a_share(self.name, soft_weight=soft_weight, confidence=confidence)
        above_zero(self.name, temperature=temperature, sharpen=sharpen)
        not_negative(self.name, consistency_weight=consistency_weight, fake_weight=fake_weight)
        self.form, self.soft_weight, self.temperature = form, soft_weight, temperature
        self.consistency_weight, self.sharpen, self.confidence = consistency_weight, sharpen, confidence
        self.unlabelled, self.fake_weight = unlabelled, fake_weight
        self.label_weight = (1 - soft_weight) / 2 if form == "teacher" else 0.0
        self.task_weight = 1 - soft_weight - self.label_weight

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"soft"} and {"strong_soft", "strong_labels"} of form "teacher" or {"consistency"} of form "self"."""
        (plain_s, strong_s), (plain_t, strong_t) = (z.chunk(2) for z in both(student, teacher))
        num = len(plain_s)
        is_fake = None if batch.is_fake is None else batch.is_fake[:num]

        def mean(term: Tensor) -> Tensor:
            return row_mean(term, is_fake, self.fake_weight)

        plain = mean(self.soft(plain_s, plain_t))
        if self.form == "self":
            return {
                "soft": self.soft_weight * plain,
                "consistency": self.consistency_weight * self.consistency(plain_s, strong_s, is_fake),
            }
        labels = mean(hard_labels(strong_s, batch.y[:num], self.period))
        return {
            "soft": self.soft_weight / 2 * plain,
            "strong_soft": self.soft_weight / 2 * mean(self.soft(strong_s, strong_t)),
            "strong_labels": self.label_weight * labels,
        }

    def soft(self, student_BO: Tensor, teacher_BO: Tensor) -> Tensor:
        """T^2 KL summands [B, O], or absolute differences [B, 1] of scalars."""
        if is_label(student_BO, self.period):
            return miss(student_BO, label_of(teacher_BO, self.period), self.period)[:, None]
        return kl_terms(student_BO, teacher_BO, self.temperature) * self.temperature**2

    def consistency(self, plain_BO: Tensor, strong_BO: Tensor, is_fake: Tensor | None) -> Tensor:
        """Mean difference of the strong view's answer to the student's own plain one, over all rows taken as unlabelled."""
        asked = torch.ones(len(plain_BO), dtype=torch.bool, device=plain_BO.device)
        if self.unlabelled == "fakes":
            asked = torch.zeros_like(asked) if is_fake is None else is_fake
        if not bool(asked.any()):
            return nothing(strong_BO)
        target_BO = plain_BO.detach()
        if is_label(plain_BO, self.period):
            miss_B = miss(strong_BO, label_of(target_BO, self.period), self.period)
        else:
            wanted = F.softmax(target_BO / self.sharpen, dim=1)
            miss_B = F.kl_div(F.log_softmax(strong_BO, dim=1), wanted, reduction="none").sum(1)
            miss_B = miss_B * (F.softmax(target_BO, dim=1).amax(1) > self.confidence)
        weight_B = row_weights(is_fake, self.fake_weight, miss_B) * asked
        return weighted_mean(miss_B, weight_B)


METHODS: dict[str, type[Distiller]] = {"uda": DataAugmentation}
