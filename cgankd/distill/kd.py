"""`kd`: the teacher's outputs as soft targets, for classes and for scalars."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, Needs, mean_by_source, wrapped
from cgankd.types import Outputs


def soft_targets(student_BO: Tensor, teacher_BO: Tensor, temperature: float) -> Tensor:
    """KL(p_t^T || p_s^T) * T^2 of each sample, [B] (Hinton et al., arXiv 1503.02531, section 2); logits [B, O]."""
    student_BO = F.log_softmax(student_BO / temperature, dim=1)
    teacher_BO = F.log_softmax(teacher_BO / temperature, dim=1)
    return F.kl_div(student_BO, teacher_BO, reduction="none", log_target=True).sum(1) * temperature**2


class KD(Distiller):
    """soft_weight * KL(p_t^T || p_s^T) * T^2, and for scalars soft_weight * |y_s - y_t| on the normalised label.

    Hinton et al., arXiv 1503.02531, section 2. The task's loss has the weight 1 - soft_weight. The scalar form is
    absolute, on the scale of the task's own loss, so that soft_weight means what it says; it has no temperature.
    """

    name = "kd"
    needs = Needs(teacher_pred_only=True)
    scalar = True
    source = "Hinton et al. 2015, arXiv 1503.02531"
    flows = (
        Flow("teacher.logits", "student.logits", "softmax at T (scalar: none)", "KL * T^2 (scalar: L1)", "soft_weight"),
    )

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        soft_weight: float = 0.9,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, but is {temperature!r}")
        if not 0 <= soft_weight <= 1:
            raise ValueError(f"soft_weight must be in [0, 1], but is {soft_weight!r}")
        if not fake_weight >= 0:
            raise ValueError(f"fake_weight must be zero or more, but is {fake_weight!r}")
        self.temperature, self.soft_weight, self.fake_weight = temperature, soft_weight, fake_weight
        self.task_weight = 1 - soft_weight

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"soft"}."""
        return {"soft": self.soft_weight * self.soft(student.pred.float(), teacher.pred.float(), batch)}

    def soft(self, student_BO: Tensor, teacher_BO: Tensor, batch: Batch) -> Tensor:
        """The unweighted soft term, a mean over the batch."""
        if student_BO.shape[1] == 1:
            data: DataSpec | None = getattr(self, "data_spec", None)
            difference_B = wrapped(student_BO[:, 0] - teacher_BO[:, 0], data.period if data else None)
            return mean_by_source(difference_B.abs(), batch, self.fake_weight)
        if self.fake_weight == 1.0 or batch.is_fake is None:
            # The library's own reduction: the sum over the batch is taken in one go, which fixes the last bits.
            student_BO = F.log_softmax(student_BO / self.temperature, dim=1)
            teacher_BO = F.log_softmax(teacher_BO / self.temperature, dim=1)
            return F.kl_div(student_BO, teacher_BO, reduction="batchmean", log_target=True) * self.temperature**2
        return mean_by_source(soft_targets(student_BO, teacher_BO, self.temperature), batch, self.fake_weight)


METHODS: dict[str, type[Distiller]] = {"kd": KD}
