"""Objectives of M3: the plain task loss, and KD losses that ride on it; `make_objective` picks one by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from cgankd.data.batches import Batch
from cgankd.types import Task

TeacherView = Callable[[Tensor, Batch], Tensor]
"""Teacher outputs [B, O] for augmented images in [0, 1] and the batch they came from."""


class Plain:
    """The task's own loss on hard labels."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self, out_BO: Tensor, unit_BCHW: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """{"loss"}."""
        return {"loss": self.task.loss(out_BO, batch.labels_B)}


class Hinton:
    """(1 - alpha) * hard + alpha * soft, the soft term by the task (Hinton et al., arXiv 1503.02531, section 2)."""

    def __init__(self, task: Task, teacher: TeacherView, *, temperature: float, soft_weight: float) -> None:
        self.task, self.teacher = task, teacher
        self.temperature, self.soft_weight = temperature, soft_weight

    def __call__(self, out_BO: Tensor, unit_BCHW: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """{"loss", "hard", "soft"}."""
        hard = self.task.loss(out_BO, batch.labels_B)
        soft = self.task.soft_loss(out_BO, self.teacher(unit_BCHW, batch), temperature=self.temperature)
        loss = (1 - self.soft_weight) * hard + self.soft_weight * soft
        return {"loss": loss, "hard": hard.detach(), "soft": soft.detach()}


DISTILLERS: dict[str, Callable[..., Hinton]] = {"kd": Hinton}


def make_distiller(name: str, task: Task, teacher: TeacherView, *, temperature: float, soft_weight: float) -> Hinton:
    """The KD objective called `name`. Raises ValueError on an unknown name."""
    if name not in DISTILLERS:
        raise ValueError(f"student.distiller {name!r} is not known; choose one of {', '.join(sorted(DISTILLERS))}")
    return DISTILLERS[name](task, teacher, temperature=temperature, soft_weight=soft_weight)
