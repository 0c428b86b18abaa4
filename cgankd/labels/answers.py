"""What a shipped model says: an answer in words, how sure it is, and how far it may be off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from cgankd.labels.circle import label_of, onto_range, wrapped
from cgankd.types import DatasetInfo


@dataclass(frozen=True)
class Margin:
    """How far answers may be off: a split-conformal quantile of the misses of `num` held-out images at this level."""

    level: float
    width: float
    num: int


@dataclass(frozen=True)
class Reading:
    """An answer in words: the label, how sure it is, and the labels (or the two ends of the interval) left by the margin.

    `confidence` is the probability of a class, and for a scalar the level of its interval (None without a margin). `seam`
    is set where the interval goes round: the label at which a turn ends, which lies between its two ends.
    """

    label: str | float
    confidence: float | None
    region: tuple[str | float, ...]
    seam: float | None = None


class Answer(Protocol):
    """What a shipped model says instead of raw outputs: a module from outputs [B, O] to answers [B, A], with its reading."""

    num_answers: int
    names: tuple[str, ...]
    """What each of the A numbers is: a class, or the label with its unit."""
    scale: float
    """Range of the answers, against which a difference between two of them is small or large."""

    def __call__(self, out_BO: Tensor) -> Tensor: ...

    def score(self, answer_BA: Tensor, label_B: Tensor) -> Tensor:
        """Per-sample headline [B] of answers, as `Task.score` has it for outputs."""

    def miss(self, answer_BA: Tensor, label_B: Tensor) -> Tensor:
        """How far each answer is from its label [B]: 1 - the label's probability, or the absolute error in raw units."""

    def read(self, answer_BA: Tensor, margin: Margin | None) -> list[Reading]:
        """Answers in words."""


class ClassAnswer(nn.Module):
    """Logits [B, O] to class probabilities [B, O]."""

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__()
        self.names = info.class_names
        self.num_answers, self.scale = len(info.class_names), 1.0

    def forward(self, out_BO: Tensor) -> Tensor:
        """Softmax, in float32."""
        return F.softmax(out_BO.float(), dim=1)

    def score(self, answer_BA: Tensor, label_B: Tensor) -> Tensor:
        """100 where the most probable class is wrong, else 0, [B]."""
        return 100.0 * (answer_BA.argmax(dim=1) != label_B).float()

    def miss(self, answer_BA: Tensor, label_B: Tensor) -> Tensor:
        """1 - probability of the label, [B]."""
        return 1.0 - answer_BA.gather(1, label_B[:, None])[:, 0]

    def read(self, answer_BA: Tensor, margin: Margin | None) -> list[Reading]:
        """The most probable class with its probability; the region is every class the margin does not rule out."""
        readings = []
        for row_A in answer_BA:
            order = row_A.argsort(descending=True).tolist()
            kept = [i for i in order if margin is not None and 1.0 - float(row_A[i]) <= margin.width]
            best = order[0]
            readings.append(Reading(self.names[best], float(row_A[best]), tuple(self.names[i] for i in kept)))
        return readings


class ScalarAnswer(nn.Module):
    """The normalised output [B, 1] to the label in raw units [B, 1], clipped to the label range or taken round its circle."""

    num_answers = 1

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__()
        self.names: tuple[str, ...] = (f"label ({info.label_unit})" if info.label_unit else "label",)
        self.label_min, self.label_max = info.label_min, info.label_max
        self.scale = info.label_max - info.label_min
        self.period = info.label_period

    def forward(self, out_BO: Tensor) -> Tensor:
        """Raw units, in float32."""
        return onto_range(out_BO.float() * self.scale + self.label_min, self.label_min, self.label_max, self.period)

    def score(self, answer_BA: Tensor, label_B: Tensor) -> Tensor:
        """Absolute error in raw units, [B]."""
        return wrapped(answer_BA[:, 0] - label_B, self.period).abs()

    def miss(self, answer_BA: Tensor, label_B: Tensor) -> Tensor:
        """Absolute error in raw units, [B]."""
        return self.score(answer_BA, label_B)

    def read(self, answer_BA: Tensor, margin: Margin | None) -> list[Reading]:
        """The label; the region is the interval of the margin around it, cut to the label range.

        On a circle it goes on beyond an end of the range, so that its first end may be the larger number: 355 to 5 degrees.
        """
        readings = []
        for value in answer_BA[:, 0].tolist():
            ends = () if margin is None else self.region(value, margin.width)
            seam = self.label_max if ends and ends[0] > ends[1] else None
            readings.append(Reading(value, margin.level if margin else None, ends, seam))
        return readings

    def region(self, value: float, width: float) -> tuple[float, float]:
        """First and last label at most `width` from a value; the whole range where they meet behind it."""
        low, high = value - width, value + width
        if self.period is not None:
            if 2 * width >= self.period:
                return self.label_min, self.label_max
            if low < self.label_min and low + self.period <= self.label_max:
                low += self.period
            elif high > self.label_max and high - self.period >= self.label_min:
                high -= self.period
        return max(self.label_min, low), min(self.label_max, high)


class CircleAnswer(ScalarAnswer):
    """The point (c, s) [B, 2] to the label of its angle in raw units [B, 1], taken round its circle to the range."""

    def forward(self, out_BO: Tensor) -> Tensor:
        """Raw units, in float32."""
        label_B = label_of(out_BO.float(), self.period) + self.label_min
        return onto_range(label_B[:, None], self.label_min, self.label_max, self.period)


def make_answer(info: DatasetInfo) -> Answer:
    """What a model of this data set says to its users."""
    if info.kind == "class":
        return ClassAnswer(info)
    return CircleAnswer(info) if info.label_answer == "circle" else ScalarAnswer(info)
