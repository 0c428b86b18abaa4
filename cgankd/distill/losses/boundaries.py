"""KD losses on maps before the last ReLU of a stage: activation boundaries (AB) and the overhaul (OFD)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs, Phase
from cgankd.distill.losses.feature_terms import connector, in_range, pair_specs, same_size
from cgankd.distill.losses.logit_terms import row_mean
from cgankd.types import Outputs


def fine_to_coarse(num: int) -> list[float]:
    """Weights 2^(l - L + 1) of L stages: the last counts 1, each finer one half of the next."""
    return [2.0 ** (k - num + 1) for k in range(num)]


class ActivationBoundaries(Distiller):
    """Phase "boundaries": sum_l 2^(l-L+1) d(c(F_s), F_t) / B * boundary_weight on maps before ReLU; then the task alone.

    Maps are [B, C, H, W]. d(s, t) sums (s + m)^2 where s > -m and t <= 0, and (s - m)^2 where s <= m and t > 0, over C,
    H, W; m = `margin`; c is a 1x1 convolution with batch norm. boundary_weight 0.003 is RepDistiller's factor 3 / 1000.
    The phase trains student and connectors. In the student's own training the loss is zero unless `train_weight` (a
    multiple of boundary_weight) keeps it on. Sums over a sample's map, mean over the batch, so the batch size does not
    matter. Its minimum is 0, where every |s| >= m on the teacher's side. Here the teacher is in evaluation mode; the
    authors' program leaves its batch norms in training mode.
    """

    name = "ab"
    needs = Needs(preacts=True, stages=True)
    scalar = True
    source = "Heo et al., AAAI 2019, arXiv 1811.03233"
    flows = (
        Flow(
            "teacher.stages:preact",
            "student.stages:preact",
            "1x1 convolution",
            "hinge to the sign",
            "0.003",
            phase="boundaries",
        ),
        Flow(
            "teacher.stages:preact",
            "student.stages:preact",
            "1x1 convolution",
            "hinge to the sign",
            "0.003 train_weight, which is 0",
        ),
    )

    def __init__(
        self,
        *,
        boundary_weight: float = 0.003,
        margin: float = 1.0,
        boundaries_share: float = 0.125,
        boundaries_learning_rate: float | None = None,
        train_weight: float = 0.0,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        in_range(self.name, boundary_weight=boundary_weight, margin=margin, train_weight=train_weight)
        in_range(self.name, fake_weight=fake_weight)
        self.fake_weight = fake_weight
        in_range(self.name, low=1e-6, high=10.0, boundaries_share=boundaries_share)
        self.boundary_weight, self.margin, self.train_weight = boundary_weight, margin, train_weight
        self.boundaries_share, self.boundaries_learning_rate = boundaries_share, boundaries_learning_rate

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make a connector for each paired stage."""
        super().build(student, teacher, data)
        self.pairs = pair_specs(student, teacher, self.name)
        self.connectors = nn.ModuleList(connector(student.stages[i][0], teacher.stages[j][0]) for i, j in self.pairs)

    def phases(self) -> list[Phase]:
        """The boundaries (30 of 240 epochs in RepDistiller), which move the student too; then its own training."""
        first = Phase("boundaries", self.boundaries_share, self.boundaries_learning_rate, uses_student=True)
        return [first, Phase("train")]

    def phase_losses(self, phase: str, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """{"boundary"}."""
        return {"boundary": self.boundary_weight * self._gap(student, teacher, batch)}

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """The connectors'; none in the student's training without `train_weight`."""
        return super().phase_parameters(phase) if phase == "boundaries" or self.train_weight else []

    def uses_teacher(self, phase: str) -> bool:
        """Not in the student's training without `train_weight`."""
        return phase == "boundaries" or bool(self.train_weight)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"boundary"}: zero without `train_weight`."""
        if not self.train_weight:
            return {"boundary": student.pred.float().sum() * 0}
        return {"boundary": self.train_weight * self.boundary_weight * self._gap(student, teacher, batch)}

    def _gap(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        terms = []
        weights = fine_to_coarse(len(self.pairs))
        for (i, j), connect, weight in zip(self.pairs, self.connectors, weights, strict=True):
            s, t = same_size(connect(student.preacts[i].float()), teacher.preacts[j].detach().float())
            terms.append(weight * boundary_rows(s, t, self.margin))
        return row_mean(torch.stack(terms, dim=1).sum(1), batch.is_fake, self.fake_weight)


def boundary_rows(s_BCHW: Tensor, t_BCHW: Tensor, margin: float) -> Tensor:
    """Sum [B] of squared distances to the margin on the teacher's side of zero, for entries not beyond it (AB)."""
    low = (s_BCHW + margin).square() * ((s_BCHW > -margin) & (t_BCHW <= 0))
    high = (s_BCHW - margin).square() * ((s_BCHW <= margin) & (t_BCHW > 0))
    return (low + high).flatten(1).sum(1)


