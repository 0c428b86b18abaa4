"""The objective of a student that is shown the teacher's outputs on the clean images, kept in a table."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cgankd.data.batches import Batch
from cgankd.fit.device import Forward
from cgankd.fit.plain import Plain
from cgankd.types import Task


class Taught(Plain):
    """(1 - a) * hard + a * soft (Hinton et al., arXiv 1503.02531), with the teacher's outputs [N, O] on rows of a mixture."""

    def __init__(self, task: Task, teacher_NO: Tensor, temperature: float, soft_weight: float) -> None:
        super().__init__(task)
        self.teacher_NO, self.temperature, self.soft_weight = teacher_NO, temperature, soft_weight

    def __call__(self, net: Forward, unit_BCHW: Tensor, batch: Batch, step: int) -> Mapping[str, Tensor]:
        """{"loss", "hard", "soft"}."""
        out_BO = net.pred(unit_BCHW)
        teacher_BO = self.teacher_NO[batch.index_B].to(out_BO.device)
        hard = self.task.loss(out_BO, batch.labels_B)
        soft = self.task.soft_loss(out_BO, teacher_BO, temperature=self.temperature)
        return {"loss": (1 - self.soft_weight) * hard + self.soft_weight * soft, "hard": hard, "soft": soft}
