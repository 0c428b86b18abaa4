"""A KD loss around another one: what it does not change itself, the inner one does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from cgankd.distill.base import Batch, DataSpec, Distiller, ModelSpec, Needs, Phase, RunTeacher
from cgankd.distill.options import checked_distiller
from cgankd.types import Outputs


class Wrapper(Distiller):
    """Base of the methods that take `method`, the name of another KD loss, and its `options`."""

    scalar = True

    def __init__(self, method: str, options: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.inner = checked_distiller(method, dict(options or {}), "method", "options")
        self.needs = self._needs()  # type: ignore[misc]
        self.scalar = self.inner.scalar  # type: ignore[misc]
        self.task_weight = self.inner.task_weight
        self.task_on_fakes = self.inner.task_on_fakes
        self.weighs_rows = self.inner.weighs_rows
        self.num_negatives = self.inner.num_negatives

    def _needs(self) -> Needs:
        cached = self.inner.needs.teacher_pred_only and not self.has_own("run_teacher")
        return replace(self.inner.needs, teacher_pred_only=cached)

    def has_own(self, hook: str) -> bool:
        """By this class, where it does more than to pass the call on, or by the inner method."""
        return getattr(type(self), hook) is not getattr(Wrapper, hook) or self.inner.has_own(hook)

    def refusal(self, data: DataSpec) -> str | None:
        """Why the inner method, named, cannot distil these labels."""
        why = self.inner.refusal(data)
        return None if why is None else f"{self.name} around {why}"

    def check_teacher(self, teacher: ModelSpec) -> None:
        """As the inner method does."""
        self.inner.check_teacher(teacher)

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Build the inner method. Raises TaskNotSupported where it cannot distil these labels."""
        self.check_task(data)
        self.inner.build(student, teacher, data)
        self.needs = self._needs()  # type: ignore[misc]  # A method may ask for less once it knows the labels.
        super().build(student, teacher, data)
        self.num_negatives = self.inner.num_negatives

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """Those of the inner method."""
        return self.inner.losses(student, teacher, batch, epoch)

    def phases(self) -> list[Phase]:
        """Those of the inner method."""
        return self.inner.phases()

    def phase_losses(self, phase: str, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Those of the inner method."""
        return self.inner.phase_losses(phase, student, teacher, batch)

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """Those of the inner method."""
        return self.inner.phase_parameters(phase)

    def uses_teacher(self, phase: str) -> bool:
        """As the inner method does."""
        return self.inner.uses_teacher(phase)

    def run_teacher(self, run: RunTeacher, x_BCHW: Tensor, is_fake_B: Tensor, phase: str) -> Outputs:
        """As the inner method does."""
        return self.inner.run_teacher(run, x_BCHW, is_fake_B, phase)

    def no_decay(self) -> set[str]:
        """Those of the inner method."""
        return {f"inner.{name}" for name in self.inner.no_decay()}

    def rates(self) -> dict[str, float]:
        """Those of the inner method."""
        return {f"inner.{name}": rate for name, rate in self.inner.rates().items()}

    def student_for_inference(self) -> nn.Module:
        """That of the inner method."""
        return self.inner.student_for_inference()
