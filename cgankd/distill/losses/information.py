"""IFM: the student follows the information flow of an auxiliary teacher of its own topology."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs, Phase
from cgankd.distill.losses.feature_terms import Scope, in_range, one_of, over_sources, pooled_pair, probe, unit_rows
from cgankd.distill.losses.relations import SCOPES
from cgankd.distill.spec import another_net, check_named
from cgankd.labels.circle import miss
from cgankd.types import Outputs


class InformationFlow(Distiller):
    """D(pooled) + w(e) sum_l D(stage l) between student and an auxiliary teacher, w(e) = w0 decay^e (Passalis et al.).

    D is the Jeffreys divergence mean_ij (P_t - P_s)(log P_t - log P_s) of neighbour probabilities [B, B], summed over two
    kernels, (cosine + 1) / 2 and 1 / (1 + distance), rows over their sums. The auxiliary teacher is a net like the student,
    `auxiliary_width` times as wide, or the net `auxiliary_net` with as many stages (with `auxiliary_channels` where that
    one has a width), which a student of fixed channels needs. Phase "auxiliary_start" trains it on the labels, phase
    "auxiliary" moves it towards the teacher's pooled features by D. e counts whole epochs: early layers matter in the
    first ones (critical period). The mean over B^2 shrinks as 1 / B; `normalize_by_batch` multiplies by B / 64. The paper
    transfers representations alone; here the task's loss stays beside it. relational_scope as in `sp`.
    """

    name = "ifm"
    needs = Needs(pooled=True, stages=True, label=True)
    scalar = True
    source = "Passalis, Tzelepi and Tefas, CVPR 2020, arXiv 2005.00727"
    flows = (
        Flow("labels", "auxiliary.pred", "none", "task loss", "1", phase="auxiliary_start"),
        Flow("teacher.pooled", "auxiliary.pooled", "two kernels", "Jeffreys", "1", phase="auxiliary"),
        Flow("auxiliary.pooled", "student.pooled", "two kernels", "Jeffreys", "1"),
        Flow("auxiliary.stages", "student.stages", "two kernels", "Jeffreys", "100", "0.7^epoch"),
    )

    def __init__(
        self,
        *,
        pooled_weight: float = 1.0,
        early_weight: float = 100.0,
        early_decay: float = 0.7,
        auxiliary_width: float = 2.0,
        auxiliary_net: str | None = None,
        auxiliary_channels: int | None = None,
        auxiliary_start_share: float = 0.5,
        auxiliary_share: float = 0.8,
        auxiliary_learning_rate: float | None = None,
        relational_scope: Scope = "mixed",
        normalize_by_batch: bool = False,
    ) -> None:
        super().__init__()
        in_range(self.name, pooled_weight=pooled_weight, early_weight=early_weight)
        in_range(self.name, high=1, early_decay=early_decay)
        in_range(self.name, low=1e-2, high=100, auxiliary_width=auxiliary_width)
        in_range(self.name, low=1e-6, high=10, auxiliary_share=auxiliary_share)
        in_range(self.name, low=1e-6, high=10, auxiliary_start_share=auxiliary_start_share)
        check_named("auxiliary_net", auxiliary_net, "auxiliary_channels", auxiliary_channels)
        one_of(self.name, SCOPES, relational_scope=relational_scope)
        self.pooled_weight, self.early_weight, self.early_decay = pooled_weight, early_weight, early_decay
        self.auxiliary_width, self.auxiliary_start_share = auxiliary_width, auxiliary_start_share
        self.auxiliary_net, self.auxiliary_channels = auxiliary_net, auxiliary_channels
        self.auxiliary_share, self.auxiliary_learning_rate = auxiliary_share, auxiliary_learning_rate
        self.scope, self.normalize = relational_scope, normalize_by_batch

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make the auxiliary teacher. Raises ValueError where the student cannot be scaled or the stages do not pair up."""
        super().build(student, teacher, data)
        option = "student.distiller_options.auxiliary_net"
        named = (self.auxiliary_net, self.auxiliary_channels)
        self.auxiliary = another_net(student, "student", option, self.auxiliary_width, *named)
        num, own = len(student.stages), len(probe(self.auxiliary, data.image_shape).stages)
        if num == 0 or own != num:
            raise ValueError(
                f"{option} must be a net with as many stages as student.net, which has {num}, but has {own}"
            )

    def phases(self) -> list[Phase]:
        """The auxiliary teacher on labels, the same towards the teacher, then the student."""
        rate = self.auxiliary_learning_rate
        start = Phase("auxiliary_start", self.auxiliary_start_share, rate)
        return [start, Phase("auxiliary", self.auxiliary_share, rate), Phase("train")]

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """The auxiliary teacher's in its phases, none in the student's training."""
        return [] if phase == "train" else list(self.auxiliary.parameters())

    def uses_teacher(self, phase: str) -> bool:
        """Only where the auxiliary teacher learns from it."""
        return phase == "auxiliary"

    def phase_losses(self, phase: str, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """{"label"} in "auxiliary_start", {"pooled"} in "auxiliary"."""
        self.auxiliary.train()
        out = self._auxiliary_outputs(batch)
        if phase == "auxiliary_start":
            return {"label": self._label_loss(out.pred.float(), batch.y)}
        return {"pooled": self._flow(*pooled_pair(out, teacher), batch)}

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"pooled", "early"}."""
        self.auxiliary.eval()
        with torch.no_grad():
            out = self._auxiliary_outputs(batch)
        early = [
            self._flow(s.float().flatten(1), t.float().flatten(1), batch)
            for s, t in zip(student.stages, out.stages, strict=True)
        ]
        weight = self.early_weight * self.early_decay ** math.floor(epoch)
        return {
            "pooled": self.pooled_weight * self._flow(*pooled_pair(student, out), batch),
            "early": weight * torch.stack(early).sum(),
        }

    def _auxiliary_outputs(self, batch: Batch) -> Outputs:
        out: Outputs = self.auxiliary.outputs(batch.x["plain"])  # type: ignore[operator]
        return out

    def _label_loss(self, pred_BO: Tensor, y_B: Tensor) -> Tensor:
        if self.data_spec.num_classes:
            return F.cross_entropy(pred_BO, y_B)
        return miss(pred_BO, y_B, self.period).mean()

    def _flow(self, s: Tensor, t: Tensor, batch: Batch) -> Tensor:
        return over_sources(flow_gap, s, t, batch, self.scope, self.normalize)


def flow_gap(s_BF: Tensor, t_BF: Tensor, eps: float = 1e-6) -> Tensor:
    """Jeffreys divergence of the neighbour probabilities of two sets of features, summed over both kernels."""
    gaps = []
    for s_BB, t_BB in zip(_kernels(s_BF, eps), _kernels(t_BF, eps), strict=True):
        gaps.append(((t_BB - s_BB) * ((t_BB + eps).log() - (s_BB + eps).log())).mean())
    return torch.stack(gaps).sum()


def _kernels(x_BF: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    unit_BF = unit_rows(x_BF, eps)
    cosine_BB = (unit_BF @ unit_BF.T + 1) / 2
    square_B = x_BF.square().sum(1)
    square_BB = (square_B[:, None] + square_B[None] - 2 * x_BF @ x_BF.T).clamp_min(0)
    near_BB = 1 / (1 + (square_BB + eps).sqrt())
    return cosine_BB / cosine_BB.sum(1, keepdim=True), near_BB / near_BB.sum(1, keepdim=True)


METHODS: dict[str, type[Distiller]] = {"ifm": InformationFlow}
