"""The honest gate: which arm to ship, decided on validation, and one sentence on what the test split says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cgankd.measure.places import places
from cgankd.measure.predictive import Gain, paired_gain
from cgankd.types import Headline


@dataclass(frozen=True)
class Choice:
    """What validation decided: the arm to ship, and the best arm of each family, None where the family is empty.

    Families: real images alone, with fakes, with unlabelled images, with both.
    """

    chosen: str
    best_bank: str | None
    best_real: str
    best_unlabelled: str | None = None
    best_both: str | None = None


def best_arm(names: Sequence[str], val: Mapping[str, Sequence[float]], headline: Headline) -> str:
    """The arm with the best validation mean; the earlier one on a tie."""
    sign = 1.0 if headline.higher_is_better else -1.0
    return max(names, key=lambda name: sign * float(np.mean(val[name])))


def choose(
    val: Mapping[str, Sequence[float]],
    uses_bank: Mapping[str, bool],
    headline: Headline,
    uses_unlabelled: Mapping[str, bool] | None = None,
) -> Choice:
    """Pick the arm to ship from validation scores (arm -> one score a seed), never from test scores.

    An arm with more than real images ships only when its validation mean is strictly better than that of the best arm with
    less: fakes than none, both than one of them.
    """
    more = uses_unlabelled or {}

    def best(bank: bool, unlabelled: bool) -> str | None:
        names = [name for name in val if uses_bank[name] == bank and more.get(name, False) == unlabelled]
        return best_arm(names, val, headline) if names else None

    best_real = best(False, False)
    assert best_real is not None, "there is a control"
    others = best(False, True), best(True, False), best(True, True)
    chosen = best_arm([best_real, *filter(None, others)], val, headline)
    return Choice(chosen, best_bank=others[1], best_real=best_real, best_unlabelled=others[0], best_both=others[2])


LEAST_SEEDS = 3
"""Fewer seeds prove nothing, whatever their interval says."""
TOO_FEW = "too few seeds to claim"


def describe(gain: Gain, unit: str, decimals: int = 2) -> str:
    """A gain in words: size, interval and whether it is proved; differences of percentages are points."""
    unit = "points" if unit == "%" else unit
    size = f"{gain.gain:+.{decimals}f} {unit} [{gain.low:+.{decimals}f}, {gain.high:+.{decimals}f}]"
    if len(gain.values) < LEAST_SEEDS:
        return f"{size}, {TOO_FEW}"
    if gain.proved:
        return f"{size}, proved"
    return f"{size}, {'worse, proved' if gain.high < 0 else 'not proved'}"


@dataclass(frozen=True)
class Scored:
    """Test scores of all arms, one a seed, and how they are compared."""

    test: Mapping[str, Sequence[float]]
    headline: Headline
    confidence: float

    def over(self, arm: str, rival: str) -> Gain:
        higher = self.headline.higher_is_better
        return paired_gain(self.test[rival], self.test[arm], higher_is_better=higher, confidence=self.confidence)

    def numbers(self, arm: str, rivals: Sequence[str]) -> str:
        """What an arm gains over each of its rivals."""
        dec = places([float(np.mean(self.test["real"]))])
        gains = (
            f"{describe(self.over(arm, rival), self.headline.unit, dec)} over {rival}"
            for rival in dict.fromkeys(rivals)
        )
        return f"{arm} gains {' and '.join(gains)}"


def verdict(
    choice: Choice,
    test: Mapping[str, Sequence[float]],
    headline: Headline,
    confidence: float,
    mean: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """Do the bank and unlabelled images help against the plain and the best real-only student, by how much, what to ship.

    Fakes are credited with what they bring over an arm that has all the rest: the best real-only one, or where unlabelled
    images are mixed in too the best one with those alone. `test` maps each arm to its test scores, one a seed, of the kind
    that the arms in `choice` were chosen by, on validation alone. Where those are balanced errors, `mean` has the mean ones,
    for a second sentence.
    """
    scored = Scored(test, headline, confidence)
    found = list(claims(choice, scored))
    if not found:
        return f"No arm uses the bank; ship {choice.chosen}, the best real-only student on validation."
    heads = "; ".join(head if place == 0 else head[:1].lower() + head[1:] for place, (head, _, _) in enumerate(found))
    numbers = "; ".join(scored.numbers(arm, rivals) for _, arm, rivals in found)
    level = f"{100 * confidence:.0f} %"
    of, score = ("", "") if mean is None else (" of the balanced error", " by the balanced error")
    text = (
        f"{heads}: {numbers} ({level} paired intervals{of} on test); ship {choice.chosen}, {kind(choice)} (best on"
        f" validation{score})."
    )
    if mean is None:
        return text
    other = Scored(mean, headline, confidence)
    return f"{text} In the mean over all images {'; '.join(other.numbers(arm, rivals) for _, arm, rivals in found)}."


def kind(choice: Choice) -> str:
    """Of which family the arm is that ships, as far as there are others."""
    if choice.chosen in (choice.best_unlabelled, choice.best_both):
        fakes = ", without fakes" if choice.best_bank or choice.best_both else ""
        return f"with unlabelled images{' and the bank' if choice.chosen == choice.best_both else fakes}"
    if choice.chosen == choice.best_bank:
        return "with the bank"
    return "without the bank" if choice.best_bank and not choice.best_unlabelled else "on real images alone"


def claims(choice: Choice, scored: Scored) -> Iterator[tuple[str, str, list[str]]]:
    """What is said of each family that there is, its best arm, and the rivals that it was compared with."""
    if choice.best_unlabelled:
        yield _family("unlabelled images", "help", choice.best_unlabelled, choice, scored)
    if choice.best_bank:
        yield _family("the bank", "helps", choice.best_bank, choice, scored)
    if choice.best_both:
        if choice.best_unlabelled is None:
            head = "What fakes and what unlabelled images bring is not told apart, as no arm has those alone"
            yield head, choice.best_both, ["real", choice.best_real]
            return
        gain = scored.over(choice.best_both, choice.best_unlabelled)
        if len(gain.values) < LEAST_SEEDS:
            head = "nor whether fakes add to unlabelled images"
        elif gain.proved:
            head = "fakes add to unlabelled images"
        else:
            head = "fakes take away from unlabelled images" if gain.high < 0 else "fakes are not shown to add to them"
        yield head, choice.best_both, [choice.best_unlabelled]


def _family(what: str, helps: str, arm: str, choice: Choice, scored: Scored) -> tuple[str, str, list[str]]:
    """The claim for one family against the plain and the best real-only student."""
    plain, rival = scored.over(arm, "real"), scored.over(arm, choice.best_real)
    name, num = what[:1].upper() + what[1:], len(scored.test["real"])
    is_, hurts = ("are", "hurt") if helps == "help" else ("is", "hurts")
    if num < LEAST_SEEDS:
        head = f"{num} seeds are too few to say whether {what} {helps}"
    elif plain.proved and rival.proved:
        head = f"{name} {helps}"
    elif plain.proved:
        head = f"{name} {helps} against the plain student, but {is_} not shown to beat the best real-only one"
    elif plain.high < 0:
        head = f"{name} {hurts}"
    else:
        head = f"{name} {is_} not shown to help"
    return head, arm, ["real", choice.best_real]
