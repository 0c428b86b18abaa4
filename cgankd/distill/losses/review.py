"""ReviewKD: each teacher stage is compared with a fusion of the student's stage and all coarser ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs
from cgankd.distill.losses.decoupled import warm_up
from cgankd.distill.losses.feature_terms import Norm, in_range, mse_rows, pair_specs, same_size
from cgankd.distill.losses.logit_terms import row_mean
from cgankd.types import Outputs


class ReviewKD(Distiller):
    """w(e) sum_l HCL(fused_l, F_t,l) over the paired stages and the pooled features as a 1x1 map.

    Fusions go from coarse to fine; the teacher's maps [B, C, H, W] are those before the last ReLU of a stage. w(e) =
    review_weight min(1, (e + 1) / warmup_epochs). Published weights on CIFAR-100: 5 (resnet32x4 to 8x4, WRN pairs,
    ShuffleNetV1), 8 (ShuffleNetV2), 0.6 (resnet56 to 20), 1 (resnet110 to 32). HCL is a mean, so the batch size does not
    matter.
    """

    name = "reviewkd"
    needs = Needs(stages=True, preacts=True, pooled=True)
    scalar = True
    source = "Chen et al., CVPR 2021, arXiv 2104.09044"
    flows = (
        Flow(
            "teacher.stages:preact",
            "student.stages",
            "fusion with coarser stages",
            "HCL",
            "1",
            "linear warm-up, 20 epochs",
        ),
        Flow("teacher.pooled", "student.pooled", "fusion", "MSE", "1", "linear warm-up, 20 epochs"),
    )

    def __init__(
        self,
        *,
        review_weight: float = 1.0,
        warmup_epochs: float = 20.0,
        max_channels: int = 512,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        in_range(self.name, review_weight=review_weight, warmup_epochs=warmup_epochs, fake_weight=fake_weight)
        self.fake_weight = fake_weight
        in_range(self.name, low=1, max_channels=max_channels)
        self.review_weight, self.warmup_epochs, self.max_channels = review_weight, warmup_epochs, max_channels

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make one fusion a paired stage and one for the pooled features."""
        super().build(student, teacher, data)
        self.pairs = pair_specs(student, teacher, self.name)
        shapes = [(student.stages[i][0], teacher.stages[j][0]) for i, j in self.pairs]
        shapes.append((student.pooled_dim, teacher.pooled_dim))
        mid = min(self.max_channels, student.pooled_dim)
        last = len(shapes) - 1
        self.fusions = nn.ModuleList(Fusion(c_s, mid, c_t, k < last) for k, (c_s, c_t) in enumerate(shapes))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"review"}."""
        assert student.pooled is not None and teacher.pooled is not None, "the engine gives pooled features"
        maps_s = [student.stages[i].float() for i, _ in self.pairs] + [student.pooled.float()[:, :, None, None]]
        maps_t = [teacher.preacts[j].detach().float() for _, j in self.pairs]
        maps_t.append(teacher.pooled.detach().float()[:, :, None, None])
        terms: list[Tensor] = []
        coarser: Tensor | None = None
        for fusion, s_BCHW, t_BCHW in zip(reversed(self.fusions), reversed(maps_s), reversed(maps_t), strict=True):
            out_BCHW, coarser = fusion(s_BCHW, coarser)
            terms.append(hierarchical_rows(*same_size(out_BCHW, t_BCHW)))
        warm = warm_up(epoch, self.warmup_epochs)
        rows_B = torch.stack(terms, dim=1).sum(1)
        return {"review": self.review_weight * warm * row_mean(rows_B, batch.is_fake, self.fake_weight)}


class Fusion(nn.Module):
    """Attention-based fusion of a student map with the fused coarser one; returns what is compared and what goes on."""

    def __init__(self, c_in: int, mid: int, c_out: int, fuse: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(c_in, mid, 1, bias=False), Norm(mid))
        self.leave = nn.Sequential(nn.Conv2d(mid, c_out, 3, padding=1, bias=False), Norm(c_out))
        self.attend = nn.Sequential(nn.Conv2d(2 * mid, 2, 1), nn.Sigmoid()) if fuse else None

    def forward(self, x_BCHW: Tensor, coarser_BCHW: Tensor | None) -> tuple[Tensor, Tensor]:
        """Student map and the fused coarser one (None for the coarsest) to ([B, C_t, H, W], [B, mid, H, W])."""
        fused: Tensor = self.enter(x_BCHW)
        if self.attend is not None and coarser_BCHW is not None:
            coarser_BCHW = F.interpolate(coarser_BCHW, size=fused.shape[2:], mode="nearest")
            share = self.attend(torch.cat([fused, coarser_BCHW], 1))
            fused = fused * share[:, :1] + coarser_BCHW * share[:, 1:]
        return self.leave(fused), fused


def hierarchical_rows(s_BCHW: Tensor, t_BCHW: Tensor) -> Tensor:
    """HCL [B]: MSE of the maps and of their means on grids of 4, 2 and 1 with weights 1, 1/2, 1/4, 1/8, over their sum.

    Grids that are not smaller than the map are left out.
    """
    loss, total, weight = mse_rows(s_BCHW, t_BCHW), 1.0, 1.0
    for grid in (4, 2, 1):
        if grid < s_BCHW.shape[2]:
            weight /= 2
            pooled_s, pooled_t = F.adaptive_avg_pool2d(s_BCHW, grid), F.adaptive_avg_pool2d(t_BCHW, grid)
            loss = loss + weight * mse_rows(pooled_s, pooled_t)
            total += weight
    return loss / total


METHODS: dict[str, type[Distiller]] = {"reviewkd": ReviewKD}
