"""KD losses that read class logits off feature maps: of image regions (SDD), of branches on the student's stages (OFA)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs
from cgankd.distill.losses.decoupled import warm_up
from cgankd.distill.losses.feature_terms import evaluating
from cgankd.distill.losses.logit_terms import (
    above_zero,
    both,
    decoupled,
    kl_terms,
    not_negative,
    one_of,
    row_mean,
    split,
    wide,
)
from cgankd.types import Outputs


def no_regions(method: str, role: str) -> str:
    """Why a net has no region logits, and what to do."""
    return (
        f"{method} reads regions off the last map, but the {role}'s last linear layer does not act on that map "
        f"(pooled or flattened); choose another student.net or teacher.net, or another student.distiller"
    )


def position_logits(outputs: Outputs, method: str, role: str) -> Tensor:
    """Logits [B, O, H, W] of each position of the last map, whose mean over positions is `pred`.

    For a linear layer on the pooled map they are that layer at each position; for one on the flattened map they are
    H W times the position's share, plus the bias. Raises ValueError where the last layer is neither.
    """
    x_BCHW, head = outputs.stages[-1], outputs.head
    c, h, w = x_BCHW.shape[1:]
    if not isinstance(head, nn.Linear) or head.in_features not in (c, c * h * w):
        raise ValueError(no_regions(method, role))
    x_BCHW, weight = wide(x_BCHW), wide(head.weight)
    if head.in_features == c:
        logits_BOHW = torch.einsum("bchw,oc->bohw", x_BCHW, weight)
    else:
        logits_BOHW = h * w * torch.einsum("bchw,ochw->bohw", x_BCHW, weight.view(-1, c, h, w))
    return logits_BOHW if head.bias is None else logits_BOHW + wide(head.bias)[:, None, None]


def region_logits(logits_BOHW: Tensor, scales: tuple[int, ...]) -> Tensor:
    """Logits [B, R, O] of the cells of an m x m grid for each scale m, R the sum of m^2."""
    grids = [F.adaptive_avg_pool2d(logits_BOHW, m).flatten(2) for m in scales]
    return torch.cat(grids, dim=2).transpose(1, 2)


class ScaleDecoupled(Distiller):
    """KD or DKD between the logits of each region, mean over rows and regions (SDD).

    Logits are [B, R, O]. Regions are the cells of m x m grids of the last map, m in `scales`, read through each net's own
    last layer; m = 1 is the whole image. A region where the teacher is right while it is wrong on the whole image, or the
    other way round, counts `complementary_weight` times. Wei et al., CVPR 2024, CIFAR-100: scales 1, 2, 4, so the whole
    image weighs 1/21; KD at T 4 with weights 0.9 and 0.1. With base dkd the authors take soft_weight and task_weight 1;
    `target_weight`, `non_target_weight` and `warmup_epochs` say something there alone.
    """

    name = "sdd"
    needs = Needs(logits=True, stages=True, teacher_head=True, label=True)
    source = "Wei et al., CVPR 2024"
    flows = (
        Flow("teacher.regions", "student.regions", "softmax at T", "KL T^2, or DKD", "0.9, twice if complementary"),
    )

    def __init__(
        self,
        *,
        scales: tuple[int, ...] = (1, 2, 4),
        base: Literal["kd", "dkd"] = "kd",
        temperature: float = 4.0,
        soft_weight: float = 0.9,
        target_weight: float = 1.0,
        non_target_weight: float = 8.0,
        warmup_epochs: float = 20.0,
        complementary_weight: float = 2.0,
        task_weight: float = 0.1,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not scales or min(scales) < 1:
            raise ValueError(f"{self.name}.scales must be whole numbers from 1 up, but is {list(scales)}")
        one_of(self.name, ("kd", "dkd"), base=base)
        above_zero(self.name, temperature=temperature)
        not_negative(self.name, soft_weight=soft_weight, target_weight=target_weight, warmup_epochs=warmup_epochs)
        not_negative(self.name, non_target_weight=non_target_weight, complementary_weight=complementary_weight)
        not_negative(self.name, task_weight=task_weight, fake_weight=fake_weight)
        self.scales, self.base, self.temperature = tuple(scales), base, temperature
        self.soft_weight, self.complementary_weight = soft_weight, complementary_weight
        self.target_weight, self.non_target_weight = target_weight, non_target_weight
        self.warmup_epochs, self.task_weight, self.fake_weight = warmup_epochs, task_weight, fake_weight

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Check both nets. Raises ValueError where a grid is finer than a last map, or regions do not make the logits."""
        super().build(student, teacher, data)
        for role, spec in (("student", student), ("teacher", teacher)):
            side = min(spec.stages[-1][1:])
            if max(self.scales) > side:
                raise ValueError(
                    f"{self.name}.scales holds {max(self.scales)}, but the {role}'s last map is {side} wide; "
                    f"leave out scales above {side}"
                )
            if spec.net is not None:
                self.check_net(spec.net, data.image_shape, role)

    def check_net(self, net: nn.Module, image_shape: tuple[int, int, int], role: str) -> None:
        """Raise ValueError where the positions' logits do not average to the net's own, as with a hidden layer."""
        place = next(net.parameters())
        image_CHW = torch.linspace(0, 1, math.prod(image_shape), device=place.device, dtype=place.dtype)
        with evaluating(net), torch.no_grad():
            outputs: Outputs = net.outputs(image_CHW.view(1, *image_shape))  # type: ignore[operator]
            mean_BO = position_logits(outputs, self.name, role).mean((2, 3))
        if not torch.allclose(mean_BO, wide(outputs.pred), rtol=1e-2, atol=1e-2 * float(outputs.pred.abs().max())):
            raise ValueError(no_regions(self.name, role))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"regions"}."""
        student_BRO = region_logits(position_logits(student, self.name, "student"), self.scales)
        teacher_BRO = region_logits(position_logits(teacher, self.name, "teacher"), self.scales).detach()
        y_B1 = batch.y.long()[:, None]
        whole_B1 = teacher.pred.argmax(dim=1, keepdim=True) == y_B1
        disagree_BR = (teacher_BRO.argmax(dim=2) == y_B1) != whole_B1
        term_BR = self.divergence(student_BRO, teacher_BRO, y_B1, epoch)
        term_BR = term_BR * torch.where(disagree_BR, self.complementary_weight, 1.0)
        return {"regions": self.soft_weight * row_mean(term_BR, batch.is_fake, self.fake_weight) / term_BR.shape[1]}

    def divergence(self, student_BRO: Tensor, teacher_BRO: Tensor, y_B1: Tensor, epoch: float) -> Tensor:
        """T^2 KL or T^2 DKD [B, R] of every region's logits."""
        shape = student_BRO.shape[:2]
        student_RO, teacher_RO = student_BRO.flatten(0, 1), teacher_BRO.flatten(0, 1)
        if self.base == "kd":
            term_R = kl_terms(student_RO, teacher_RO, self.temperature).sum(dim=1)
        else:
            y_R = y_B1.expand(shape).flatten()
            target_R, others_R = decoupled(*(split(z_RO / self.temperature, y_R) for z_RO in (student_RO, teacher_RO)))
            term_R = self.target_weight * target_R + self.non_target_weight * others_R
            term_R = term_R * warm_up(epoch, self.warmup_epochs)
        return term_R.view(shape) * self.temperature**2