class FeatureOverhaul(Distiller):
    """w sum_l 2^(l-L+1) d(c(F_s), max(F_t, m)) / B on maps before ReLU (OFD).

    d sums (s - t)^2 over C, H, W where s > t or t > 0. The margin m [C] is the mean of the negative part of N(b, g^2), b
    and g shift and scale of the teacher's batch norm in front of the ReLU: m = b - g phi(b/g) / Phi(-b/g), and -3 g where
    Phi(-b/g) <= 0.001. Behind a sum it is the last norm of the branch, which leaves the shortcut out, as the authors do. A
    stage without such a norm (channels joined, as in ShuffleNetV2) takes the mean of its negative entries in the first
    batch, an adaptation. c: 1x1 convolution, batch norm. Mean over the batch, whose size does not matter. The published
    program trains with the teacher's batch norms in training mode; here the teacher stays in evaluation mode.
    """

    name = "ofd"
    needs = Needs(preacts=True, stages=True, teacher_norms=True)
    scalar = True
    source = "Heo et al., ICCV 2019, arXiv 1904.01866"
    flows = (
        Flow(
            "teacher.stages:preact",
            "student.stages:preact",
            "margin ReLU; 1x1 convolution",
            "partial squared L2",
            "0.001",
        ),
    )

    def __init__(self, *, overhaul_weight: float = 0.001, fake_weight: float = 1.0) -> None:
        super().__init__()
        in_range(self.name, overhaul_weight=overhaul_weight, fake_weight=fake_weight)
        self.overhaul_weight, self.fake_weight = overhaul_weight, fake_weight

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make a connector and the margins of each paired stage; NaN marks margins still to be read off a batch."""
        super().build(student, teacher, data)
        self.pairs = pair_specs(student, teacher, self.name)
        self.connectors = nn.ModuleList(connector(student.stages[i][0], teacher.stages[j][0]) for i, j in self.pairs)
        norms: Sequence[nn.Module | None] = teacher.norms or [None] * len(teacher.stages)
        for k, (_, j) in enumerate(self.pairs):
            self.register_buffer(f"margin_{k}", _margin_of(norms[j], teacher.stages[j][0]))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"overhaul"}."""
        terms = []
        weights = fine_to_coarse(len(self.pairs))
        for k, ((i, j), connect) in enumerate(zip(self.pairs, self.connectors, strict=True)):
            t_BCHW = teacher.preacts[j].detach().float()
            margin_C = self.get_buffer(f"margin_{k}")
            if bool(margin_C.isnan().any()):
                margin_C.copy_(mean_negative(t_BCHW))
            target = torch.maximum(t_BCHW, margin_C[None, :, None, None])
            s_BCHW, target = same_size(connect(student.preacts[i].float()), target)
            terms.append(weights[k] * partial_rows(s_BCHW, target))
        overhaul = row_mean(torch.stack(terms, dim=1).sum(1), batch.is_fake, self.fake_weight)
        return {"overhaul": self.overhaul_weight * overhaul}


def _margin_of(norm: nn.Module | None, channels: int) -> Tensor:
    scale, shift = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if scale is None or shift is None:
        return torch.full((channels,), math.nan)
    return overhaul_margin(scale.detach().float(), shift.detach().float())


def overhaul_margin(scale_C: Tensor, shift_C: Tensor) -> Tensor:
    """E[x given x < 0] for x from N(shift, scale^2), or -3 |scale| where x < 0 has a probability up to 0.001."""
    sigma = scale_C.abs().clamp_min(1e-6)
    ratio = shift_C / sigma
    below = torch.special.ndtr(-ratio)
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    return torch.where(below > 1e-3, shift_C - sigma * density / below.clamp_min(1e-12), -3 * sigma)


def mean_negative(x_BCHW: Tensor) -> Tensor:
    """Mean of the negative entries of each channel [C]; 0 where there are none."""
    negative = x_BCHW < 0
    return (x_BCHW * negative).sum((0, 2, 3)) / negative.sum((0, 2, 3)).clamp_min(1)


def partial_rows(s_BCHW: Tensor, t_BCHW: Tensor) -> Tensor:
    """Sum [B] of squared differences, without entries where the target is at most 0 and the student below it (OFD)."""
    return ((s_BCHW - t_BCHW).square() * ((s_BCHW > t_BCHW) | (t_BCHW > 0))).flatten(1).sum(1)


METHODS: dict[str, type[Distiller]] = {"ab": ActivationBoundaries, "ofd": FeatureOverhaul}
