"""`cc`: correlation congruence, how alike the images of a batch are to one another in both nets' embeddings."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs
from cgankd.distill.losses.feature_terms import Scope, in_range, one_of, over_sources, pooled_pair
from cgankd.distill.losses.relations import SCOPES
from cgankd.types import Outputs


class CorrelationCongruence(Distiller):
    """w d(S, T) of pooled features embedded by one linear layer a net, S and T [B, E] (Peng et al.).

    form "code": d = mean over i < B of sum_e |S - T|_ie |S - T|_(i+1)e, the products of misses of neighbours in the batch,
    as in the authors' program (w = 0.02). form "paper": d = sum_ij (K_s - K_t)^2 / B^2, K the Gaussian kernel of rows of
    unit length by its Taylor series, exp(-2 g) sum_p (2 g)^p (x'y)^p / p! up to p = `order`, g = `gamma` (w = 0.003).
    Both embeddings are trained, as in RepDistiller, so in form "code" they can also shrink the misses by shrinking
    themselves. Both forms are means, so the batch size does not matter. `relational_scope` within_source compares real
    with real and fake with fake.
    """

    name = "cc"
    needs = Needs(pooled=True)
    scalar = True
    source = "Peng et al., ICCV 2019, arXiv 1904.01802"
    flows = (
        Flow("teacher.pooled", "student.pooled", "linear layer a net", "products of neighbours' misses", "0.02"),
        Flow("teacher.pooled", "student.pooled", "kernel matrices (form paper)", "squared Frobenius / B^2", "0.003"),
    )

    def __init__(
        self,
        *,
        congruence_weight: float | None = None,
        form: Literal["code", "paper"] = "code",
        embed_dim: int = 128,
        gamma: float = 0.4,
        order: int = 2,
        relational_scope: Scope = "mixed",
    ) -> None:
        super().__init__()
        one_of(self.name, ("code", "paper"), form=form)
        congruence_weight = {"code": 0.02, "paper": 0.003}[form] if congruence_weight is None else congruence_weight
        in_range(self.name, congruence_weight=congruence_weight)
        in_range(self.name, low=1, high=65536, embed_dim=embed_dim)
        in_range(self.name, low=1e-6, high=100, gamma=gamma)
        in_range(self.name, low=1, high=20, order=order)
        one_of(self.name, SCOPES, relational_scope=relational_scope)
        self.congruence_weight, self.form, self.embed_dim = congruence_weight, form, embed_dim
        self.gamma, self.order, self.scope = gamma, order, relational_scope

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make the two embeddings."""
        super().build(student, teacher, data)
        self.embed_student = nn.Linear(student.pooled_dim, self.embed_dim)
        self.embed_teacher = nn.Linear(teacher.pooled_dim, self.embed_dim)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"congruence"}."""
        s, t = pooled_pair(student, teacher)
        loss = over_sources(self.gap, self.embed_student(s), self.embed_teacher(t), batch, self.scope)
        return {"congruence": self.congruence_weight * loss}

    def gap(self, s_BE: Tensor, t_BE: Tensor) -> Tensor:
        """The distance of two embedded batches in this form."""
        if self.form == "code":
            return neighbour_gap(s_BE, t_BE)
        return kernel_gap(F.normalize(s_BE), F.normalize(t_BE), self.gamma, self.order)


def neighbour_gap(s_BE: Tensor, t_BE: Tensor) -> Tensor:
    """Mean over neighbouring rows of sum_e |s - t|_ie |s - t|_(i+1)e; 0 attached to the graph for a single row."""
    miss_BE = (s_BE - t_BE).abs()
    if len(miss_BE) < 2:
        return (miss_BE * 0).sum()
    return (miss_BE[:-1] * miss_BE[1:]).sum(1).mean()


def kernel_gap(s_BE: Tensor, t_BE: Tensor, gamma: float, order: int) -> Tensor:
    """Mean over B^2 of the squared difference of the nets' kernel matrices, rows of unit length."""
    return (gaussian_series(s_BE, gamma, order) - gaussian_series(t_BE, gamma, order)).square().mean()


def gaussian_series(x_BE: Tensor, gamma: float, order: int) -> Tensor:
    """exp(-gamma |x - y|^2) between rows of unit length, [B, B], by the first `order` + 1 terms of the series in x'y."""
    cosine_BB = x_BE @ x_BE.T
    total = torch.ones_like(cosine_BB)
    for p in range(1, order + 1):
        total = total + (2 * gamma) ** p / math.factorial(p) * cosine_BB**p
    return math.exp(-2 * gamma) * total


METHODS: dict[str, type[Distiller]] = {"cc": CorrelationCongruence}
