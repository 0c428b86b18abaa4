"""Outputs by row: parts of a batch put together, cut off the graph, and the loss of hard labels for each sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cgankd.labels.circle import is_label, miss
from cgankd.types import Outputs


def hard_labels(pred_BO: Tensor, y_B: Tensor, period: float | None = None) -> Tensor:
    """The task's loss of each sample, [B]: cross-entropy, or of scalar labels the absolute error (`circle.miss`)."""
    if is_label(pred_BO, period):
        return miss(pred_BO, y_B, period)
    return F.cross_entropy(pred_BO, y_B, reduction="none")


def frozen(outputs: Outputs) -> Outputs:
    """The same outputs cut off the graph."""

    def cut(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part.detach() for part in parts)

    pooled = None if outputs.pooled is None else outputs.pooled.detach()
    return Outputs(outputs.pred.detach(), pooled, cut(outputs.stages), cut(outputs.preacts), outputs.head)


def join(parts: list[Outputs], rows: list[Tensor]) -> Outputs:
    """Outputs of parts of a batch as those of the whole; rows[i] holds the row numbers of parts[i]."""
    order_B = torch.cat(rows).argsort()

    def whole(values: list[Tensor]) -> Tensor:
        return torch.cat(values)[order_B]

    first = parts[0]
    pooled = None if first.pooled is None else whole([p.pooled for p in parts if p.pooled is not None])
    return Outputs(
        whole([p.pred for p in parts]),
        pooled,
        tuple(whole([p.stages[i] for p in parts]) for i in range(len(first.stages))),
        tuple(whole([p.preacts[i] for p in parts]) for i in range(len(first.preacts))),
        first.head,
    )
