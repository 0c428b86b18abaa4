"""KDIGA: the student's loss shall change with the image as the teacher's does."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs
from cgankd.distill.losses.feature_terms import evaluating
from cgankd.distill.losses.logit_terms import above_zero, both, kl_terms, not_negative, row_mean, wide
from cgankd.labels.circle import is_label, label_of, miss
from cgankd.types import Outputs

NO_NET = ModelSpec(0, 0, ())
SOFTENING = 1e-6
"""Radius within which the norm of a difference of gradients is rounded off, so that 0 has a gradient."""


class InputGradient(Distiller):
    """k T^2 KL(p_t^T || p_s^T) + g mean_n |d CE(s(x), y) / dx - d CE(t(x), y) / dx|_2 (KDIGA, reconstruction).

    Shao et al., arXiv 2110.12072; the weights (1 and 1) and T 4 are ours, because the paper's text was not available.
    Gradients [B, C, H, W] are of summed losses with respect to the image in [0, 1], so they do not shrink with the batch,
    and are compared on `iga_fraction` of the rows, spread evenly. The teacher's comes from its one run, in its precision;
    the student runs once more on these rows, in eval mode, so that one image's gradient does not depend on the others and
    no running statistics move, with a second derivative, which `torch.compile` cannot take. Where the teacher's outputs
    are not those of the image compared (teacher_view clean) it runs once more. Without `build` both gradients are those
    of the outputs given, which then have to come from the batch's image on a graph.

    Scalars: |s - t| for KL, and the gradients of the predictions for those of the loss (Sobolev training, adaptation):
    with labels set to the teacher's answer the teacher's loss has no gradient at all.
    """

    name = "kdiga"
    needs = Needs(input_grad=True, label=True)
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
        if is_label(student_BO, self.period):
            soft = miss(student_BO, label_of(teacher_BO, self.period), self.period)
        else:
            soft = kl_terms(student_BO, teacher_BO, self.temperature) * self.temperature**2
        return {
            "soft": self.soft_weight * row_mean(soft, batch.is_fake, self.fake_weight),
            "input_gradient": self.gradient_weight * self.alignment(student, teacher, batch),
        }

    def alignment(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Mean distance of both nets' image gradients over the rows that take part."""
        x_BCHW = batch.x["plain"]
        num = max(1, round(self.iga_fraction * len(x_BCHW)))
        rows_B = torch.arange(num, device=x_BCHW.device) * len(x_BCHW) // num
        is_fake = None if batch.is_fake is None else batch.is_fake[rows_B]
        student_net, teacher_net = (getattr(self, f"{role}_spec", NO_NET).net for role in ("student", "teacher"))
        with torch.autocast(x_BCHW.device.type, enabled=False), torch.enable_grad():
            teacher_BCHW = graph_gradient(teacher.pred, batch, rows_B, self.period, keep_graph=False)
            if teacher_BCHW is None:
                teacher_BCHW = self._of_net(teacher_net, batch, rows_B, keep_graph=False)
            if student_net is not None:
                student_BCHW = self._of_net(student_net, batch, rows_B, keep_graph=True)
            else:
                found = graph_gradient(student.pred, batch, rows_B, self.period, keep_graph=True)
                student_BCHW = self._of_net(None, batch, rows_B, keep_graph=True) if found is None else found
        squared_B = (student_BCHW - teacher_BCHW.detach()).flatten(1).square().sum(dim=1)
        distance_B = (squared_B + SOFTENING**2).sqrt() - SOFTENING
        return row_mean(distance_B, is_fake, self.fake_weight)

    def _of_net(self, net: nn.Module | None, batch: Batch, rows_B: Tensor, *, keep_graph: bool) -> Tensor:
        if net is None:
            raise ValueError(
                f"{self.name} differentiates both nets: call build with the nets, or give outputs of batch.x['plain'] with"
                " requires_grad set, made with gradients enabled"
            )
        return image_gradient(
            net, wide(batch.x["plain"][rows_B]).detach(), batch.y[rows_B], self.period, keep_graph=keep_graph
        )


def loss_sum(pred_BO: Tensor, y_B: Tensor, period: float | None = None) -> Tensor:
    """What is differentiated: the summed cross-entropy, or a scalar's summed predictions."""
    if is_label(pred_BO, period):
        return label_of(pred_BO, period).sum()
    return F.cross_entropy(pred_BO, y_B, reduction="sum")


def graph_gradient(
    pred_BO: Tensor, batch: Batch, rows_B: Tensor, period: float | None, *, keep_graph: bool
) -> Tensor | None:
    """`image_gradient` of some rows from a run that was made already; None where it hangs on no graph with the image."""
    x_BCHW = batch.x["plain"]
    if not (pred_BO.requires_grad and x_BCHW.requires_grad):
        return None
    total = loss_sum(wide(pred_BO[rows_B]), batch.y[rows_B], period)
    (found,) = torch.autograd.grad(total, x_BCHW, create_graph=keep_graph, retain_graph=True, allow_unused=True)
    return None if found is None else found[rows_B]


def image_gradient(
    net: nn.Module, x_BCHW: Tensor, y_B: Tensor, period: float | None = None, *, keep_graph: bool
) -> Tensor:
    """d/dx [B, C, H, W] of `loss_sum` with the net in eval mode."""
    x_BCHW = x_BCHW.clone().requires_grad_(True)
    with evaluating(net):
        pred_BO = net(x_BCHW)
    (gradient_BCHW,) = torch.autograd.grad(loss_sum(pred_BO, y_B, period), x_BCHW, create_graph=keep_graph)
    return gradient_BCHW


METHODS: dict[str, type[Distiller]] = {m.name: m for m in (InputGradient,)}
