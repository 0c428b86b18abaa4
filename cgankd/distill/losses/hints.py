"""KD losses that regress the teacher's stage maps from the student's: FitNet, VID and factor transfer (FT)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs, Phase
from cgankd.distill.losses.feature_terms import (
    Norm,
    in_range,
    last_maps,
    mse_rows,
    one_of,
    pair_specs,
    row_means,
    same_size,
)
from cgankd.distill.losses.logit_terms import row_mean
from cgankd.types import Outputs


class FitNet(Distiller):
    """w MSE(r(F_s), F_t) at one hint stage [B, C, H, W], r a convolution with batch norm and ReLU (Romero et al.).

    r: 3x3 of stride 2 where the student's map is twice as high, a 4x4 transposed one where it is half as high, else 1x1
    with both maps averaged down to the smaller size. `hint_stage` counts the paired stages from 0 (-1 the last). A mean
    over all entries, so the batch size does not matter. The hint is a term of the one training, as in RepDistiller, not
    the paper's separate first stage.
    """

    name = "fitnet"
    needs = Needs(stages=True)
    scalar = True
    source = "Romero et al., ICLR 2015, arXiv 1412.6550"
    flows = (
        Flow("teacher.stage:1", "student.stage:1", "convolution, batch norm, ReLU on the student's", "MSE", "100"),
    )

    def __init__(self, *, hint_weight: float = 100.0, hint_stage: int = 1, fake_weight: float = 1.0) -> None:
        super().__init__()
        in_range(self.name, hint_weight=hint_weight, fake_weight=fake_weight)
        self.hint_weight, self.hint_stage, self.fake_weight = hint_weight, hint_stage, fake_weight

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make the regressor. Raises ValueError where there is no such stage."""
        super().build(student, teacher, data)
        pairs = pair_specs(student, teacher, self.name)
        if not -len(pairs) <= self.hint_stage < len(pairs):
            raise ValueError(
                f"fitnet.hint_stage must be from {-len(pairs)} to {len(pairs) - 1}, as student and teacher have "
                f"{len(pairs)} stages in common, but is {self.hint_stage}"
            )
        self.pair = pairs[self.hint_stage]
        self.regressor = _regressor(student.stages[self.pair[0]], teacher.stages[self.pair[1]])

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"hint"}."""
        target = teacher.stages[self.pair[1]].detach().float()
        guess = self.regressor(student.stages[self.pair[0]].float())
        rows_B = mse_rows(*same_size(guess, target))
        return {"hint": self.hint_weight * row_mean(rows_B, batch.is_fake, self.fake_weight)}


def _regressor(student: tuple[int, int, int], teacher: tuple[int, int, int]) -> nn.Sequential:
    (c_s, h_s, _), (c_t, h_t, _) = student, teacher
    conv: nn.Module
    if h_s == 2 * h_t:
        conv = nn.Conv2d(c_s, c_t, 3, 2, 1)
    elif 2 * h_s == h_t:
        conv = nn.ConvTranspose2d(c_s, c_t, 4, 2, 1)
    else:
        conv = nn.Conv2d(c_s, c_t, 1)
    return nn.Sequential(conv, Norm(c_t), nn.ReLU())


class VariationalInformation(Distiller):
    """w sum_l mean[(mu(F_s) - F_t)^2 / v + log v] / 2 over paired stages, v a variance a teacher channel (VID).

    mu: three 1x1 convolutions with ReLU between; v = softplus(theta) + 1e-5, at the start `initial_variance`. The minimum
    is log(v) / 2, which may be below zero. Means, so the batch size does not matter; theta takes no weight decay.
    """

    name = "vid"
    needs = Needs(stages=True)
    scalar = True
    source = "Ahn et al., CVPR 2019, arXiv 1904.05835"
    flows = (
        Flow(
            "teacher.stages", "student.stages", "three 1x1 convolutions, own variance", "Gaussian log-likelihood", "1"
        ),
    )

    def __init__(
        self, *, information_weight: float = 1.0, initial_variance: float = 5.0, fake_weight: float = 1.0
    ) -> None:
        super().__init__()
        in_range(self.name, information_weight=information_weight, fake_weight=fake_weight)
        self.fake_weight = fake_weight
        in_range(self.name, low=1e-3, high=1e3, initial_variance=initial_variance)
        self.information_weight, self.initial_variance = information_weight, initial_variance

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make a mean network and a variance for each paired stage."""
        super().build(student, teacher, data)
        self.pairs = pair_specs(student, teacher, self.name)
        self.means = nn.ModuleList(_mean_net(student.stages[i][0], teacher.stages[j][0]) for i, j in self.pairs)
        # The inverse of softplus without overflow.
        above = self.initial_variance - 1e-5
        theta = above + math.log(-math.expm1(-above))
        self.thetas = nn.ParameterList(torch.full((teacher.stages[j][0],), theta) for _, j in self.pairs)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"information"}."""
        terms = []
        for (i, j), mean, theta_C in zip(self.pairs, self.means, self.thetas, strict=True):
            s_BCHW, t_BCHW = same_size(student.stages[i].float(), teacher.stages[j].detach().float())
            terms.append(gaussian_rows(mean(s_BCHW), F.softplus(theta_C) + 1e-5, t_BCHW))
        rows_B = torch.stack(terms, dim=1).sum(1)
        return {"information": self.information_weight * row_mean(rows_B, batch.is_fake, self.fake_weight)}

    def no_decay(self) -> set[str]:
        """The variances' parameters."""
        return {f"thetas.{k}" for k in range(len(self.thetas))}


