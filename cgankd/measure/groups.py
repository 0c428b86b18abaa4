"""Errors of each class or label range, and their mean over those: what the mean over images hides where labels are uneven."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cgankd.types import PredictFn, Split, Task


@dataclass(frozen=True)
class Scores:
    """A predictor on a split: mean headline over images, over groups (the balanced one), and of each group (NaN: no image)."""

    mean: float
    balanced: float
    groups: tuple[float, ...]

    def by(self, headline: str) -> float:
        """The score of `evaluate.headline`, mean or balanced."""
        return self.balanced if headline == "balanced" else self.mean


def group_scores(task: Task, predict: PredictFn, split: Split) -> Scores:
    """Scores over the groups of `Task.filter_groups`: the class, or the label range of width bank.label_bin."""
    score_B = task.score(predict(split.images), split.labels).double()
    means = group_means(score_B, task.filter_groups(split.labels), len(task.group_names))
    return Scores(float(score_B.mean()), balanced(means), tuple(means))


def group_means(value_B: Tensor, group_B: Tensor, num_groups: int) -> list[float]:
    """Mean of the values of each group; NaN where a group has none."""
    total_G = torch.bincount(group_B, weights=value_B.double(), minlength=num_groups)
    found: list[float] = (total_G / torch.bincount(group_B, minlength=num_groups)).tolist()
    return found


def balanced(means: Sequence[float]) -> float:
    """Mean over the groups that have images; of class errors it is 100 % - balanced accuracy."""
    known = [mean for mean in means if not math.isnan(mean)]
    return sum(known) / len(known)


def group_counts(task: Task, label_N: Tensor) -> list[int]:
    """Images of each group."""
    found: list[int] = torch.bincount(task.filter_groups(label_N), minlength=len(task.group_names)).tolist()
    return found
