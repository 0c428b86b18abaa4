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
    mean: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """Does the bank help against the plain and the best real-only student, by how much, what to ship: one sentence.

    `test` maps each arm to its test scores, one a seed, of the kind that the arms in `choice` were chosen by, on
    validation alone. Where those are balanced errors, `mean` has the mean ones, for a second sentence.
    """
    if choice.best_bank is None:
        return f"No arm uses the bank; ship {choice.chosen}, the best real-only student on validation."
    bank = choice.best_bank

    def over(rival: str, scores: Mapping[str, Sequence[float]]) -> Gain:
        return paired_gain(
            scores[rival], scores[bank], higher_is_better=headline.higher_is_better, confidence=confidence
        )

    def numbers(scores: Mapping[str, Sequence[float]]) -> str:
        text = f"{bank} gains {describe(over('real', scores), headline.unit)} over real"
        if choice.best_real != "real":
            text += f" and {describe(over(choice.best_real, scores), headline.unit)} over {choice.best_real}"
        return text

    plain, rival = over("real", test), over(choice.best_real, test)
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
    kind = "with the bank" if choice.chosen == bank else "without the bank"
    of, score = ("", "") if mean is None else (" of the balanced error", " by the balanced error")
    text = (
        f"{head}: {numbers(test)} ({level} paired intervals{of} on test); ship {choice.chosen}, {kind} (best on"
        f" validation{score})."
    )
    return text if mean is None else f"{text} In the mean over all images {numbers(mean)}."
