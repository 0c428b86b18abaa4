"""SSKD: the teacher's answers and similarities on turned images, next to ordinary soft targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.distill.base import Batch, DataSpec, Distiller, Flow, ModelSpec, Needs, Phase
from cgankd.distill.losses.feature_terms import in_range
from cgankd.distill.losses.logit_terms import kl_terms, row_mean
from cgankd.types import Outputs


class SelfSupervisedKD(Distiller):
    """0.9 KD_4 on images, 2.7 KD_4 on turned ones, 10 t^2 KL of similarities, and 0.1 of the task (Xu et al.).

    Outputs hold 4 B rows: the B images as they are, then all by 90, 180 and 270 degrees. Similarity of turned image j to
    image i: cosine of a two-layer head on the pooled features [B, F]. Phase "self_supervision" trains the teacher's head
    to find the image behind each turned one (cross-entropy of similarities); the teacher itself stays frozen. Turned rows
    the teacher gets wrong are kept from the least wrong (by the rank of the right answer) up to a share: `keep_wrong` of
    those for the soft targets, `keep_wrong_similar` for the similarities. KL terms are means over the rows kept,
    in which those of a fake count `fake_weight` times (as an image that others are compared with it still counts).
    """

    name = "sskd"
    needs = Needs(logits=True, pooled=True, label=True, views=frozenset({"rot4"}))
    source = "Xu et al., ECCV 2020, arXiv 2006.07114"
    flows = (
        Flow(
            "teacher.pooled",
            "teacher.pooled",
            "head, cosines of turned and unturned",
            "CE",
            "1",
            phase="self_supervision",
        ),
        Flow("teacher.logits", "student.logits", "softmax at T", "KL T^2", "0.9"),
        Flow("teacher.logits", "student.logits", "turned images, softmax at T", "KL T^2", "2.7"),
        Flow("teacher.pooled", "student.pooled", "cosines of turned and unturned, softmax", "KL t^2", "10"),
    )

    def __init__(
        self,
        *,
        task_weight: float = 0.1,
        soft_weight: float = 0.9,
        turned_weight: float = 2.7,
        similarity_weight: float = 10.0,
        temperature: float = 4.0,
        turned_temperature: float = 4.0,
        similarity_temperature: float = 0.5,
        keep_wrong: float = 1.0,
        keep_wrong_similar: float = 0.75,
        head_share: float = 0.25,
        head_learning_rate: float = 0.05,
        fake_weight: float = 1.0,
    ) -> None:
        super().__init__()
        in_range(self.name, fake_weight=fake_weight)
        self.fake_weight = fake_weight
        in_range(self.name, task_weight=task_weight, soft_weight=soft_weight, turned_weight=turned_weight)
        in_range(self.name, similarity_weight=similarity_weight, head_learning_rate=head_learning_rate)
        in_range(self.name, low=1e-3, temperature=temperature, turned_temperature=turned_temperature)
        in_range(self.name, low=1e-3, similarity_temperature=similarity_temperature)
        in_range(self.name, high=1, keep_wrong=keep_wrong, keep_wrong_similar=keep_wrong_similar)
        in_range(self.name, low=1e-6, high=10, head_share=head_share)
        self.task_weight, self.soft_weight, self.turned_weight = task_weight, soft_weight, turned_weight
        self.similarity_weight, self.temperature = similarity_weight, temperature
        self.turned_temperature, self.similarity_temperature = turned_temperature, similarity_temperature
        self.keep_wrong, self.keep_wrong_similar = keep_wrong, keep_wrong_similar
        self.head_share, self.head_learning_rate = head_share, head_learning_rate

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make a head for each net. Raises TaskNotSupported."""
        super().build(student, teacher, data)
        self.head_s, self.head_t = _head(student.pooled_dim), _head(teacher.pooled_dim)

    def phases(self) -> list[Phase]:
        """The teacher's head (60 of 240 epochs in the authors' program), then the student's training."""
        return [Phase("self_supervision", self.head_share, self.head_learning_rate), Phase("train")]

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """The teacher's head in its phase, the student's head in the student's training."""
        return list((self.head_t if phase == "self_supervision" else self.head_s).parameters())

    def phase_losses(self, phase: str, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """{"self_supervision"}: cross-entropy of finding the image behind each turned one."""
        assert teacher.pooled is not None, "the engine gives pooled features"
        similarity = similarities(self.head_t(teacher.pooled.detach().float()))
        return {"self_supervision": F.cross_entropy(similarity, _origin(similarity))}

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """{"soft", "turned", "similarity"}."""
        assert student.pooled is not None and teacher.pooled is not None, "the engine gives pooled features"
        plain_s, turned_s = unturned_first(student.pred.float())
        plain_t, turned_t = unturned_first(teacher.pred.detach().float())
        similar_s = similarities(self.head_s(student.pooled.float()))
        with torch.no_grad():
            similar_t = similarities(self.head_t(teacher.pooled.float()))
        label = batch.y[: len(plain_s)].long().repeat_interleave(3)
        turned = least_wrong(turned_t, label, self.keep_wrong)
        similar = least_wrong(similar_t, _origin(similar_t), self.keep_wrong_similar)
        fake = None if batch.is_fake is None else batch.is_fake[: len(plain_s)]
        fake_3 = None if fake is None else fake.repeat_interleave(3)

        def gap(s: Tensor, t: Tensor, temperature: float, rows: Tensor) -> Tensor:
            if not len(rows):
                return (s * 0).sum()
            kl_B = temperature**2 * kl_terms(s[rows], t[rows], temperature).sum(1)
            marks = fake if len(s) == len(plain_s) else fake_3
            return row_mean(kl_B, None if marks is None else marks[rows], self.fake_weight)

        every = torch.arange(len(plain_s), device=plain_s.device)
        similarity = gap(similar_s, similar_t, self.similarity_temperature, similar)
        return {
            "soft": self.soft_weight * gap(plain_s, plain_t, self.temperature, every),
            "turned": self.turned_weight * gap(turned_s, turned_t, self.turned_temperature, turned),
            "similarity": self.similarity_weight * similarity,
        }


def _head(dim: int) -> nn.Sequential:
    # Cosines are taken within a net, so the two heads need not be of one width.
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))


def unturned_first(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [4 B, F] to those of the B images and the 3 B turned ones, the three of an image next to each other."""
    num = len(rows) // 4
    turned = rows[num:].reshape(3, num, -1).transpose(0, 1).flatten(0, 1)
    return rows[:num], turned


def similarities(head_4BF: Tensor) -> Tensor:
    """Cosines [3 B, B] of each turned image with each image."""
    plain, turned = unturned_first(head_4BF)
    return F.normalize(turned, eps=1e-8) @ F.normalize(plain, eps=1e-8).T


def _origin(similarity: Tensor) -> Tensor:
    return torch.arange(similarity.shape[1], device=similarity.device).repeat_interleave(3)


def least_wrong(score_BO: Tensor, right_B: Tensor, share: float) -> Tensor:
    """Row numbers, ascending: those whose right answer scores highest, and this share of the others by its rank."""
    right = score_BO.gather(1, right_B[:, None])
    rank_B = (score_BO > right).sum(1)
    num_wrong = int((rank_B > 0).sum())
    keep = len(rank_B) - num_wrong + int(num_wrong * share)
    return rank_B.argsort(stable=True)[:keep].sort().values


METHODS: dict[str, type[Distiller]] = {"sskd": SelfSupervisedKD}
