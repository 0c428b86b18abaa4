"""The honest gate: which arm to ship, decided on validation, and one sentence on what the test split says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cgankd.measure.predictive import Gain, paired_gain
from cgankd.types import Headline


@dataclass(frozen=True)
class Choice:
    """What validation decided: the arm to ship, the best arm with fakes and the best real-only arm."""

    chosen: str
    best_bank: str | None
    best_real: str


def best_arm(names: Sequence[str], val: Mapping[str, Sequence[float]], headline: Headline) -> str:
    """The arm with the best validation mean; the earlier one on a tie."""
    sign = 1.0 if headline.higher_is_better else -1.0
    return max(names, key=lambda name: sign * float(np.mean(val[name])))


def choose(val: Mapping[str, Sequence[float]], uses_bank: Mapping[str, bool], headline: Headline) -> Choice:
    """Pick the arm to ship from validation scores (arm -> one score a seed), never from test scores.

    A bank arm ships only when its validation mean is strictly better than that of the best real-only arm.
    """
    real = [name for name in val if not uses_bank[name]]
    bank = [name for name in val if uses_bank[name]]
    best_real = best_arm(real, val, headline)
    if not bank:
        return Choice(best_real, None, best_real)
    best_bank = best_arm(bank, val, headline)
    return Choice(best_arm([best_real, best_bank], val, headline), best_bank, best_real)


LEAST_SEEDS = 3
"""Fewer seeds prove nothing, whatever their interval says."""
TOO_FEW = "too few seeds to claim"


def describe(gain: Gain, unit: str) -> str:
    """A gain in words: size, interval and whether it is proved; differences of percentages are points."""
    unit = "points" if unit == "%" else unit
    size = f"{gain.gain:+.2f} {unit} [{gain.low:+.2f}, {gain.high:+.2f}]"
    if len(gain.values) < LEAST_SEEDS:
        return f"{size}, {TOO_FEW}"
    if gain.proved:
        return f"{size}, proved"
    return f"{size}, {'worse, proved' if gain.high < 0 else 'not proved'}"


def verdict(
    choice: Choice,
    test: Mapping[str, Sequence[float]],
    headline: Headline,
    confidence: float,
) -> str:
    """One sentence: does the bank help against the plain and the best real-only student, by how much, what to ship.

    `test` maps each arm to its test scores, one a seed. The arms in `choice` come from validation alone.
    """
    if choice.best_bank is None:
        return f"No arm uses the bank; ship {choice.chosen}, the best real-only student on validation."

    def over(rival: str) -> Gain:
        assert choice.best_bank is not None
        return paired_gain(
            test[rival], test[choice.best_bank], higher_is_better=headline.higher_is_better, confidence=confidence
        )

    plain, rival = over("real"), over(choice.best_real)
    num = len(test["real"])
    if num < LEAST_SEEDS:
        head = f"{num} seeds are too few to say whether the bank helps"
    elif plain.proved and rival.proved:
        head = "The bank helps"
    elif plain.proved:
        head = "The bank helps against the plain student, but is not shown to beat the best real-only one"
    elif plain.high < 0:
        head = "The bank hurts"
    else:
        head = "The bank is not shown to help"
    level = f"{100 * confidence:.0f} %"
    numbers = (
        f"{choice.best_bank} gains {describe(plain, headline.unit)} over real"
        if choice.best_real == "real"
        else f"{choice.best_bank} gains {describe(plain, headline.unit)} over real"
        f" and {describe(rival, headline.unit)} over {choice.best_real}"
    )
    kind = "with the bank" if choice.chosen == choice.best_bank else "without the bank"
    return f"{head}: {numbers} ({level} paired intervals on test); ship {choice.chosen}, {kind} (best on validation)."
