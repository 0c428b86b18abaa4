"""`skd_speculative`: the student proposes, the teacher accepts or replaces; labels of fakes, or the fakes themselves.

There is no published form for images: this carries the rule of Xu et al. (arXiv 2410.11325) from tokens to samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.config import ConfigError
from cgankd.distill.base import Batch, DataSpec, Flow, ModelSpec
from cgankd.distill.composite import chooses
from cgankd.distill.rows import hard_labels
from cgankd.distill.wrapper import Wrapper
from cgankd.labels.circle import is_label, label_of, wrapped
from cgankd.types import Outputs


@dataclass(frozen=True)
class Speculation:
    """Rows of a pool that train next, with shares of proposals the teacher took, of slots it filled, of groups with rows."""

    rows: Tensor
    acceptance: float
    correction: float
    coverage: float


@dataclass(frozen=True)
class Proposal:
    """How the student proposes rows of a pool, and the teacher fills the slots it turned down, if it does."""

    share: float
    temperature: float
    teacher_temperature: float
    replace: bool


def speculate(
    student_error_N: Tensor,
    teacher_error_N: Tensor,
    accepted_N: Tensor,
    group_N: Tensor,
    how: Proposal,
    gen: torch.Generator,
) -> Speculation:
    """In each group: the student proposes a share of the pool, the teacher verifies, and fills what it turned down.

    Proposals are drawn without replacement with probability proportional to exp(student error / temperature), which
    at an infinite temperature is uniform; `accepted_N` says whom the teacher takes. With `replace` a slot it turns down
    goes to a row it takes that was not proposed, drawn in proportion to exp(-teacher error / teacher_temperature); where
    there are none left the slot stays empty. With share 1 and no replacing this is M2's filter. Returns sorted rows; all
    tensors [N].
    """
    rows: list[Tensor] = []
    proposed = refused = filled = covered = 0
    groups = sorted(set(group_N.tolist()))
    for group in groups:
        first = len(rows)
        members_G = (group_N == group).nonzero()[:, 0]
        num = max(1, round(how.share * len(members_G)))
        order_G = _gumbel_order(student_error_N[members_G] / how.temperature, gen)
        ours_P, rest_R = members_G[order_G[:num]], members_G[order_G[num:]]
        taken_P = accepted_N[ours_P]
        rows.append(ours_P[taken_P])
        proposed, refused = proposed + num, refused + int((~taken_P).sum())
        if how.replace:
            rest_R = rest_R[accepted_N[rest_R]]
            order_R = _gumbel_order(-teacher_error_N[rest_R] / how.teacher_temperature, gen)
            drawn = rest_R[order_R[: int((~taken_P).sum())]]
            rows.append(drawn)
            filled += len(drawn)
        covered += any(len(part) for part in rows[first:])
    return Speculation(torch.cat(rows).sort().values, 1 - refused / proposed, filled / proposed, covered / len(groups))


def _gumbel_order(score_N: Tensor, gen: torch.Generator) -> Tensor:
    """An order of draws without replacement with weights exp(score): descending score plus Gumbel noise."""
    uniform_N = torch.rand(len(score_N), generator=gen, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    return (score_N.double() - (-uniform_N.log()).log()).argsort(descending=True)


class SpeculativeKD(Wrapper):
    """Speculative KD on samples: `level: image` or `level: label` around another KD loss (`method`).

    label: for each fake the student draws y' ~ softmax(z_s / proposal_temperature), z [B, O] logits; the teacher accepts
    a class among its `top_k` highest and else draws one itself from softmax(z_t / teacher_temperature); the term
    hard_weight * CE(z_s, y') is added to the wrapped method's and the task's loss on the fake's own label is left out, so
    that the two do not pull apart; both are means over the whole batch. A scalar's proposal is y_s, accepted within
    `tolerance` of y_t (normalised units), else y_t. top_k 0 = always the teacher's label. Real images keep the wrapped
    loss alone. image: every `refresh_epochs` epochs the bank's rows that train are chosen anew (`speculate`): the student
    proposes `pool_share` of each label group, hardest first by `proposal_temperature`, the teacher keeps those it accepts
    and replaces the others by such as it takes. `accept: top_k`: the label is among its `top_k` (scalars, which are one
    group: within `tolerance`). `accept: quantile`: its error on the label is at most the `rho`-quantile of the group's,
    which is cGAN-KD's filter (left out: top_k for classes, quantile for scalars); with pool_share 1 and replace false
    that filter is all there is. A choice of no rows at all leaves the last one in use; without one it is an error.
    Without a bank there is nothing to choose.
    """

    name = "skd_speculative"
    source = "Xu et al., ICLR 2025, arXiv 2410.11325 (tokens); labels and images of fakes are ours"
    status = "adaptation"
    flows = (
        Flow("student.logits", "labels", "draw, accepted in the teacher's top k", "cross-entropy", "hard_weight"),
        Flow("teacher.logits", "labels", "draw where the proposal is refused", "cross-entropy", "hard_weight"),
        Flow(
            "bank.samples", "student", "proposed by the student, verified by the teacher", "none", "1", "refresh_epochs"
        ),
    )

    def __init__(
        self,
        *,
        method: str = "kd",
        options: Mapping[str, Any] | None = None,
        level: Literal["image", "label"] = "image",
        accept: Literal["top_k", "quantile"] | None = None,
        rho: float = 0.7,
        top_k: int | None = None,
        tolerance: float = 0.05,
        hard_weight: float = 0.1,
        proposal_temperature: float = 1.0,
        teacher_temperature: float = 1.0,
        pool_share: float = 0.25,
        refresh_epochs: float = 10.0,
        replace: bool = True,
    ) -> None:
        super().__init__(method, options)
        for name, value in {
            "tolerance": tolerance,
            "proposal_temperature": proposal_temperature,
            "teacher_temperature": teacher_temperature,
            "refresh_epochs": refresh_epochs,
        }.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, but is {value!r}")
        if top_k is not None and top_k < 0:
            raise ValueError(f"top_k must be null, zero or more, but is {top_k!r}")
        if not hard_weight >= 0:
            raise ValueError(f"hard_weight must be zero or more, but is {hard_weight!r}")
        if not 0 < rho <= 1:
            raise ValueError(f"rho must be in (0, 1], but is {rho!r}")
        if accept == "quantile" and level == "label":
            raise ValueError("accept must be top_k at level label, but is 'quantile'; set level image or accept top_k")
        if level == "image" and chooses(self.inner):
            raise ValueError(
                f"method must not choose the bank's rows itself, but {method} does; set its level to label"
            )
        if not 0 < pool_share <= 1:
            raise ValueError(f"pool_share must be in (0, 1], but is {pool_share!r}")
        self.level, self.top_k, self.tolerance, self.hard_weight = level, top_k, tolerance, hard_weight
        self.proposal_temperature, self.teacher_temperature = proposal_temperature, teacher_temperature
        self.pool_share, self.refresh_epochs, self.replace = pool_share, refresh_epochs, replace
        self.accept, self.rho = accept, rho
        self.task_on_fakes = level == "image" and self.inner.task_on_fakes

    def build(self, student: ModelSpec, teacher: ModelSpec, data: DataSpec) -> None:
        """Make room for the rows in use: the numbers of the bank's rows, kept with the checkpoint."""
        super().build(student, teacher, data)
        num_fakes = 0 if data.fake is None else int(data.fake.sum())
        if self.level == "image":
            self.register_buffer("rows", torch.arange(num_fakes))
            self.register_buffer("num_rows", torch.tensor(num_fakes))
            self.register_buffer("has_chosen", torch.tensor(False))

    def uses_teacher(self, phase: str) -> bool:
        """As the inner method does, and at level label in the student's training."""
        return super().uses_teacher(phase) or (self.level == "label" and phase == "train")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, epoch: float = 0) -> dict[str, Tensor]:
        """Those of the wrapped method, and at level label {"proposed"} on the fakes."""
        terms = self.inner.losses(student, teacher, batch, epoch)
        if self.level == "image":
            return terms
        num = len(batch.y)
        student_BO, teacher_BO = student.pred[:num].float(), teacher.pred[:num].float()
        label_B = self.propose(student_BO.detach(), teacher_BO)
        miss_B = hard_labels(student_BO, label_B, self.period)
        if batch.is_fake is not None:
            miss_B = miss_B * batch.is_fake
        return terms | {"proposed": self.hard_weight * miss_B.mean()}

    def propose(self, student_BO: Tensor, teacher_BO: Tensor) -> Tensor:
        """Labels [B]: the student's where the teacher accepts them, else the teacher's; global generator."""
        if is_label(student_BO, self.period):
            student_B, teacher_B = (label_of(out_BO, self.period) for out_BO in (student_BO, teacher_BO))
            return torch.where(self.verified(teacher_BO, student_B), student_B, teacher_B)
        mine_B = torch.multinomial(F.softmax(student_BO / self.proposal_temperature, 1), 1)[:, 0]
        theirs_B = torch.multinomial(F.softmax(teacher_BO / self.teacher_temperature, 1), 1)[:, 0]
        return torch.where(self.verified(teacher_BO, mine_B), mine_B, theirs_B)

    def verified(self, teacher_BO: Tensor, label_B: Tensor) -> Tensor:
        """True [B] where the label is among the teacher's top_k classes (null: 5 % of them, at least 1), or near its own."""
        num = teacher_BO.shape[1]
        if is_label(teacher_BO, self.period):
            return wrapped(label_of(teacher_BO, self.period) - label_B, self.period).abs() <= self.tolerance
        top_k = max(1, -(-num // 20)) if self.top_k is None else min(self.top_k, num)
        return (teacher_BO.topk(top_k, dim=1).indices == label_B[:, None]).any(1)

    def refresh_every(self) -> float | None:
        """Epochs between choices of the bank's rows, at level image."""
        return self.refresh_epochs if self.level == "image" else None

    def refresh(self, student_MO: Tensor, teacher_MO: Tensor, y_M: Tensor, gen: torch.Generator) -> Speculation:
        """Choose the bank's rows from both nets' outputs [M, O] and the labels [M] as in `Batch.y`; kept in `rows`.

        Raises ConfigError where the first choice is empty. A later empty one keeps the rows of the choice before it.
        """
        scalar = is_label(student_MO, self.period)
        group_M = torch.zeros(len(y_M), dtype=torch.long) if scalar else y_M
        rule = self.accept or ("quantile" if scalar else "top_k")
        error_M = hard_labels(teacher_MO, y_M, self.period)
        chosen = speculate(
            hard_labels(student_MO, y_M, self.period),
            error_M,
            self.verified(teacher_MO, y_M) if rule == "top_k" else within(error_M, group_M, self.rho),
            group_M,
            Proposal(self.pool_share, self.proposal_temperature, self.teacher_temperature, self.replace),
            gen,
        )
        assert isinstance(self.rows, Tensor) and isinstance(self.num_rows, Tensor)
        assert isinstance(self.has_chosen, Tensor)
        if not len(chosen.rows) and not self.has_chosen:
            option = "tolerance" if scalar else "top_k"
            raise ConfigError(
                f"student.distiller skd_speculative: the teacher accepts none of the {len(y_M)} fakes that were up for"
                f" choice, so that none is left to train on; raise the option {option} or pool_share, or make a better bank"
            )
        if len(chosen.rows):
            self.has_chosen.fill_(True)
            self.rows[: len(chosen.rows)] = chosen.rows
            self.num_rows.fill_(len(chosen.rows))
        return chosen

    def redirect(self, fake_B: Tensor) -> Tensor:
        """Rows of the bank [B] that stand in for these: each chosen row serves an equal number of positions."""
        assert isinstance(self.rows, Tensor) and isinstance(self.num_rows, Tensor)
        return self.rows[fake_B.to(self.rows.device) % self.num_rows].to(fake_B.device)


def within(error_N: Tensor, group_N: Tensor, rho: float) -> Tensor:
    """True [N] where an error is at most the rho-quantile of its group, which at least ceil(rho n) of n are (M2's rule)."""
    accepted_N = torch.zeros(len(error_N), dtype=torch.bool)
    for group in set(group_N.tolist()):
        own_N = group_N == group
        sorted_G = error_N[own_N].sort().values
        accepted_N |= own_N & (error_N <= sorted_G[math.ceil((len(sorted_G) - 1) * rho)])
    return accepted_N


METHODS = {"skd_speculative": SpeculativeKD}
