"""KD losses on softened class probabilities beside Hinton's: normalised (NKD), transformed teacher (WTTM), CTKD."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs
from cgankd.distill.losses.logit_terms import above_zero, both, kl_terms, not_negative, row_mean, split
from cgankd.types import Outputs


class NormalizedKD(Distiller):
    """-p_t[y] log p_s[y] - g T^2 sum_{k != y} q_t log q_s, q the softmax at T without the label (Yang et al., NKD).

    A cross-entropy, so its minimum is the teacher's entropy and not 0. The first term is at temperature 1.
    Yang et al., arXiv 2303.13005; defaults of its CIFAR-100 settings (T 3, g = non_target_weight 3.5).
    """

    name = "nkd"
    needs = Needs(logits=True, label=True, teacher_pred_only=True)
    source = "Yang et al., ICCV 2023, arXiv 2303.13005"
    flows = (
        Flow("teacher.logits", "student.logits", "probability of the label", "cross-entropy", "1"),
        Flow("teacher.logits", "student.logits", "softmax of the other classes at T", "cross-entropy T^2", "3.5"),
    )

    def __init__(
        self,
        *,
        temperature: float = 3.0,
        target_weight: float = 1.0,
        non_target_weight: float = 3.5,
        task_weight: float = 1.0,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        above_zero(self.name, temperature=temperature)
        not_negative(self.name, target_weight=target_weight, non_target_weight=non_target_weight)
        not_negative(self.name, task_weight=task_weight, fake_weight=fake_weight)
        self.temperature, self.fake_weight, self.task_weight = temperature, fake_weight, task_weight
        self.target_weight, self.non_target_weight = target_weight, non_target_weight

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"target", "non_target"}."""
        student_BO, teacher_BO = both(student, teacher)
        sharp_s, sharp_t = split(student_BO, batch.y), split(teacher_BO, batch.y)
        soft_s, soft_t = (split(z_BO / self.temperature, batch.y) for z_BO in (student_BO, teacher_BO))
        target_B = -sharp_t.log_target_B.exp() * sharp_s.log_target_B
        others_B = -(soft_t.log_others_BO.exp() * soft_s.log_others_BO).sum(dim=1) * self.temperature**2
        return {
            "target": self.target_weight * row_mean(target_B, batch.is_fake, self.fake_weight),
            "non_target": self.non_target_weight * row_mean(others_B, batch.is_fake, self.fake_weight),
        }


class TransformedTeacher(Distiller):
    """b mean U KL(p_t^g / U || p_s) with U = sum_k p_t^g (Zheng and Yang, WTTM; `weighted: false` is TTM, U left out).

    p_t^g / U is softmax(g z_t), z [B, O] logits: only the teacher is softened, so there is no T^2. U is up to O^(1 - g),
    so a weight for TTM is too large for WTTM: defaults g = `exponent` 0.2 and b = `loss_weight` 4 are the authors'
    CIFAR-100 example beside CRD, that for TTM alone is 0.1 and 45; they tune both for each pair of nets.
    """

    name = "wttm"
    needs = Needs(logits=True, teacher_pred_only=True)
    source = "Zheng and Yang, ICLR 2024, arXiv 2402.11148"
    flows = (Flow("teacher.logits", "student.logits", "power of the teacher's probabilities", "U KL", "4"),)

    def __init__(
        self,
        *,
        exponent: float = 0.2,
        loss_weight: float = 4.0,
        weighted: bool = True,
        task_weight: float = 1.0,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        above_zero(self.name, exponent=exponent)
        not_negative(self.name, loss_weight=loss_weight, task_weight=task_weight, fake_weight=fake_weight)
        self.exponent, self.loss_weight, self.weighted = exponent, loss_weight, weighted
        self.task_weight, self.fake_weight = task_weight, fake_weight

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"transformed"}."""
        student_BO, teacher_BO = both(student, teacher)
        power_BO = self.exponent * teacher_BO
        log_target_BO = F.log_softmax(power_BO, dim=1)
        term_B = F.kl_div(F.log_softmax(student_BO, dim=1), log_target_BO, reduction="none", log_target=True).sum(dim=1)
        if self.weighted:
            term_B = term_B * (power_BO.logsumexp(dim=1) - self.exponent * teacher_BO.logsumexp(dim=1)).exp()
        return {"transformed": self.loss_weight * row_mean(term_B, batch.is_fake, self.fake_weight)}


class CurriculumKD(Distiller):
    """w T^2 KL(p_t^T || p_s^T) with T = T_0 + R sigmoid(theta), theta trained to make the loss larger (Li et al., CTKD).

    Logits are [B, O]. The gradient of theta is multiplied by lambda, which falls from 0 to -1 along a cosine over
    `ramp_epochs`: the task gets harder as the student learns. T^2 is inside the graph, as in the authors' code; leaving
    it out turns the sign of theta's gradient. Defaults of CIFAR-100: theta 1 at the start, so T is 15.6 of 1 to 21.
    """

    name = "ctkd"
    needs = Needs(logits=True, teacher_pred_only=True)
    source = "Li et al., AAAI 2023, arXiv 2211.16231"
    flows = (
        Flow("teacher.logits", "student.logits", "softmax at a learnt T", "KL T^2", "0.9", "lambda 0 to -1, cosine"),
    )

    def __init__(
        self,
        *,
        lowest_temperature: float = 1.0,
        temperature_range: float = 20.0,
        first_raw_temperature: float = 1.0,
        ramp_epochs: float = 10.0,
        soft_weight: float = 0.9,
        task_weight: float = 0.1,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        above_zero(self.name, lowest_temperature=lowest_temperature, temperature_range=temperature_range)
        not_negative(self.name, ramp_epochs=ramp_epochs, soft_weight=soft_weight)
        not_negative(self.name, task_weight=task_weight, fake_weight=fake_weight)
        self.lowest_temperature, self.temperature_range = lowest_temperature, temperature_range
        self.first_raw_temperature, self.ramp_epochs = first_raw_temperature, ramp_epochs
        self.soft_weight, self.task_weight, self.fake_weight = soft_weight, task_weight, fake_weight

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make the learnable temperature."""
        super().build(student, teacher, data)
        self.raw_temperature = nn.Parameter(torch.tensor([self.first_raw_temperature]))

    def no_decay(self) -> set[str]:
        """The temperature."""
        return {"raw_temperature"}

    def reversal(self, epoch: float) -> float:
        """What the gradient of theta is multiplied by: 0 at the start, -1 from `ramp_epochs` on."""
        if epoch >= self.ramp_epochs:
            return -1.0
        return (math.cos(math.pi * epoch / self.ramp_epochs) - 1) / 2

    def temperature(self, epoch: float = 0) -> Tensor:
        """T [1], whose gradient reaches theta times `reversal`."""
        theta = self.raw_temperature
        turned = theta.detach() + self.reversal(epoch) * (theta - theta.detach())
        return self.lowest_temperature + self.temperature_range * torch.sigmoid(turned)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"soft"}."""
        student_BO, teacher_BO = both(student, teacher)
        temperature = self.temperature(epoch)
        kl = row_mean(kl_terms(student_BO, teacher_BO, temperature), batch.is_fake, self.fake_weight)
        return {"soft": self.soft_weight * (kl * temperature**2).sum()}


METHODS: dict[str, type[Distiller]] = {m.name: m for m in (NormalizedKD, TransformedTeacher, CurriculumKD)}
