"""What a shipped model says: an answer in words, how sure it is, and how far it may be off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


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

    num_outputs: int
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
