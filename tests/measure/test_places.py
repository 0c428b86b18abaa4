"""Scores far below 1 are shown with digits that tell them apart."""

from __future__ import annotations

import math

import pytest

from cgankd.measure.places import places, places_of, with_ends


@pytest.mark.parametrize(
    ("scores", "decimals"),
    [([14.2], 2), ([1.0], 2), ([0.99], 3), ([0.0517, 14.0], 4), ([0.001], 5), ([1e-30], 8), ([0.0, 3.0], 2), ([], 2)],
)
def test_the_smallest_score_keeps_three_digits(scores: list[float], decimals: int) -> None:
    assert places(scores) == decimals
    assert places([-score for score in scores] + [math.nan, math.inf]) == decimals


def test_a_table_goes_by_the_error_of_real() -> None:
    result = {"arms": {"real": {"mean": 0.0517}, "raw": {"mean": 9.0}}}
    assert places_of(result) == 4
    assert places_of({"arms": {"raw": {"mean": 0.05}}}) == 2
    gain = {"gain": -0.00317, "gain_low": -0.00604, "gain_high": -0.00001}
    assert with_ends(gain, "gain", places_of(result), unit="units") == "-0.0032 units [-0.0060, +0.0000]"
    assert with_ends(gain, "gain", 2, comma=",") == "+0.00 [-0.01,+0.00]"
