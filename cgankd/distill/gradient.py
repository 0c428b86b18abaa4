"""KDIGA: the student's loss shall change with the image as the teacher's does."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs
from cgankd.distill.feature_terms import evaluating
from cgankd.distill.logit_terms import (
    above_zero,
    both,
    is_one_number,
    kl_terms,
    not_negative,
    row_mean,
    wide,
)
from cgankd.types import Outputs, wrapped

SOFTENING = 1e-6
"""Radius within which the norm of a difference of gradients is rounded off, so that 0 has a gradient."""


class InputGradient(Distiller):
    """k T^2 KL(p_t^T || p_s^T) + g mean_n |d CE(s(x), y) / dx - d CE(t(x), y) / dx|_2 (KDIGA, reconstruction).

    Shao et al., arXiv 2110.12072; the weights (1 and 1) and T 4 are ours, because the paper's text was not available.
    Gradients are of summed losses with respect to the image in [0, 1], so they do not shrink with the batch. They are
    taken in eval mode: one image's gradient then does not depend on the others, and no running statistics move.
    Both nets run once more on `iga_fraction` of the rows, spread evenly over the batch, the student with a second
    derivative: 1 triples the cost of a step. `torch.compile` cannot differentiate twice.

    Scalars: |s - t| for KL, and the gradients of the predictions for those of the loss (Sobolev training, adaptation):
    with labels set to the teacher's answer the teacher's loss has no gradient at all.
    """

    name = "kdiga"
    needs = Needs(input_grad=True)
    scalar = True
    source = "Shao, Yi, Chen and Hsieh 2021, arXiv 2110.12072"
    status = "reconstruction"
    flows = (
        Flow("teacher.logits", "student.logits", "softmax at T", "KL T^2, or |difference| of scalars", "1"),
        Flow("teacher.input_grad", "student.input_grad", "of the loss, or of a scalar", "Euclidean norm", "1"),
    )

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        soft_weight: float = 1.0,
        gradient_weight: float = 1.0,
        iga_fraction: float = 1.0,
        task_weight: float = 1.0,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        above_zero(self.name, temperature=temperature, iga_fraction=iga_fraction)
        if iga_fraction > 1:
            raise ValueError(f"{self.name}.iga_fraction must be 1 or below, but is {iga_fraction}")
        not_negative(self.name, soft_weight=soft_weight, gradient_weight=gradient_weight)
        not_negative(self.name, task_weight=task_weight, fake_weight=fake_weight)
        self.temperature, self.soft_weight, self.gradient_weight = temperature, soft_weight, gradient_weight
        self.iga_fraction, self.task_weight, self.fake_weight = iga_fraction, task_weight, fake_weight

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Remember the live nets. Raises ValueError where one is missing."""
        super().build(student, teacher, data)
        if student.net is None or teacher.net is None:
            raise ValueError(
                f"{self.name} differentiates both nets, so it needs the nets themselves and no stored outputs"
            )

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"soft", "input_gradient"}."""
        student_BO, teacher_BO = both(student, teacher)
        if is_one_number(student_BO):
            soft = wrapped(student_BO[:, 0] - teacher_BO[:, 0], self.period).abs()
        else:
            soft = kl_terms(student_BO, teacher_BO, self.temperature) * self.temperature**2
        return {
            "soft": self.soft_weight * row_mean(soft, batch.is_fake, self.fake_weight),
            "input_gradient": self.gradient_weight * self.alignment(batch),
        }

    def alignment(self, batch: Batch) -> Tensor:
        """Mean distance of both nets' image gradients over the rows that take part."""
        assert self.student_spec.net is not None and self.teacher_spec.net is not None, "build checks this"
        x_BCHW = batch.x["plain"]
        num = max(1, round(self.iga_fraction * len(x_BCHW)))
        rows_B = torch.arange(num, device=x_BCHW.device) * len(x_BCHW) // num
        x_BCHW, y_B = wide(x_BCHW[rows_B]).detach(), batch.y[rows_B]
        is_fake = None if batch.is_fake is None else batch.is_fake[rows_B]
        with torch.autocast(x_BCHW.device.type, enabled=False), torch.enable_grad():
            teacher_BCHW = image_gradient(self.teacher_spec.net, x_BCHW, y_B, keep_graph=False)
            student_BCHW = image_gradient(self.student_spec.net, x_BCHW, y_B, keep_graph=True)
        squared_B = (student_BCHW - teacher_BCHW).flatten(1).square().sum(dim=1)
        distance_B = (squared_B + SOFTENING**2).sqrt() - SOFTENING
        return row_mean(distance_B, is_fake, self.fake_weight)


def image_gradient(net: nn.Module, x_BCHW: Tensor, y_B: Tensor, *, keep_graph: bool) -> Tensor:
    """d/dx [B, C, H, W] of the summed cross-entropy, or of a scalar's summed predictions."""
    x_BCHW = x_BCHW.clone().requires_grad_(True)
    with evaluating(net):
        pred_BO = net(x_BCHW)
    total = pred_BO.sum() if is_one_number(pred_BO) else F.cross_entropy(pred_BO, y_B, reduction="sum")
    (gradient_BCHW,) = torch.autograd.grad(total, x_BCHW, create_graph=keep_graph)
    return gradient_BCHW


METHODS: dict[str, type[Distiller]] = {m.name: m for m in (InputGradient,)}
