"""KD losses for scalar labels: response losses with a say on how far the teacher is trusted, and SOAP-KD's guidance."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs
from cgankd.distill.losses.feature_terms import (
    Norm,
    Scope,
    in_range,
    last_maps,
    mse_rows,
    one_of,
    over_sources,
    pair_specs,
    same_size,
)
from cgankd.distill.losses.logit_terms import row_mean
from cgankd.distill.losses.relations import SCOPES, angle_gap, distance_gap
from cgankd.labels.circle import label_of, miss, wrapped
from cgankd.types import Outputs

DISTANCES = ("l1", "l2", "smooth_l1")


class RegressionKD(Distiller):
    """Scalar response distillation in four modes; s, t, y [B] student, teacher, label in normalised units, l the `distance`.

    soft:           a l(s, t), the task's loss weighs 1 - a (a = `soft_weight`).
    bounded:        v (s - y)^2 where (s - y)^2 + m > (t - y)^2, else 0; v = `bound_weight`, m = `bound_margin` (Chen et
                    al., NeurIPS 2017). The task's loss weighs 1.
    attentive:      a (1 - (t - y)^2 / n) l(s, t), n the largest (t - y)^2 so far, or `attentive_scale` (Saputra et al.,
                    ICCV 2019, arXiv 1908.00858). The task's loss weighs 1 - a.
    outlier_reject: l(s, t) where the residual y - t is further than `reject_deviations` median absolute deviations from
                    the median residual, else l(s, y); both medians over the batch's real rows if it has any, and no
                    rejection from less than three. It replaces the task's loss (after Takamoto et al., arXiv 2002.12597,
                    with the batch's MAD and one output).
    Differences go the short way round where labels lie on a circle. Means over the batch, in which a fake counts
    `fake_weight` times. Where a bank's labels are the teacher's answers (t = y), soft repeats the task's loss on fakes
    (fake_weight 0 leaves it to the real images), bounded is active wherever s differs, attentive trusts fully. All modes
    are reconstructions.
    """

    name = "reg_kd"
    needs = Needs(teacher_pred_only=True)
    scalar = True
    largest: Tensor
    source = "Chen 2017; Saputra 2019, arXiv 1908.00858; Takamoto 2020, arXiv 2002.12597"
    status = "reconstruction"
    flows = (
        Flow("teacher.pred", "student.pred", "trusted by mode", "L1", "0.5"),
        Flow("labels", "student.pred", "mode bounded or outlier_reject", "squared error or L1", "0.5 or 1"),
    )

    def __init__(
        self,
        *,
        mode: Literal["soft", "bounded", "attentive", "outlier_reject"] = "soft",
        distance: Literal["l1", "l2", "smooth_l1"] = "l1",
        soft_weight: float = 0.5,
        bound_weight: float = 0.5,
        bound_margin: float = 0.0,
        attentive_scale: float | None = None,
        reject_deviations: float = 3.0,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        one_of(self.name, ("soft", "bounded", "attentive", "outlier_reject"), mode=mode)
        one_of(self.name, DISTANCES, distance=distance)
        in_range(self.name, high=1, soft_weight=soft_weight)
        in_range(self.name, bound_weight=bound_weight, bound_margin=bound_margin, fake_weight=fake_weight)
        in_range(self.name, reject_deviations=reject_deviations)
        if attentive_scale is not None:
            in_range(self.name, low=1e-12, attentive_scale=attentive_scale)
        self.mode, self.distance, self.soft_weight, self.fake_weight = mode, distance, soft_weight, fake_weight
        self.bound_weight, self.bound_margin, self.reject_deviations = bound_weight, bound_margin, reject_deviations
        self.task_weight = {"soft": 1 - soft_weight, "attentive": 1 - soft_weight, "bounded": 1.0}.get(mode, 0.0)
        self.register_buffer("largest", torch.tensor(attentive_scale or 0.0))
        self.fixed_scale = attentive_scale is not None

    def refusal(self, data: DataSpec) -> str | None:
        """Why it cannot distil classes."""
        return "reg_kd compares scalar predictions, so it cannot distil classes" if data.num_classes else None

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"response"}."""
        s_BO, t_B = student.pred.float(), label_of(teacher.pred.detach().float(), self.period)
        y_B = batch.y.float()
        loss_B = {
            "soft": self._soft,
            "bounded": self._bounded,
            "attentive": self._attentive,
            "outlier_reject": self._outlier_reject,
        }[self.mode](s_BO, t_B, y_B, batch.is_fake)
        return {"response": row_mean(loss_B, batch.is_fake, self.fake_weight)}

    def _gap(self, a_B: Tensor, b_B: Tensor) -> Tensor:
        return wrapped(a_B - b_B, self.period)

    def _distance(self, s_BO: Tensor, b_B: Tensor) -> Tensor:
        gap_B = miss(s_BO, b_B, self.period)
        if self.distance == "l1":
            return gap_B
        if self.distance == "l2":
            return gap_B.square()
        return F.smooth_l1_loss(gap_B, torch.zeros_like(gap_B), reduction="none")

    def _soft(self, s_BO: Tensor, t_B: Tensor, y_B: Tensor, fake_B: Tensor | None) -> Tensor:
        return self.soft_weight * self._distance(s_BO, t_B)

    def _bounded(self, s_BO: Tensor, t_B: Tensor, y_B: Tensor, fake_B: Tensor | None) -> Tensor:
        own_B, bound_B = miss(s_BO, y_B, self.period).square(), self._gap(t_B, y_B).square()
        return self.bound_weight * torch.where(own_B + self.bound_margin > bound_B, own_B, 0.0)

    def _attentive(self, s_BO: Tensor, t_B: Tensor, y_B: Tensor, fake_B: Tensor | None) -> Tensor:
        miss_B = self._gap(t_B, y_B).square()
        if self.training and not self.fixed_scale:
            self.largest.copy_(torch.maximum(self.largest, miss_B.max()))
        # A teacher that never misses has a scale of zero and is trusted fully.
        trust_B = (1 - miss_B / self.largest.clamp_min(1e-12)).clamp_min(0)
        return self.soft_weight * trust_B * self._distance(s_BO, t_B)

    def _outlier_reject(self, s_BO: Tensor, t_B: Tensor, y_B: Tensor, fake_B: Tensor | None) -> Tensor:
        residual_B = self._gap(y_B, t_B)
        # Fakes whose label is the teacher's answer have no residual; counted in, they would make every real an outlier.
        judged = residual_B if fake_B is None or bool(fake_B.all()) else residual_B[~fake_B]
        if len(judged) < 3:  # Two residuals are equally far from their middle: nothing tells an outlier.
            return self._distance(s_BO, y_B)
        middle = judged.quantile(0.5)
        deviation = (judged - middle).abs().quantile(0.5)
        far_B = (residual_B - middle).abs() > self.reject_deviations * deviation
        return self._distance(s_BO, torch.where(far_B, t_B, y_B))


