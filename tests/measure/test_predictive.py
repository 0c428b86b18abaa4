"""Intervals against scipy, and the verdict's decisions and words."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cgankd.measure.predictive import mean_sd, paired_gain
from cgankd.measure.verdict import choose, verdict
from cgankd.types import Headline

ERROR = Headline("test error", "%", higher_is_better=False)
ACCURACY = Headline("test accuracy", "%", higher_is_better=True)


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_paired_gain_matches_scipy(higher: bool, confidence: float) -> None:
    rng = np.random.default_rng(0)
    rival, arm = rng.normal(10, 1, 6), rng.normal(9, 1, 6)
    gain = paired_gain(rival, arm, higher_is_better=higher, confidence=confidence)
    first, second = (arm, rival) if higher else (rival, arm)
    interval = stats.ttest_rel(first, second).confidence_interval(confidence)
    assert gain.gain == pytest.approx((first - second).mean())
    assert (gain.low, gain.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert gain.proved == (interval.low > 0)


def test_mean_sd_uses_n_minus_one() -> None:
    assert mean_sd([1.0, 2.0, 4.0]) == (pytest.approx(7 / 3), pytest.approx(np.std([1, 2, 4], ddof=1)))


VAL = {"real": [5.0, 5.2], "real_kd": [4.0, 4.2], "raw": [3.0, 3.1], "filter": [4.5, 4.6]}
BANK = {"real": False, "real_kd": False, "raw": True, "filter": True}


def test_choice_is_made_on_validation() -> None:
    choice = choose(VAL, BANK, ERROR)
    assert (choice.chosen, choice.best_bank, choice.best_real) == ("raw", "raw", "real_kd")
    other = choose(VAL, BANK, ACCURACY)
    assert (other.chosen, other.best_bank, other.best_real) == ("real", "filter", "real")


def test_bank_must_be_strictly_better_to_ship() -> None:
    tie = {"real": [5.0, 5.0], "raw": [5.0, 5.0]}
    assert choose(tie, BANK, ERROR).chosen == "real"
    assert choose(tie, BANK, ACCURACY).chosen == "real"


def test_verdict_when_the_bank_helps() -> None:
    test = {"real": [10.0, 10.2, 10.1], "real_kd": [9.0, 9.1, 9.0], "raw": [7.0, 7.1, 7.0]}
    choice = choose({k: VAL[k] for k in test}, BANK, ERROR)
    words = verdict(choice, test, ERROR, 0.95)
    assert words.startswith("The bank helps: raw gains +3.07 points")
    assert "over real_kd" in words and "ship raw, with the bank" in words


def test_verdict_when_only_the_plain_student_is_beaten() -> None:
    test = {"real": [10.0, 10.2, 10.1], "real_kd": [7.1, 6.8, 7.2], "raw": [7.0, 7.1, 7.0]}
    words = verdict(choose({k: VAL[k] for k in test}, BANK, ERROR), test, ERROR, 0.95)
    assert "not shown to beat the best real-only one" in words


def test_verdict_when_the_bank_does_not_help_ships_the_real_only_student() -> None:
    val = {"real": [3.0, 3.0], "raw": [5.0, 5.0]}
    noisy = {"real": [7.0, 7.2, 7.1], "raw": [7.0, 7.3, 7.0]}
    words = verdict(choose(val, BANK, ERROR), noisy, ERROR, 0.95)
    assert words.startswith("The bank is not shown to help") and "ship real, without the bank" in words
    harmful = {"real": [7.0, 7.2, 7.1], "raw": [9.0, 9.2001, 9.1]}
    assert verdict(choose(val, BANK, ERROR), harmful, ERROR, 0.95).startswith("The bank hurts")


def test_two_seeds_prove_nothing() -> None:
    """However clear of zero their interval is: it has one degree of freedom."""
    test = {"real": [10.0, 10.2], "real_kd": [9.0, 9.1], "raw": [7.0, 7.2001]}
    words = verdict(choose(VAL | {"filter": [9.0, 9.0]}, BANK, ERROR), test, ERROR, 0.95)
    assert words.startswith("2 seeds are too few to say whether the bank helps: raw gains +3.00 points")
    assert words.count("too few seeds to claim") == 2 and "proved" not in words
    assert "ship raw, with the bank" in words


def test_verdict_without_bank_arms() -> None:
    choice = choose({"real": [1.0, 1.0]}, {"real": False}, ERROR)
    assert "No arm uses the bank" in verdict(choice, {"real": [1.0, 1.0]}, ERROR, 0.95)


def test_a_verdict_by_the_balanced_error_has_the_mean_too() -> None:
    even = {"real": [10.0, 10.2, 10.1], "real_kd": [9.0, 9.1, 9.0], "raw": [7.0, 7.1, 7.0]}
    mean = {"real": [4.0, 4.1, 4.0], "real_kd": [3.0, 3.1, 3.0], "raw": [5.0, 5.1, 5.0]}
    choice = choose({k: VAL[k] for k in even}, BANK, ERROR)
    words = verdict(choice, even, ERROR, 0.95, mean)
    plain = verdict(choice, even, ERROR, 0.95)
    assert (
        words.startswith("The bank helps: raw gains +3.07 points")
        and "intervals of the balanced error on test" in words
    )
    assert "(best on validation by the balanced error)" in words
    assert words.endswith("points [-2.00, -2.00], worse, proved over real_kd.")
    assert "In the mean over all images raw gains -1.00 points [-1.00, -1.00], worse, proved over real and" in words
    assert "balanced" not in plain and "In the mean" not in plain