def enhanced_cross_entropy(student_BO: Tensor, teacher_BO: Tensor, label_B: Tensor, enhancement: float) -> Tensor:
    """-sum_k [(p_t + 1_y)^e - 1_y] log p_s of each row [B]; e = 1 is cross-entropy with p_t."""
    one_hot_BO = F.one_hot(label_B.long(), teacher_BO.shape[1]).to(teacher_BO)
    target_BO = (F.softmax(teacher_BO, dim=1) + one_hot_BO) ** enhancement - one_hot_BO
    return -(target_BO * F.log_softmax(student_BO, dim=1)).sum(dim=1)


class Branch(nn.Sequential):
    """A stage's map [B, C, H, W] to logits [B, O]: a depthwise separable convolution for each later stage, then a mean.

    Each convolution goes to the next stage's channels, with stride 2 where that stage is smaller. Group norm in the
    place of batch norm, so that a batch of one works and no running statistics are kept.
    """

    def __init__(self, shapes: tuple[tuple[int, int, int], ...], num_outputs: int) -> None:
        layers: list[nn.Module] = []
        for (c_in, h_in, _), (c_out, h_out, _) in zip(shapes, shapes[1:], strict=False):
            layers += [nn.Conv2d(c_in, c_in, 3, 2 if h_out < h_in else 1, 1, groups=c_in, bias=False)]
            layers += [nn.Conv2d(c_in, c_out, 1, bias=False), nn.GroupNorm(1, c_out), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shapes[-1][0], num_outputs))