def gaussian_rows(mean_BCHW: Tensor, variance_C: Tensor, target_BCHW: Tensor) -> Tensor:
    """Mean negative log-likelihood [B] of the target, without the constant log(2 pi) / 2; one variance a channel."""
    variance = variance_C[None, :, None, None]
    return 0.5 * row_means((mean_BCHW - target_BCHW).square() / variance + variance.log())


def _mean_net(c_s: int, c_t: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c_in in (c_s, c_t, c_t):
        layers += [nn.Conv2d(c_in, c_t, 1, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class FactorTransfer(Distiller):
    """w mean |f(T(F_s)) - f(P(F_t))| on the last maps: a paraphraser P trained first, then a translator T (Kim et al.).

    Phase "paraphraser": an autoencoder of the teacher's map with a code of `code_share` of its channels, MSE. `factor`
    "mean_square" (RepDistiller's program): f = unit vector of the mean square over channels [B, H W]. "flat" (the paper):
    f = unit vector of the whole code [B, C H W]. w is 200, or 500 for "flat", where it is left out (null). In the
    student's training P is frozen and in evaluation mode. Means, so the batch size does not matter.
    """

    name = "ft"
    needs = Needs(stages=True)
    scalar = True
    source = "Kim et al., NeurIPS 2018, arXiv 1802.04977"
    flows = (
        Flow("teacher.stage:last", "teacher.stage:last", "autoencoder", "MSE", "1", phase="paraphraser"),
        Flow(
            "teacher.stage:last",
            "student.stage:last",
            "code of P against translator, unit length",
            "mean L1",
            "200 or 500",
        ),
    )

    def __init__(
        self,
        *,
        factor_weight: float | None = None,
        code_share: float = 0.5,
        factor: Literal["mean_square", "flat"] = "mean_square",
        paraphraser_share: float = 0.125,
        paraphraser_learning_rate: float = 0.01,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        in_range(self.name, fake_weight=fake_weight)
        self.fake_weight = fake_weight
        factor_weight = (500.0 if factor == "flat" else 200.0) if factor_weight is None else factor_weight
        in_range(self.name, factor_weight=factor_weight, paraphraser_learning_rate=paraphraser_learning_rate)
        in_range(self.name, low=1e-3, high=4.0, code_share=code_share)
        in_range(self.name, low=1e-6, high=10.0, paraphraser_share=paraphraser_share)
        one_of(self.name, ("mean_square", "flat"), factor=factor)
        self.factor_weight, self.code_share, self.factor_form = factor_weight, code_share, factor
        self.paraphraser_share, self.paraphraser_learning_rate = paraphraser_share, paraphraser_learning_rate

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make paraphraser (encoder, decoder) and translator for the last maps."""
        super().build(student, teacher, data)
        pair_specs(student, teacher, self.name)
        c_s, c_t = student.stages[-1][0], teacher.stages[-1][0]
        code = max(1, round(self.code_share * c_t))
        self.encoder, self.decoder = _convs(c_t, c_t, code, code), _convs(code, code, c_t, c_t)
        self.translator = _convs(c_s, c_s, code, code)

    def phases(self) -> list[Phase]:
        """The paraphraser's training (30 of 240 epochs in RepDistiller), then the student's."""
        return [Phase("paraphraser", self.paraphraser_share, self.paraphraser_learning_rate), Phase("train")]

    def phase_losses(self, phase: str, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """{"reconstruction"} of the teacher's last map."""
        t_BCHW = teacher.stages[-1].detach().float()
        return {"reconstruction": F.mse_loss(self.decoder.train()(self.encoder.train()(t_BCHW)), t_BCHW)}

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """The paraphraser's in its phase, the translator's in the student's training."""
        parts = [self.encoder, self.decoder] if phase == "paraphraser" else [self.translator]
        return [p for part in parts for p in part.parameters()]

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"factor"}."""
        s_BCHW, t_BCHW = last_maps(student, teacher, self.name)
        with torch.no_grad():
            code_t = self.encoder.eval()(t_BCHW)
        code_s, code_t = same_size(self.translator(s_BCHW), code_t)
        rows_B = self.factor_rows(code_s, code_t)
        return {"factor": self.factor_weight * row_mean(rows_B, batch.is_fake, self.fake_weight)}

    def factor_rows(self, s_BCHW: Tensor, t_BCHW: Tensor) -> Tensor:
        """Mean absolute difference [B] of the two codes' factors."""
        return row_means((self._factor(s_BCHW) - self._factor(t_BCHW)).abs())

    def _factor(self, code_BCHW: Tensor) -> Tensor:
        if self.factor_form == "mean_square":
            return F.normalize(code_BCHW.square().mean(1).flatten(1))
        return F.normalize(code_BCHW.flatten(1))


def _convs(*channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c_in, c_out in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1), Norm(c_out), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


METHODS: dict[str, type[Distiller]] = {"fitnet": FitNet, "vid": VariationalInformation, "ft": FactorTransfer}
