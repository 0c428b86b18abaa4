"""Pieces the logit-based KD losses share: stable log-probabilities, weighted means, standardised rows, checks of options.

Everything is computed in float32 at least, from log-softmax and log-sum-exp, so that logits of several hundred give
finite values and gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.types import Outputs


def wide(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 stay."""
    return x if x.dtype == torch.float64 else x.float()


def both(student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """Predictions [B, O] of student and teacher in full precision, the teacher's cut from the graph."""
    return wide(student.pred), wide(teacher.pred).detach()


def nothing(pred_BO: Tensor) -> Tensor:
    """A zero attached to the graph, for a term no row of the batch takes part in."""
    return (pred_BO * 0).sum()


def row_weights(is_fake: Tensor | None, fake_weight: float, like: Tensor) -> Tensor:
    """Weight of each row: 1 for a real image, `fake_weight` for a fake one."""
    if is_fake is None:
        return torch.ones(len(like), dtype=like.dtype, device=like.device)
    return torch.where(is_fake, fake_weight, 1.0).to(like)


def weighted_mean(term: Tensor, weight_B: Tensor) -> Tensor:
    """sum w term / sum w over rows [B, ...], each summed over the rest; 0 attached to the graph where no row weighs."""
    # Shares and not a division at the end: where no row weighs, 1 / tiny would turn a gradient of 0 into NaN.
    share_B = weight_B / weight_B.sum().clamp_min(torch.finfo(weight_B.dtype).tiny)
    return (term * share_B.view([-1] + [1] * (term.ndim - 1))).sum()


def row_mean(term: Tensor, is_fake: Tensor | None, fake_weight: float, keep_B: Tensor | None = None) -> Tensor:
    """Mean over rows (those of `keep_B` where given) of a term [B, ...], fake rows weighing `fake_weight`.

    Without weights it is one sum over the whole term, divided by the rows: to the last bit what `F.kl_div` gives with
    reduction batchmean.
    """
    if keep_B is None and (fake_weight == 1 or is_fake is None):
        return term.sum() / len(term)
    weight_B = row_weights(is_fake, fake_weight, term)
    return weighted_mean(term, weight_B if keep_B is None else weight_B * keep_B)


def kl_terms(student_BO: Tensor, teacher_BO: Tensor, temperature: float | Tensor) -> Tensor:
    """Summands [B, O] of KL(p_t || p_s), both softened by the temperature (without T^2)."""
    log_student_BO = F.log_softmax(student_BO / temperature, dim=1)
    log_teacher_BO = F.log_softmax(teacher_BO / temperature, dim=1)
    return F.kl_div(log_student_BO, log_teacher_BO, reduction="none", log_target=True)


def soft_cross_entropy(student_BO: Tensor, target_BO: Tensor) -> Tensor:
    """-sum_k target_k log p_s,k of each row [B]."""
    return -(target_BO * F.log_softmax(student_BO, dim=1)).sum(dim=1)


def standardized(logits_BO: Tensor, eps: float = 1e-7) -> Tensor:
    """(z - mean) / (sd + eps) of each row over the classes, sd unbiased (Sun et al., arXiv 2403.01427).

    A row without spread is only centred: divided by eps it would be rounding noise with gradients of 1e7.
    """
    mean_B1 = logits_BO.mean(dim=1, keepdim=True)
    spread_B1 = logits_BO.std(dim=1, keepdim=True)
    flat_B1 = spread_B1 <= eps + 1e-6 * mean_B1.abs()
    return (logits_BO - mean_B1) / torch.where(flat_B1, 1.0, spread_B1 + eps)


def pearson(a_BO: Tensor, b_BO: Tensor, eps: float = 1e-8) -> Tensor:
    """Correlation of each pair of rows [B]; 0 without a gradient where one of the two has no spread."""
    a_BO = a_BO - a_BO.mean(dim=1, keepdim=True)
    b_BO = b_BO - b_BO.mean(dim=1, keepdim=True)
    product_B = a_BO.norm(dim=1) * b_BO.norm(dim=1)
    flat_B = product_B <= eps
    correlation_B = (a_BO * b_BO).sum(dim=1) / (torch.where(flat_B, 1.0, product_B) + eps)
    return torch.where(flat_B, 0.0, correlation_B)


class Split(NamedTuple):
    """A softmax taken apart: log p_y [B], log(1 - p_y) [B], log-softmax of the other classes [B, O - 1]."""

    log_target_B: Tensor
    log_rest_B: Tensor
    log_others_BO: Tensor


def split(logits_BO: Tensor, label_B: Tensor) -> Split:
    """Log-probabilities of the label, of the rest together, and of the rest among themselves; exact at any gap."""
    label_B1 = label_B.long()[:, None]
    place_O = torch.arange(logits_BO.shape[1] - 1, device=logits_BO.device)
    others_BO = logits_BO.gather(1, place_O + (place_O >= label_B1).long())
    total_B, rest_B = logits_BO.logsumexp(dim=1), others_BO.logsumexp(dim=1)
    return Split(logits_BO.gather(1, label_B1)[:, 0] - total_B, rest_B - total_B, F.log_softmax(others_BO, dim=1))


def decoupled(student: Split, teacher: Split) -> tuple[Tensor, Tensor]:
    """TCKD [B] and NCKD [B]: KL(p_t || p_s) = TCKD + (1 - p_t[y]) NCKD (Zhao et al., arXiv 2203.08679)."""
    target_B = teacher.log_target_B.exp() * (teacher.log_target_B - student.log_target_B)
    rest_B = teacher.log_rest_B.exp() * (teacher.log_rest_B - student.log_rest_B)
    others_BO = teacher.log_others_BO.exp() * (teacher.log_others_BO - student.log_others_BO)
    return target_B + rest_B, others_BO.sum(dim=1)


def scopes(num: int, is_fake: Tensor | None, scope: str) -> list[Tensor | slice]:
    """Rows that are related to one another: all of them ("mixed"), or real and fake ones apart ("within_source")."""
    if scope == "mixed" or is_fake is None:
        return [slice(0, num)]
    return [rows_B for rows_B in (~is_fake, is_fake) if bool(rows_B.any())]


def above_zero(method: str, **options: float) -> None:
    """Raise ValueError where an option is not above 0."""
    for name, value in options.items():
        if not value > 0:
            raise ValueError(f"{method}.{name} must be above 0, but is {value}")


def not_negative(method: str, **options: float) -> None:
    """Raise ValueError where an option is below 0."""
    for name, value in options.items():
        if not value >= 0:
            raise ValueError(f"{method}.{name} must be 0 or above, but is {value}")


def a_share(method: str, **options: float) -> None:
    """Raise ValueError where an option is not between 0 and 1."""
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{method}.{name} must be between 0 and 1, but is {value}")


def one_of(method: str, allowed: Sequence[str], **options: str) -> None:
    """Raise ValueError where an option is not one of these words."""
    for name, value in options.items():
        if value not in allowed:
            raise ValueError(f"{method}.{name} must be one of {', '.join(allowed)}, but is {value!r}")
