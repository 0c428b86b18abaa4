from __future__ import annotations

import math

import numpy as np
import pytest

from cgankd.measure import bound
from cgankd.measure.findings import Finding, flat, over, under


def test_the_deviation_is_twice_hoeffdings_and_holds() -> None:
    """Half of it bounds the error of a mean of M bounded numbers with chance 1 - delta (Hoeffding)."""
    samples = np.random.default_rng(0).integers(0, 2, (4000, 50)).mean(1)
    half = bound.deviation(50, delta=0.05) / 2
    assert half == pytest.approx(math.sqrt(math.log(40) / 100))
    assert np.mean(np.abs(samples - 0.5) > half) <= 0.05
    assert bound.deviation(50, loss_bound=90.0) == pytest.approx(90 * bound.deviation(50))
    assert bound.deviation(200) == pytest.approx(bound.deviation(50) / 2)


def test_ingredients_more_fakes_trade_chance_for_mismatch_up_to_a_plateau() -> None:
    few, many, most = (bound.ingredients(100, n, 0.3) for n in (100, 10_000, 10_000_000))
    assert few["theta"] == 0.5 and few["mismatch_at_least"] == pytest.approx(0.3)
    assert few["deviation_real"] == many["deviation_real"] > few["deviation"] > many["deviation"] > most["deviation"]
    assert few["mismatch_at_least"] < many["mismatch_at_least"] < most["mismatch_at_least"] < 0.6
    assert most["mismatch_at_least"] == pytest.approx(0.6, rel=1e-4)
    assert bound.ingredients(10, 10, -0.2)["mismatch_at_least"] == 0.0


@pytest.mark.parametrize(
    ("alarm", "words"),
    [
        (over(2.1, 1.0, 2.0), "over 2"),
        (over(2.0, 1.0, 2.0), ""),
        (over(0.2, -5.0, 2.0, 0.1), "over 0.1"),
        (over(0.05, -5.0, 2.0, 0.1), ""),
        (over(math.nan, 1.0, 2.0), "over 2"),
        (under(0.29, 0.3), "under 0.3"),
        (under(0.3, 0.3), ""),
    ],
)
def test_alarms_state_their_limit(alarm: str, words: str) -> None:
    assert alarm == words


def test_findings_become_flat_metrics() -> None:
    found = [Finding("fid.teacher", 3.0, 1.0, "far", "over 2"), Finding("bound.theta", 0.1, None, "share")]
    assert flat(found) == {
        "fid.teacher": 3.0,
        "fid.teacher.reference": 1.0,
        "fid.teacher.alarm": 1.0,
        "bound.theta": 0.1,
        "bound.theta.alarm": 0.0,
    }
