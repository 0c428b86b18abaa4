"""`kdsvd`: how the singular vectors of one stage's map go with those of the next, with gradients that stay finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs
from cgankd.distill.losses.feature_terms import adapters, in_range, pair_chain
from cgankd.distill.losses.logit_terms import row_mean
from cgankd.types import Outputs


class SingularVectors(Distiller):
    """w sum_l sum (R_s - R_t)^2 over neighbouring stages, R = exp(-(v_l - v_(l+1))^2 / b) (Lee et al.).

    Of a map [B, C, H, W], read as a matrix of H W rows and C columns, v are the first `num_vectors` right singular vectors
    [B, C, k], times the teacher's singular values over their length. R [B, C_(l+1), C_l, k] holds all pairs of entries of
    both stages' v. Of the student `num_vectors` + 3 vectors are looked at, and each of the teacher's is compared with the
    one that is nearest to its line, turned to its side. b = `bandwidth`; the sum is that of an image, the mean over the
    batch, whose size does not matter. The published form asks for as many channels in both nets; where they differ, a 1x1
    convolution with batch norm makes the teacher's number of the student's, an adaptation. Where singular values are equal
    or zero, vectors have no derivative; there the inverse gap of their squares, 1 / d, is d / (d^2 + e^2), with e =
    `gap_floor` times the largest square.
    """

    name = "kdsvd"
    needs = Needs(stages=True)
    scalar = True
    source = "Lee et al., ECCV 2018, arXiv 1807.06819"
    flows = (
        Flow("teacher.stages", "student.stages", "kernel of neighbouring stages' singular vectors", "squared L2", "1"),
    )

    def __init__(
        self,
        *,
        singular_weight: float = 1.0,
        num_vectors: int = 1,
        bandwidth: float = 8.0,
        gap_floor: float = 1e-3,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        in_range(self.name, singular_weight=singular_weight, fake_weight=fake_weight)
        in_range(self.name, low=1, high=64, num_vectors=num_vectors)
        in_range(self.name, low=1e-6, bandwidth=bandwidth)
        in_range(self.name, low=1e-9, high=1.0, gap_floor=gap_floor)
        self.singular_weight, self.num_vectors, self.bandwidth = singular_weight, num_vectors, bandwidth
        self.gap_floor, self.fake_weight = gap_floor, fake_weight

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make the adapters. Raises ValueError where the nets have less than two stages in common."""
        super().build(student, teacher, data)
        self.pairs = pair_chain(student, teacher, self.name)
        self.adapters = adapters(student, teacher, self.pairs)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"singular"}."""
        before: tuple[Tensor, Tensor] | None = None
        terms = []
        for (i, j), adapt in zip(self.pairs, self.adapters, strict=True):
            s_BCHW, t_BCHW = adapt(student.stages[i].float()), teacher.stages[j].detach().float()
            now = self.vectors(s_BCHW, t_BCHW)
            if before is not None:
                s, t = (
                    entry_kernel(after, earlier, self.bandwidth) for after, earlier in zip(now, before, strict=True)
                )
                terms.append((s - t).square().flatten(1).sum(1))
            before = now
        rows_B = torch.stack(terms, dim=1).sum(1)
        return {"singular": self.singular_weight * row_mean(rows_B, batch.is_fake, self.fake_weight)}

    def vectors(self, s_BCHW: Tensor, t_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Right singular vectors [B, C, k] of both maps, paired, times the teacher's singular values."""
        t_BCk, size_Bk = right_vectors(t_BCHW, self.num_vectors, self.gap_floor)
        s_BCk, _ = right_vectors(s_BCHW, self.num_vectors + 3, self.gap_floor)
        share_B1k = F.normalize(size_Bk, dim=1)[:, None]
        return paired(s_BCk, t_BCk) * share_B1k, t_BCk * share_B1k


def entry_kernel(after_BCk: Tensor, before_BDk: Tensor, bandwidth: float) -> Tensor:
    """exp(-(a - b)^2 / bandwidth) of all pairs of entries of two stages' vectors, [B, C, D, k]."""
    return torch.exp(-(after_BCk[:, :, None] - before_BDk[:, None]).square() / bandwidth)


