"""`teacher_adaptation`: the teacher's batch norms follow the images they see while any KD loss is distilled from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from cgankd.distill.base import DataSpec, Flow, ModelSpec, RunTeacher
from cgankd.distill.rows import join
from cgankd.distill.spec import NORMS
from cgankd.distill.wrapper import Wrapper
from cgankd.types import Outputs

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class TeacherAdaptation(Wrapper):
    """Another KD loss, with the teacher's batch-norm statistics by `mode` (Szatkowski et al., arXiv 2308.09544).

    `frozen`: as trained. `batch`: each batch normalised by its own statistics, as published. `adapt`: the statistics
    follow the batches with `momentum` from those of the training, and normalise; `reset_then_adapt` starts from mean 0
    and variance 1. With `rows: fake` only the fakes of a batch are treated so and real rows see the teacher as trained,
    so that targets [B, O] do not depend on how a batch is mixed; fewer than two fakes take the statistics as they are.
    Weights never move. The statistics are kept here and the teacher gets its own back after each step.
    """

    name = "teacher_adaptation"
    source = "Szatkowski et al., WACV 2024, arXiv 2308.09544; the choice of rows is ours"
    status = "adaptation"
    flows = (
        Flow("bank.samples", "teacher.norms", "statistics of the batch", "moving average", "momentum"),
        Flow("teacher (adapted)", "student", "as the wrapped method", "as the wrapped method", "as the wrapped method"),
    )

    def __init__(
        self,
        *,
        method: str = "kd",
        options: Mapping[str, Any] | None = None,
        mode: Literal["frozen", "batch", "adapt", "reset_then_adapt"] = "batch",
        momentum: float = 0.1,
        rows: Literal["fake", "all"] = "fake",
    ) -> None:
        super().__init__(method, options)
        if mode != "frozen" and self.inner.has_own("run_teacher"):
            raise ValueError(
                f"method must look at the teacher itself, but {method} puts other outputs in its place, so that adapted"
                " statistics would reach nothing; choose another method, or mode frozen"
            )
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must be in (0, 1], but is {momentum!r}")
        self.mode, self.momentum, self.rows = mode, momentum, rows

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Copy the statistics of the teacher's batch norms. Raises ValueError where it has none to adapt."""
        super().build(student, teacher, data)
        assert teacher.net is not None, "built with the live teacher"
        self.norms = [(n, m) for n, m in teacher.net.named_modules() if isinstance(m, NORMS)]
        if not self.norms and self.mode != "frozen":
            raise ValueError(
                "student.distiller teacher_adaptation needs a teacher with batch norms; teacher.net has none"
            )
        for name, norm in self.norms:
            for key in STATISTICS:
                value = getattr(norm, key).clone()
                if self.mode == "reset_then_adapt":
                    value = torch.ones_like(value) if key == "running_var" else torch.zeros_like(value)
                self.register_buffer(_flat(name, key), value)

    def run_teacher(self, run: RunTeacher, x_BCHW: Tensor, is_fake_B: Tensor, phase: str) -> Outputs:
        """The teacher under its adapted statistics on the rows that ask for them."""
        if self.mode == "frozen":
            return super().run_teacher(run, x_BCHW, is_fake_B, phase)
        if self.rows == "all" or bool(is_fake_B.all()):
            return self._adapted(run, x_BCHW)
        real_R, fake_F = (~is_fake_B).nonzero()[:, 0], is_fake_B.nonzero()[:, 0]
        if len(fake_F) == 0:
            return run(x_BCHW)
        return join([run(x_BCHW[real_R]), self._adapted(run, x_BCHW[fake_F])], [real_R, fake_F])

    def _adapted(self, run: RunTeacher, x_BCHW: Tensor) -> Outputs:
        """Outputs under the kept statistics, which move where the batch has at least two rows."""
        enough = len(x_BCHW) > 1
        saved = [{key: getattr(m, key).clone() for key in STATISTICS} | {"m": m.momentum} for _, m in self.norms]
        try:
            for name, norm in self.norms:
                norm.momentum = self.momentum
                for key in STATISTICS:
                    getattr(norm, key).copy_(getattr(self, _flat(name, key)))
                norm.train(enough)
            out = run(x_BCHW)
            if enough:
                self._keep()
            if self.mode == "batch" or not enough:
                return out
            for _, norm in self.norms:
                norm.eval()
            return run(x_BCHW)
        finally:
            for (_, norm), values in zip(self.norms, saved, strict=True):
                norm.eval()
                norm.momentum = values.pop("m")
                for key, value in values.items():
                    getattr(norm, key).copy_(value)

    def _keep(self) -> None:
        for name, norm in self.norms:
            for key in STATISTICS:
                getattr(self, _flat(name, key)).copy_(getattr(norm, key))


def _flat(name: str, key: str) -> str:
    return f"{name}.{key}".replace(".", "__")


METHODS = {"teacher_adaptation": TeacherAdaptation}
