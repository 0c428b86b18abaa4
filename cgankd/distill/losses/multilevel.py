"""Multi-level logit distillation (MLKD): classes, images and the batch, at several temperatures and on two views."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.distill.base import Batch, Distiller, Flow, Needs
from cgankd.distill.losses.logit_terms import (
    above_zero,
    both,
    kl_terms,
    not_negative,
    one_of,
    row_mean,
    scopes,
    standardized,
)
from cgankd.types import Outputs

STRONG_TAKES_WEAK = (2.0, 6.0)
"""Temperatures at which the authors' code compares weak logits in the place of strong ones."""


class MultiLevel(Distiller):
    """w sum_T [T^2 KL + |p_t p_t' - p_s p_s'|^2 / B + |p_t' p_t - p_s' p_s|^2 / O] on weak and strong views (MLKD).

    The three parts match each image's classes, which images are alike [B, B] and which classes are [O, O], on
    probabilities p [B, O] softened at each T of `temperatures`. Jin et al., CVPR 2023, CIFAR-100: w = soft_weight
    0.9, task 0.1, learning rate 0.025. Mode "paper" sums all three on both views. Mode "official" does what the
    authors' code does: on the weak view the first two parts count times the share of images at or below the median
    teacher confidence, the third times the share of classes at or below the median summed confidence; the strong
    view has the first part alone, with the weak view's logits at T 2 and 6.

    The labels count on both views: the task's loss on the weak one, strong_label_weight CE(z_s, y) on the strong one.
    Outputs hold the rows of the weak view, then those of the strong one. `relational_scope` within_source keeps real
    and fake images apart in the second and third part; `fake_weight` weighs rows of the first.
    """

    name = "mlkd"
    needs = Needs(logits=True, label=True, teacher_pred_only=True, views=frozenset({"weak", "strong"}))
    source = "Jin et al., CVPR 2023; standardize: Sun et al., CVPR 2024, arXiv 2403.01427"
    flows = (
        Flow("teacher.logits", "student.logits", "softmax at each T", "KL T^2", "0.9"),
        Flow("teacher.logits", "student.logits", "products between images", "squared difference over B", "0.9"),
        Flow("teacher.logits", "student.logits", "products between classes", "squared difference over O", "0.9"),
        Flow("labels", "student.logits", "strong view", "cross-entropy", "0.1"),
    )

    def __init__(
        self,
        *,
        mode: Literal["official", "paper"] = "official",
        temperatures: tuple[float, ...] = (4.0, 2.0, 3.0, 5.0, 6.0),
        soft_weight: float = 0.9,
        standardize: bool = False,
        relational_scope: Literal["mixed", "within_source"] = "mixed",
        strong_label_weight: float = 0.1,
        task_weight: float = 0.1,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        one_of(self.name, ("official", "paper"), mode=mode)
        one_of(self.name, ("mixed", "within_source"), relational_scope=relational_scope)
        if not temperatures:
            raise ValueError(f"{self.name}.temperatures must name one temperature at least")
        above_zero(self.name, temperatures=min(temperatures))
        not_negative(self.name, soft_weight=soft_weight, task_weight=task_weight, fake_weight=fake_weight)
        not_negative(self.name, strong_label_weight=strong_label_weight)
        self.mode, self.temperatures, self.soft_weight = mode, tuple(temperatures), soft_weight
        self.standardize, self.scope = standardize, relational_scope
        self.task_weight, self.fake_weight, self.strong_label_weight = task_weight, fake_weight, strong_label_weight

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"instance", "images", "classes", "strong_labels"}; labels are compared with the logits as they are."""
        pair = both(student, teacher)
        shown_BO, y_B = pair[0].chunk(2)[1], batch.y[: len(pair[0]) // 2].long()
        if self.standardize:
            pair = standardized(pair[0]), standardized(pair[1])
        (weak_s, strong_s), (weak_t, strong_t) = (z_VO.chunk(2) for z_VO in pair)
        is_fake = None if batch.is_fake is None else batch.is_fake[: len(weak_t)]
        label_B = F.cross_entropy(shown_BO, y_B, reduction="none")
        strong = weak_s.new_zeros(())
        weak, images, classes = self.levels(weak_s, weak_t, is_fake)
        if self.mode == "paper":
            strong, more_images, more_classes = self.levels(strong_s, strong_t, is_fake)
            images, classes = images + more_images, classes + more_classes
        else:
            row_share, class_share = low_confidence_shares(weak_t)
            weak, images, classes = weak * row_share, images * row_share, classes * class_share
            for t in self.temperatures:
                views = (weak_s, weak_t) if t in STRONG_TAKES_WEAK else (strong_s, strong_t)
                strong = strong + self.instance(*views, is_fake, t)
        terms = {"instance": weak + strong, "images": images, "classes": classes}
        terms = {name: self.soft_weight * term for name, term in terms.items()}
        return terms | {"strong_labels": self.strong_label_weight * row_mean(label_B, is_fake, self.fake_weight)}

    def instance(self, student_BO: Tensor, teacher_BO: Tensor, is_fake: Tensor | None, temperature: float) -> Tensor:
        """T^2 KL, mean over rows."""
        return row_mean(kl_terms(student_BO, teacher_BO, temperature), is_fake, self.fake_weight) * temperature**2

    def levels(self, student_BO: Tensor, teacher_BO: Tensor, is_fake: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The three parts of one view, summed over temperatures."""
        instance = images = classes = student_BO.new_zeros(())
        for temperature in self.temperatures:
            instance = instance + self.instance(student_BO, teacher_BO, is_fake, temperature)
            p_s, p_t = (F.softmax(z_BO / temperature, dim=1) for z_BO in (student_BO, teacher_BO))
            for rows in scopes(len(p_s), is_fake, self.scope):
                a, b = p_s[rows], p_t[rows]
                images = images + (b @ b.T - a @ a.T).square().sum() / len(p_s)
                classes = classes + (b.T @ b - a.T @ a).square().sum() / p_s.shape[1]
        return instance, images, classes


def low_confidence_shares(teacher_BO: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of rows, and of classes summed over rows, whose probability at T 1 is at or below the median."""
    p_BO = F.softmax(teacher_BO, dim=1)
    row_B, class_O = p_BO.max(dim=1).values, p_BO.sum(dim=0)
    shares = [(x <= torch.quantile(x, 0.5)).to(x).mean() for x in (row_B, class_O)]
    return shares[0], shares[1]


METHODS: dict[str, type[Distiller]] = {m.name: m for m in (MultiLevel,)}
