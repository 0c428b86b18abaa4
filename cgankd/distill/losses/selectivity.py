"""`nst`: neuron selectivity transfer, where in the image the channels of a stage look."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.distill.base import Batch, Distiller, Flow, Needs
from cgankd.distill.losses.feature_terms import in_range, pair_maps, same_size
from cgankd.distill.losses.logit_terms import row_mean
from cgankd.types import Outputs


class NeuronSelectivity(Distiller):
    """w sum_l MMD^2 between both nets' channels at paired stages, under the kernel (x'y + c)^d (Huang and Wang).

    Of a map [B, C, H, W] each channel is one sample of its image: a vector of H W entries of unit length. MMD^2 =
    mean_ij k(s_i, s_j) + mean_ij k(t_i, t_j) - 2 mean_ij k(s_i, t_j), d = `degree`, c = `offset`. So channels need not be
    as many nor in one order. Mean over the batch, whose size does not matter; w = 50 and c = 0, d = 2 as in RepDistiller. Maps
    of unlike size are averaged down to the smaller. A fake counts `fake_weight` times.
    """

    name = "nst"
    needs = Needs(stages=True)
    scalar = True
    source = "Huang and Wang 2017, arXiv 1707.01219"
    flows = (Flow("teacher.stages", "student.stages", "channels of unit length", "MMD^2, polynomial kernel", "50"),)

    def __init__(
        self, *, selectivity_weight: float = 50.0, degree: int = 2, offset: float = 0.0, fake_weight: float = 1.0
    ) -> None:
        super().__init__()
        in_range(self.name, selectivity_weight=selectivity_weight, offset=offset, fake_weight=fake_weight)
        in_range(self.name, low=1, high=10, degree=degree)
        self.selectivity_weight, self.degree, self.offset = selectivity_weight, degree, offset
        self.fake_weight = fake_weight

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"selectivity"}."""
        pairs = pair_maps(student.stages, teacher.stages, self.name)
        terms = [channel_mmd(*same_size(s, t), self.degree, self.offset) for s, t in pairs]
        rows_B = torch.stack(terms, dim=1).sum(1)
        return {"selectivity": self.selectivity_weight * row_mean(rows_B, batch.is_fake, self.fake_weight)}


def channel_mmd(s_BCHW: Tensor, t_BCHW: Tensor, degree: int, offset: float) -> Tensor:
    """Squared MMD [B] between the channels of two maps of one size, biased (with i = j), so never below zero."""
    s_BCF, t_BCF = (F.normalize(m.flatten(2), dim=2) for m in (s_BCHW, t_BCHW))

    def kernel(a_BCF: Tensor, b_BCF: Tensor) -> Tensor:
        return (a_BCF @ b_BCF.transpose(1, 2) + offset).pow(degree).mean((1, 2))

    return kernel(s_BCF, s_BCF) + kernel(t_BCF, t_BCF) - 2 * kernel(s_BCF, t_BCF)


METHODS: dict[str, type[Distiller]] = {"nst": NeuronSelectivity}
