"""Contrastive representation distillation (CRD), with a memory of all samples or a bounded queue."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs
from cgankd.distill.losses.feature_terms import Scope, in_range, one_of, pooled_pair
from cgankd.distill.losses.logit_terms import row_mean
from cgankd.distill.losses.relations import SCOPES
from cgankd.labels.circle import wrapped
from cgankd.types import Outputs

PRODUCTS = 2**24
"""Products of embeddings that are held at a time."""


def num_available(data: DataSpec) -> int:
    """Rows that are negatives of every sample: those outside the largest class, or all others; at least 1."""
    largest = 1
    if data.num_classes and data.labels is not None:
        largest = int(torch.bincount(data.labels.long()).max())
    return max(1, data.num_samples - largest)


class ContrastiveDistillation(Distiller):
    """w mean_n -[log P/(P + c) + sum_k log c/(P_k + c)], both ways between student and teacher (Tian et al.).

    P = exp(u . v / temperature) / Z for embeddings u of one net and v of the other (a linear layer on the pooled features,
    unit length), c = K / N + 1e-7 with N samples and K negatives; Z is fixed by the first batch (a buffer). Rows are
    averaged, so the batch size does not matter.
    storage "memory": every sample's last embeddings, N x `embed_dim` a net, moved by `momentum`; negatives are the rows of
    `Batch.neg_index`. K is `num_negatives`, at most the rows that are negatives of every sample (N less the largest class,
    or N - 1 for scalars): more draws would only repeat them. storage "queue": the last `queue_size` embeddings of both
    nets, a memory that does not grow with the bank; the positive is the other net's embedding of the same image, negatives
    are all rows of batch and queue of another class. Scalar labels have no classes: any other image is a negative (in the
    queue, one whose normalised label is at least `min_label_gap` away, round the circle where labels are angles). The
    queue is an adaptation. `relational_scope` within_source takes negatives among the real rows for a real image and among
    the fakes for a fake one.
    """

    name = "crd"
    needs = Needs(pooled=True, index=True, neg_index=True)
    scalar = True
    source = "Tian et al., ICLR 2020, arXiv 1910.10699"
    flows = (
        Flow(
            "teacher.pooled", "student.pooled", "linear embeddings, student against the teacher's memory", "NCE", "0.8"
        ),
        Flow(
            "student.pooled", "teacher.pooled", "linear embeddings, teacher against the student's memory", "NCE", "0.8"
        ),
    )
    # Z of the two directions, the embeddings kept, and what is known of the queue's rows.
    z_s: Tensor
    z_t: Tensor
    kept_s: Tensor
    kept_t: Tensor
    queue_index: Tensor
    queue_y: Tensor
    queue_head: Tensor

    def __init__(
        self,
        *,
        contrast_weight: float = 0.8,
        embed_dim: int = 128,
        num_negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        storage: Literal["memory", "queue"] = "memory",
        queue_size: int = 16384,
        min_label_gap: float = 0.0,
        relational_scope: Scope = "mixed",
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        in_range(self.name, fake_weight=fake_weight)
        one_of(self.name, SCOPES, relational_scope=relational_scope)
        self.scope, self.fake_weight = relational_scope, fake_weight
        in_range(self.name, contrast_weight=contrast_weight, min_label_gap=min_label_gap)
        in_range(self.name, low=1, embed_dim=embed_dim, num_negatives=num_negatives, queue_size=queue_size)
        in_range(self.name, low=1e-3, temperature=temperature)
        in_range(self.name, high=1, momentum=momentum)
        one_of(self.name, ("memory", "queue"), storage=storage)
        self.contrast_weight, self.embed_dim, self.num_negatives = contrast_weight, embed_dim, num_negatives
        self.temperature, self.momentum, self.queued = temperature, momentum, storage == "queue"
        self.queue_size, self.min_label_gap = queue_size, min_label_gap
        if self.queued:
            self.needs = Needs(pooled=True, index=True)  # type: ignore[misc]

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make both embeddings and the memory, whose rows begin as random vectors; the queue begins empty."""
        super().build(student, teacher, data)
        self.num_negatives = min(self.num_negatives, num_available(data))
        self.embed_s = nn.Linear(student.pooled_dim, self.embed_dim)
        self.embed_t = nn.Linear(teacher.pooled_dim, self.embed_dim)
        rows = self.queue_size if self.queued else data.num_samples
        for kept in ("kept_s", "kept_t"):
            start = torch.zeros(rows, self.embed_dim)
            if not self.queued:
                limit = (3 / self.embed_dim) ** 0.5
                start = torch.empty(rows, self.embed_dim).uniform_(-limit, limit)
            self.register_buffer(kept, start)
        for z in ("z_s", "z_t"):
            self.register_buffer(z, torch.tensor(-1.0))
        if self.queued:
            self.register_buffer("queue_index", torch.full((rows,), -1))
            self.register_buffer("queue_y", torch.zeros(rows))
            self.register_buffer("queue_head", torch.tensor(0))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"contrast"}; in training mode memory or queue take up the batch."""
        assert batch.index is not None, "the engine gives row numbers"
        s, t = pooled_pair(student, teacher)
        u_s, u_t = F.normalize(self.embed_s(s)), F.normalize(self.embed_t(t))
        if self.queued:
            rows_B = self._against_queue(u_s, u_t, batch.index, batch.y)
        else:
            rows_B = self._against_memory(u_s, u_t, batch.index, batch.neg_index)
        if self.training:
            with torch.no_grad():
                self._keep(u_s.detach(), u_t.detach(), batch.index, batch.y)
        return {"contrast": self.contrast_weight * row_mean(rows_B, batch.is_fake, self.fake_weight)}

    def _against_memory(self, u_s: Tensor, u_t: Tensor, index: Tensor, negatives: Tensor | None) -> Tensor:
        assert negatives is not None, "the engine draws negatives"
        column_BK = torch.cat([index[:, None], negatives], 1)
        keep_BK = self._akin(index, column_BK)
        score_s = self._scores(u_s, self.kept_t, column_BK)
        score_t = self._scores(u_t, self.kept_s, column_BK)
        return self._nce(score_s, keep_BK, self.z_s) + self._nce(score_t, keep_BK, self.z_t)

    def _scores(self, u_BE: Tensor, kept_ME: Tensor, column_BK: Tensor) -> Tensor:
        """exp(u . memory / temperature) [B, K + 1]; the memory is copied, as it changes before the backward pass."""
        if len(kept_ME) <= column_BK.numel():
            # All products of a few rows at a time: their size is bounded, and only those asked for are kept.
            kept_EM, rows = kept_ME.clone().T, max(1, PRODUCTS // len(kept_ME))
            parts = zip(torch.split(u_BE, rows), torch.split(column_BK, rows), strict=True)
            dot = torch.cat([(u @ kept_EM).gather(1, column) for u, column in parts])
        else:  # Fewer rows are asked for than the memory has.
            dot = torch.einsum("be,bke->bk", u_BE, kept_ME[column_BK])
        return (dot / self.temperature).exp()

    def _against_queue(self, u_s: Tensor, u_t: Tensor, index: Tensor, y: Tensor) -> Tensor:
        full = self.queue_index >= 0
        index_M = torch.cat([index, self.queue_index[full]])
        y_M = torch.cat([y.float(), self.queue_y[full]])
        keep_BM = self._differ(index, y.float(), index_M, y_M) & self._akin(index, index_M.expand(len(index), -1))
        loss = torch.zeros(len(u_s), device=u_s.device)
        for own, other, kept, z in ((u_s, u_t, self.kept_t, self.z_s), (u_t, u_s, self.kept_s, self.z_t)):
            others_ME = torch.cat([other.detach(), kept[full]])
            positive_B1 = (own * other.detach()).sum(1, keepdim=True)
            score = (torch.cat([positive_B1, own @ others_ME.T], 1) / self.temperature).exp()
            loss = loss + self._nce(score, torch.cat([torch.ones_like(keep_BM[:, :1]), keep_BM], 1), z)
        return loss

    def _differ(self, index_B: Tensor, y_B: Tensor, index_M: Tensor, y_M: Tensor) -> Tensor:
        """Which rows are negatives of which: another class, or for scalars another image, far enough in label."""
        if self.data_spec.num_classes:
            return y_B[:, None] != y_M[None]
        gap = wrapped(y_B[:, None] - y_M[None], self.period).abs()
        return (index_B[:, None] != index_M[None]) & (gap >= self.min_label_gap)

    def _akin(self, index_B: Tensor, index_BK: Tensor) -> Tensor:
        """Which rows [B, K] a row is compared with as far as it matters whether they are real or fake."""
        fake_N = self.data_spec.fake
        if self.scope == "mixed" or fake_N is None:
            return torch.ones_like(index_BK, dtype=torch.bool)
        fake_N = fake_N.to(index_B.device)
        return fake_N[index_B][:, None] == fake_N[index_BK]

    def _nce(self, score_BK: Tensor, keep_BK: Tensor, z: Tensor) -> Tensor:
        """Noise-contrastive loss [B] of scores whose first column is the positive; only kept columns count."""
        num = self.data_spec.num_samples
        if float(z) < 0:
            mean = (score_BK.detach() * keep_BK).sum() / keep_BK.sum()
            z.copy_(mean * num)
        p_BK = score_BK / z
        noise_B1 = keep_BK[:, 1:].sum(1, keepdim=True) / num
        positive = (p_BK[:, :1] / (p_BK[:, :1] + noise_B1 + 1e-7)).log()
        # Rows without a negative have no noise; their logarithm is not taken.
        negative = (noise_B1.clamp_min(1e-12) / (p_BK[:, 1:] + noise_B1 + 1e-7)).log()
        return -(positive[:, 0] + torch.where(keep_BK[:, 1:], negative, 0.0).sum(1))

    def _keep(self, u_s: Tensor, u_t: Tensor, index: Tensor, y: Tensor) -> None:
        if not self.queued:
            for kept, u in ((self.kept_s, u_s), (self.kept_t, u_t)):
                kept[index] = F.normalize(self.momentum * kept[index] + (1 - self.momentum) * u)
            return
        take = min(len(u_s), self.queue_size)
        rows = (self.queue_head + torch.arange(take, device=u_s.device)) % self.queue_size
        self.kept_s[rows], self.kept_t[rows] = u_s[-take:], u_t[-take:]
        self.queue_index[rows], self.queue_y[rows] = index[-take:], y[-take:].float()
        self.queue_head.copy_((self.queue_head + take) % self.queue_size)


METHODS: dict[str, type[Distiller]] = {"crd": ContrastiveDistillation}
