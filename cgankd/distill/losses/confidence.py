"""Confidence conditioned KD: how far a row follows the teacher depends on what the teacher gives its label."""

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
    one_of,
    row_mean,
    soft_cross_entropy,
)
from cgankd.labels.circle import is_label, label_of, miss, wrapped
from cgankd.types import Outputs


class ConfidenceConditioned(Distiller):
    """Form L: mean c H(p_t^T, p_s^T) + (1 - c) CE; form T: mean H(c p_t^T + (1 - c) 1_y, p_s^T); c = p_t[y] (CCKD).

    Mishra and Sundaram, arXiv 2107.06993; a reconstruction after the abstract and an unofficial implementation. It
    holds the task's loss (task_weight 0) and has no T^2. Cross-entropy is linear in its target, so at T 1 both forms
    are one; in L the hard part is at temperature 1, in T all is at T. The default T 4 is ours, so that they differ.

    `self_regulated` leaves out rows the student has right with a gap of more than 1 - exp(-a epoch) between its two
    largest probabilities at T (a = regulation_rate): at first only mistakes are trained on, at the end all rows.

    Scalars (adaptation): c = exp(-|t - y| / sd); L: c |s - t| + (1 - c) |s - y|; T: |s - (c t + (1 - c) y)|; regulated
    rows have |s - y| > sd exp(-a epoch). sd is `scalar_spread` in normalised units (the teacher's validation error
    is a good value), or the batch's mean |t - y|, at least 0.001.
    """

    name = "cckd_confidence"
    needs = Needs(label=True, teacher_pred_only=True)
    scalar = True
    source = "Mishra and Sundaram 2021, arXiv 2107.06993"
    status = "reconstruction"
    task_weight = 0.0
    flows = (
        Flow("teacher.logits", "student.logits", "softmax at T", "cross-entropy", "c_n"),
        Flow("labels", "student.logits", "one-hot", "cross-entropy", "1 - c_n"),
    )

    def __init__(
        self,
        *,
        form: Literal["L", "T"] = "L",
        self_regulated: bool = False,
        regulation_rate: float = 0.01,
        temperature: float = 4.0,
        scalar_spread: float | None = None,
        loss_weight: float = 1.0,
        task_weight: float = 0.0,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        one_of(self.name, ("L", "T"), form=form)
        above_zero(self.name, temperature=temperature, regulation_rate=regulation_rate)
        above_zero(self.name, scalar_spread=1.0 if scalar_spread is None else scalar_spread)
        not_negative(self.name, loss_weight=loss_weight, task_weight=task_weight, fake_weight=fake_weight)
        self.form, self.self_regulated, self.regulation_rate = form, self_regulated, regulation_rate
        self.temperature, self.scalar_spread = temperature, scalar_spread
        self.loss_weight, self.task_weight, self.fake_weight = loss_weight, task_weight, fake_weight

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"confidence"}."""
        student_BO, teacher_BO = both(student, teacher)
        if is_label(student_BO, self.period):
            term_B, keep_B = self.scalar_rows(student_BO, teacher_BO, batch.y.to(student_BO), epoch)
        else:
            term_B, keep_B = self.class_rows(student_BO, teacher_BO, batch.y.long(), epoch)
        kept_B = keep_B if self.self_regulated else None
        return {"confidence": self.loss_weight * row_mean(term_B, batch.is_fake, self.fake_weight, kept_B)}

    def class_rows(self, student_BO: Tensor, teacher_BO: Tensor, y_B: Tensor, epoch: float) -> tuple[Tensor, Tensor]:
        """The loss of each row [B], and which rows the student still has to learn [B]."""
        trust_B = F.softmax(teacher_BO, dim=1).gather(1, y_B[:, None])[:, 0]
        soft_BO = student_BO / self.temperature
        term_B = trust_B * soft_cross_entropy(soft_BO, F.softmax(teacher_BO / self.temperature, dim=1))
        hard_BO = student_BO if self.form == "L" else soft_BO
        term_B = term_B + (1 - trust_B) * F.cross_entropy(hard_BO, y_B, reduction="none")
        two_B2 = F.softmax(soft_BO.detach(), dim=1).topk(2, dim=1).values
        unsure_B = two_B2[:, 0] - two_B2[:, 1] < -math.expm1(-self.regulation_rate * epoch)
        return term_B, (student_BO.argmax(dim=1) != y_B) | unsure_B

    def scalar_rows(self, student_BO: Tensor, teacher_BO: Tensor, y_B: Tensor, epoch: float) -> tuple[Tensor, Tensor]:
        """The same for scalar labels."""
        teacher_B = label_of(teacher_BO, self.period)
        error_B = wrapped(teacher_B - y_B, self.period)
        spread = error_B.abs().mean().clamp_min(1e-3) if self.scalar_spread is None else self.scalar_spread
        trust_B = torch.exp(-error_B.abs() / spread)
        miss_B = miss(student_BO, y_B, self.period)
        if self.form == "L":
            term_B = trust_B * miss(student_BO, teacher_B, self.period) + (1 - trust_B) * miss_B
        else:
            term_B = miss(student_BO, y_B + trust_B * error_B, self.period)
        return term_B, miss_B.detach() > spread * math.exp(-self.regulation_rate * epoch)


METHODS: dict[str, type[Distiller]] = {m.name: m for m in (ConfidenceConditioned,)}
