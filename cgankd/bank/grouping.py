"""Groups of labels within which M1 takes its bound: a class, a label bin, or with bank.bound_scope: label one label asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cgankd.types import Task


@dataclass(frozen=True)
class Grouping:
    """The task's filter groups, or the place of a label among `label_K`, the labels to synthesise."""

    task: Task
    label_K: Tensor | None

    def groups(self, label_B: Tensor) -> Tensor:
        """Group number [B], int64."""
        if self.label_K is None:
            return self.task.filter_groups(label_B)
        return torch.searchsorted(self.label_K.sort().values, label_B)

    def bins(self) -> Tensor | None:
        """The filter group [G] of each group, in which the cutoff of M2 is taken; None where they are the same."""
        return None if self.label_K is None else self.task.filter_groups(self.label_K.sort().values)
