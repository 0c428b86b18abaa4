"""The front by its definition, the smallest that is enough, and what fits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cgankd.measure.front import Candidate, best, enough, front, within


def one(name: str, cost: float, *values: float) -> Candidate:
    return Candidate(name, values, {"bytes": cost, "ms": 1.0})


POINTS = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12)


@given(POINTS, st.booleans())
def test_the_front_by_its_definition(points: list[tuple[int, int]], higher: bool) -> None:
    found = front([one(str(i), c, v) for i, (c, v) in enumerate(points)], "bytes", higher_is_better=higher)
    sign = -1 if higher else 1

    def beaten(c: int, v: int) -> bool:
        return any(c2 <= c and sign * v2 <= sign * v and (c2, v2) != (c, v) for c2, v2 in points)

    assert set(found) == {str(i) for i, (c, v) in enumerate(points) if not beaten(c, v)}
    costs = [points[int(name)][0] for name in found]
    assert costs == sorted(costs)


def test_of_equally_good_ones_the_cheapest_is_best() -> None:
    many = [one("large", 9, 5.0, 5.0), one("small", 2, 4.0, 6.0), one("worse", 1, 7.0, 7.0)]
    assert best(many, "bytes", higher_is_better=False).name == "small"
    assert best(many, "bytes", higher_is_better=True).name == "worse"


def test_enough_is_the_smallest_that_the_best_is_not_shown_to_beat() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(10, 1, 6)
    near, far, top = base + rng.normal(0.3, 0.6, 6), base + 4 + rng.normal(0, 0.2, 6), base
    t = stats.ttest_rel(far, top, alternative="two-sided")
    assert t.pvalue < 0.05 < stats.ttest_rel(near, top).pvalue, "the sample is not what this test is about"
    many = [one("far", 1, *far), one("near", 2, *near), one("top", 9, *top)]
    found = enough(many, "bytes", higher_is_better=False, confidence=0.95)
    assert found.name == "near" and best(many, "bytes", higher_is_better=False).name == "top"
    assert enough(many[::2], "bytes", higher_is_better=False, confidence=0.95).name == "top"


def test_limits_hold_for_every_cost_at_once() -> None:
    many = [Candidate("a", (1.0,), {"bytes": 10, "ms": 5}), Candidate("b", (2.0,), {"bytes": 20, "ms": 1})]
    assert [c.name for c in within(many, {"bytes": 10})] == ["a"]
    assert within(many, {"bytes": 10, "ms": 4}) == []
    assert [c.name for c in within(many, {"bytes": math.inf})] == ["a", "b"]


def test_the_mean_is_over_seeds() -> None:
    assert one("a", 1, 1.0, 2.0, 6.0).mean == pytest.approx(3.0)