def paired(s_BCn: Tensor, t_BCk: Tensor) -> Tensor:
    """For each of the teacher's vectors the student's that is nearest to its line, with the sign that is nearest to it."""
    cosine_Bnk = s_BCn.detach().transpose(1, 2) @ t_BCk
    best_B1k = cosine_Bnk.abs().argmax(dim=1, keepdim=True)
    turned_B1k = torch.where(cosine_Bnk.gather(1, best_B1k) < 0, -1.0, 1.0)
    return s_BCn.gather(2, best_B1k.expand(-1, s_BCn.shape[1], -1)) * turned_B1k


def right_vectors(map_BCHW: Tensor, num: int, gap_floor: float) -> tuple[Tensor, Tensor]:
    """The first right singular vectors [B, C, n] of a map as a matrix [H W, C], and their singular values [B, n].

    n is `num`, or as many as the matrix has. The values carry no gradient. A map with an entry that is not finite gives
    vectors of NaN, so that the training is seen to have diverged.
    """
    matrix_BPC = map_BCHW.flatten(2).transpose(1, 2)
    vectors, values = _TopRight.apply(matrix_BPC, min(num, *matrix_BPC.shape[1:]), gap_floor)
    return vectors, values


class _TopRight(torch.autograd.Function):
    """Right singular vectors with a bounded derivative.

    With X = U S V', dX = d(u, s, v) and d_ij = s_i^2 - s_j^2, first-order perturbation of X'X says
    dv_i = sum_(j != i) v_j (s_i v_j' dX' u_i + s_j u_j' dX v_i) / d_ij + (1 - V V') dX' u_i / s_i.
    Each 1 / d is bounded as in Liao et al., arXiv 1903.09650 (there for the gap itself).
    """

    @staticmethod
    def forward(ctx: Any, x_BPC: Tensor, num: int, gap_floor: float) -> tuple[Tensor, Tensor]:
        sound_B11 = x_BPC.isfinite().all(dim=2).all(dim=1)[:, None, None]
        u_BPK, s_BK, v_BKC = torch.linalg.svd(torch.where(sound_B11, x_BPC, 0.0), full_matrices=False)
        ctx.save_for_backward(u_BPK, s_BK, v_BKC)
        ctx.num, ctx.gap_floor = num, gap_floor
        values_Bn = s_BK[:, :num].clone()
        ctx.mark_non_differentiable(values_Bn)
        return torch.where(sound_B11, v_BKC[:, :num].transpose(1, 2), torch.nan).contiguous(), values_Bn

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCn: Tensor, unused: Tensor) -> tuple[Tensor, None, None]:
        u_BPK, s_BK, v_BKC = ctx.saved_tensors
        n = ctx.num
        square_BK = s_BK.square()
        floor_B11 = (ctx.gap_floor * square_BK[:, :1, None]).square()

        def inverse(gap: Tensor) -> Tensor:
            bounded = gap.square() + floor_B11
            return torch.where(bounded > 0, gap / torch.where(bounded > 0, bounded, 1.0), 0.0)

        share_BKn = v_BKC @ grad_BCn
        turn_BKn = share_BKn * inverse(square_BK[:, None, :n] - square_BK[:, :, None])
        u_BPn, s_B1n, v_BnC = u_BPK[:, :, :n], s_BK[:, None, :n], v_BKC[:, :n]
        rest_BCn = grad_BCn - v_BKC.transpose(1, 2) @ share_BKn
        outside = (u_BPn * (s_B1n * inverse(square_BK[:, None, :n]))) @ rest_BCn.transpose(1, 2)
        first = (u_BPn * s_B1n) @ turn_BKn.transpose(1, 2) @ v_BKC
        second = (u_BPK * s_BK[:, None]) @ turn_BKn @ v_BnC
        return first + second + outside, None, None


METHODS: dict[str, type[Distiller]] = {"kdsvd": SingularVectors}
