"""`kd`: the teacher's outputs as soft targets, for classes and for scalars."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from cgankd.distill.base import Batch, Distiller, Flow, Needs
from cgankd.distill.losses.logit_terms import (
    above_zero,
    both,
    kl_terms,
    not_negative,
    one_of,
    row_mean,
    standardized,
)
from cgankd.labels.circle import is_label, label_of, miss
from cgankd.types import Outputs


class KD(Distiller):
    """w T^2 KL(p_t^T || p_s^T), mean over the batch (Hinton et al., arXiv 1503.02531, section 2).

    p are softmaxes of the logits [B, O]. `standardize` divides each row of logits by its spread first (Sun et al.,
    arXiv 2403.01427). Scalars: w |s - t| on the label normalised to [0, 1], where temperature and `standardize` say
    nothing; circular labels the short way round. Left out (null), the options are those of CIFAR-100: T 4, w = 0.9 and
    for the task's own loss 1 - w (RepDistiller); with `standardize` T 2, w = 9 and 0.1 (Sun et al.). `reduction`
    batch_and_classes divides the KL by O too, as the first version of cGAN-KD does (with T 5, w 0.5); scalars have O = 1.
    """

    name = "kd"
    needs = Needs(teacher_pred_only=True)
    scalar = True
    weighs_rows = True
    source = "Hinton et al. 2015, arXiv 1503.02531; standardize: Sun et al., CVPR 2024, arXiv 2403.01427"
    flows = (Flow("teacher.logits", "student.logits", "softmax at T", "KL T^2, or |difference| of scalars", "0.9"),)

    def __init__(
        self,
        *,
        temperature: float | None = None,
        soft_weight: float | None = None,
        task_weight: float | None = None,
        standardize: bool = False,
        fake_weight: float = 1.0,
        reduction: Literal["batch", "batch_and_classes"] = "batch",
    ) -> None:
        super().__init__()
        one_of(self.name, ("batch", "batch_and_classes"), reduction=reduction)
        temperature = (2.0 if standardize else 4.0) if temperature is None else temperature
        soft_weight = (9.0 if standardize else 0.9) if soft_weight is None else soft_weight
        task_weight = 0.1 if task_weight is None and standardize else task_weight
        above_zero(self.name, temperature=temperature)
        not_negative(self.name, soft_weight=soft_weight, fake_weight=fake_weight)
        if task_weight is None and soft_weight > 1:
            raise ValueError(f"{self.name}.task_weight must be set, because soft_weight {soft_weight} is above 1")
        not_negative(self.name, task_weight=0.0 if task_weight is None else task_weight)
        self.temperature, self.soft_weight, self.fake_weight = temperature, soft_weight, fake_weight
        self.standardize, self.reduction = standardize, reduction
        self.task_weight = 1 - soft_weight if task_weight is None else task_weight

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"soft"}."""
        student_BO, teacher_BO = both(student, teacher)
        if is_label(student_BO, self.period):
            miss_B = miss(student_BO, label_of(teacher_BO, self.period), self.period)
            miss_B = miss_B if batch.soft_weight is None else miss_B * batch.soft_weight
            return {"soft": self.soft_weight * row_mean(miss_B, batch.is_fake, self.fake_weight)}
        if self.standardize:
            student_BO, teacher_BO = standardized(student_BO), standardized(teacher_BO)
        kl_BO = kl_terms(student_BO, teacher_BO, self.temperature)
        kl_BO = kl_BO if batch.soft_weight is None else kl_BO * batch.soft_weight[:, None]
        kl = row_mean(kl_BO, batch.is_fake, self.fake_weight)
        soft = self.soft_weight * (kl * self.temperature**2)
        return {"soft": soft / student_BO.shape[1] if self.reduction == "batch_and_classes" else soft}


METHODS: dict[str, type[Distiller]] = {"kd": KD}