class SoapGuidance(Distiller):
    """a MSE(r(F_s), F_t) + b (25 RKD-D + 50 RKD-A)(r(F_s), F_t) on the last maps: the feature guidance of SOAP-KD.

    r: 3x3 convolution, batch norm, ReLU; maps [B, C, H, W] of unlike size are averaged down to the smaller and flattened.
    Angles take the first `max_angle_rows` rows; `relational_scope` as in `rkd`. a = 100 and
    b = 0 as in the authors' scripts for ship orientation (with the absolute error as the task's loss). Means, so the
    batch size does not matter.
    """

    name = "soap_kd"
    needs = Needs(stages=True)
    scalar = True
    source = "SOAP-KD, ship orientation angle prediction, github.com/UBCDingXin/SOAP-KD"
    flows = (
        Flow("teacher.stage:last", "student.stage:last", "3x3 convolution, batch norm, ReLU", "MSE", "100"),
        Flow("teacher.stage:last", "student.stage:last", "relations after the convolution", "smooth L1", "0"),
    )

    def __init__(
        self,
        *,
        feature_weight: float = 100.0,
        relation_weight: float = 0.0,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        max_angle_rows: int = 256,
        relational_scope: Scope = "mixed",
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        in_range(self.name, feature_weight=feature_weight, relation_weight=relation_weight, fake_weight=fake_weight)
        in_range(self.name, distance_weight=distance_weight, angle_weight=angle_weight)
        in_range(self.name, low=3, max_angle_rows=max_angle_rows)
        one_of(self.name, SCOPES, relational_scope=relational_scope)
        self.max_angle_rows, self.scope, self.fake_weight = max_angle_rows, relational_scope, fake_weight
        self.feature_weight, self.relation_weight = feature_weight, relation_weight
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make the regressor."""
        super().build(student, teacher, data)
        pair_specs(student, teacher, self.name)
        c_s, c_t = student.stages[-1][0], teacher.stages[-1][0]
        self.regressor = torch.nn.Sequential(torch.nn.Conv2d(c_s, c_t, 3, padding=1), Norm(c_t), torch.nn.ReLU())

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"feature"}, and {"relation"} where it has a weight."""
        s_BCHW, t_BCHW = last_maps(student, teacher, self.name)
        s, t = (m.flatten(1) for m in same_size(self.regressor(s_BCHW), t_BCHW))
        terms = {"feature": self.feature_weight * row_mean(mse_rows(s, t), batch.is_fake, self.fake_weight)}
        if self.relation_weight:
            rows = self.max_angle_rows
            distance = over_sources(distance_gap, s, t, batch, self.scope)
            angle = over_sources(lambda a, b: angle_gap(a[:rows], b[:rows]), s, t, batch, self.scope)
            terms["relation"] = self.relation_weight * (self.distance_weight * distance + self.angle_weight * angle)
        return terms


METHODS: dict[str, type[Distiller]] = {"reg_kd": RegressionKD, "soap_kd": SoapGuidance}
