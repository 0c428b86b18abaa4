"""Which students no other beats at once in error and cost, which of them is enough, and which fits a limit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cgankd.measure.predictive import paired_gain


@dataclass(frozen=True)
class Candidate:
    """One size: its validation scores, one a seed, and what it costs by the name of the cost."""

    name: str
    values: tuple[float, ...]
    costs: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Its mean over seeds."""
        return sum(self.values) / len(self.values)


def front(candidates: Sequence[Candidate], cost: str, *, higher_is_better: bool) -> list[str]:
    """Names of those that none is at least as good and as cheap as and better in one, cheapest first; a cost without end is
    none."""
    sign = -1.0 if higher_is_better else 1.0
    points = [(c.costs[cost], sign * c.mean, c.name) for c in candidates if math.isfinite(c.costs[cost])]
    free = [
        (price, score, name)
        for price, score, name in points
        if not any(p <= price and s <= score and (p < price or s < score) for p, s, _ in points)
    ]
    return [name for _, _, name in sorted(free)]


def best(candidates: Sequence[Candidate], cost: str, *, higher_is_better: bool) -> Candidate:
    """The one of the best mean, of equal ones the cheapest."""
    sign = -1.0 if higher_is_better else 1.0
    return min(candidates, key=lambda c: (sign * c.mean, c.costs[cost]))


def enough(candidates: Sequence[Candidate], cost: str, *, higher_is_better: bool, confidence: float) -> Candidate:
    """The cheapest that the best one is not shown to beat: their paired interval over seeds reaches zero."""
    top = best(candidates, cost, higher_is_better=higher_is_better)
    for one in sorted(candidates, key=lambda c: (c.costs[cost], c.name)):
        if one is top:
            break
        gain = paired_gain(one.values, top.values, higher_is_better=higher_is_better, confidence=confidence)
        if not gain.proved:
            return one
    return top


def within(candidates: Sequence[Candidate], limits: Mapping[str, float]) -> list[Candidate]:
    """Those that cost no more than the limits, by the name of the cost."""
    return [c for c in candidates if all(c.costs[name] <= most for name, most in limits.items())]
