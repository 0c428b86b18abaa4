"""`fsp`: flow of solution procedure, how a net's channels of one stage go with those of the next."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs, Phase
from cgankd.distill.losses.feature_terms import adapters, in_range, one_of, pair_chain, row_means, same_size
from cgankd.distill.losses.logit_terms import row_mean
from cgankd.types import Outputs

TRAININGS = ("first", "joint")


class FlowOfSolution(Distiller):
    """Phase "flow": w sum_l mean (G_s - G_t)^2 over neighbouring stages; then the task alone (Yim et al.).

    G [B, C_l, C_(l+1)] is the FSP matrix of a net: sum over positions of map l times map l + 1 over H W, the larger map of
    the two averaged down to the smaller. training "first", the paper's: the phase moves student and adapters, the
    student's own training has no KD loss. "joint": a term beside the task's loss throughout, with no phase. The published
    form asks for as many channels in both nets; where they differ, a 1x1 convolution with batch norm makes the teacher's
    number of the student's, an adaptation. Stages are compared where both nets have them, the stem is not. w is 1 for
    "first" and 50 for "joint" where left out (null). Means, so the batch size does not matter.
    """

    name = "fsp"
    needs = Needs(stages=True)
    scalar = True
    source = "Yim et al., CVPR 2017 (FSP)"
    flows = (
        Flow("teacher.stages", "student.stages", "FSP matrices of neighbouring stages", "MSE", "1", phase="flow"),
        Flow("teacher.stages", "student.stages", "the same (training joint)", "MSE", "50"),
    )

    def __init__(
        self,
        *,
        flow_weight: float | None = None,
        training: Literal["first", "joint"] = "first",
        flow_share: float = 0.125,
        flow_learning_rate: float | None = None,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        one_of(self.name, TRAININGS, training=training)
        flow_weight = {"first": 1.0, "joint": 50.0}[training] if flow_weight is None else flow_weight
        in_range(self.name, flow_weight=flow_weight, fake_weight=fake_weight)
        in_range(self.name, low=1e-6, high=10.0, flow_share=flow_share)
        if flow_learning_rate is not None:
            in_range(self.name, low=1e-9, high=1e3, flow_learning_rate=flow_learning_rate)
        self.flow_weight, self.training_form, self.fake_weight = flow_weight, training, fake_weight
        self.flow_share, self.flow_learning_rate = flow_share, flow_learning_rate

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make the adapters. Raises ValueError where the nets have less than two stages in common."""
        super().build(student, teacher, data)
        self.pairs = pair_chain(student, teacher, self.name)
        self.adapters = adapters(student, teacher, self.pairs)

    def phases(self) -> list[Phase]:
        """The flow (30 of 240 epochs in RepDistiller), which moves the student too, then its own training."""
        if self.training_form == "joint":
            return [Phase("train")]
        return [Phase("flow", self.flow_share, self.flow_learning_rate, uses_student=True), Phase("train")]

    def phase_losses(self, phase: str, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """{"flow"}."""
        return {"flow": self.flow_weight * self._gap(student, teacher, batch)}

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """The adapters', where the loss is at work."""
        return super().phase_parameters(phase) if self.uses_teacher(phase) else []

    def uses_teacher(self, phase: str) -> bool:
        """In the phase, and in the student's training where it is joint."""
        return phase == "flow" or self.training_form == "joint"

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"flow"}: zero where the student was trained for it first."""
        if self.training_form == "first":
            return {"flow": student.pred.float().sum() * 0}
        return {"flow": self.flow_weight * self._gap(student, teacher, batch)}

    def _gap(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        s = [adapt(student.stages[i].float()) for (i, _), adapt in zip(self.pairs, self.adapters, strict=True)]
        t = [teacher.stages[j].detach().float() for _, j in self.pairs]
        terms = [row_means((fsp_matrix(*s[k : k + 2]) - fsp_matrix(*t[k : k + 2])).square()) for k in range(len(s) - 1)]
        return row_mean(torch.stack(terms, dim=1).sum(1), batch.is_fake, self.fake_weight)


def fsp_matrix(first_BCHW: Tensor, second_BCHW: Tensor) -> Tensor:
    """Mean over positions of the products of two maps' channels, [B, C1, C2]; the larger map averaged to the smaller."""
    first, second = (m.flatten(2) for m in same_size(first_BCHW, second_BCHW))
    return first @ second.transpose(1, 2) / first.shape[2]


METHODS: dict[str, type[Distiller]] = {"fsp": FlowOfSolution}