class OneForAll(Distiller):
    """a L(s) + b sum_stages L(branch_i(F_i)), L = -sum_k [(p_t + 1_y)^e - 1_y] log p_s at temperature 1 (OFA-KD).

    Branches on the student's stages turn features into logits, so that nets of other families can teach; they are
    thrown away after training. Hao et al., arXiv 2310.19444: all weights 1, e = enhancement 1 on CIFAR-100 (then L is
    cross-entropy with p_t) and 1.5 for CNN students on ImageNet. L's minimum is not 0. The layout of the branches is
    ours, an adaptation (see `Branch`). `stages` are numbers from 1 up; none means all.
    """

    name = "ofa_kd"
    needs = Needs(logits=True, stages=True, label=True, teacher_pred_only=True)
    source = "Hao et al., NeurIPS 2023, arXiv 2310.19444"
    status = "adaptation"
    flows = (
        Flow("teacher.logits", "student.logits", "softmax, label enhanced", "cross-entropy", "1"),
        Flow("teacher.logits", "student.stage", "branch to logits, label enhanced", "cross-entropy", "1"),
    )

    def __init__(
        self,
        *,
        enhancement: float = 1.0,
        logit_weight: float = 1.0,
        branch_weight: float = 1.0,
        stages: tuple[int, ...] = (),
        task_weight: float = 1.0,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        above_zero(self.name, enhancement=enhancement)
        not_negative(self.name, logit_weight=logit_weight, branch_weight=branch_weight)
        not_negative(self.name, task_weight=task_weight, fake_weight=fake_weight)
        self.enhancement, self.logit_weight, self.branch_weight = enhancement, logit_weight, branch_weight
        self.stages, self.task_weight, self.fake_weight = tuple(stages), task_weight, fake_weight

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make the branches. Raises ValueError on a stage the student does not have."""
        super().build(student, teacher, data)
        total = len(student.stages)
        self.chosen = self.stages or tuple(range(1, total + 1))
        if not all(1 <= stage <= total for stage in self.chosen):
            raise ValueError(f"{self.name}.stages must be numbers from 1 to {total}, but is {list(self.stages)}")
        self.branches = nn.ModuleList([Branch(student.stages[i - 1 :], student.num_outputs) for i in self.chosen])

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"logits", "branches"}."""
        student_BO, teacher_BO = both(student, teacher)
        branches = student_BO.new_zeros(())
        with torch.autocast(student_BO.device.type, enabled=False):
            for stage, branch in zip(self.chosen, self.branches, strict=True):
                branches = branches + self.term(branch(wide(student.stages[stage - 1])), teacher_BO, batch)
        return {
            "logits": self.logit_weight * self.term(student_BO, teacher_BO, batch),
            "branches": self.branch_weight * branches,
        }

    def term(self, logits_BO: Tensor, teacher_BO: Tensor, batch: Batch) -> Tensor:
        """L, mean over rows."""
        rows_B = enhanced_cross_entropy(logits_BO, teacher_BO, batch.y, self.enhancement)
        return row_mean(rows_B, batch.is_fake, self.fake_weight)


METHODS: dict[str, type[Distiller]] = {m.name: m for m in (ScaleDecoupled, OneForAll)}
