"""Whether more training closes the gap between students with and without fakes: the gain at several numbers of steps.

Fakes are credited with what they bring over an arm that has all the rest: fakes alone over real images alone, and beside
unlabelled images over those alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cgankd.measure.places import places_of, with_ends
from cgankd.measure.predictive import mean_sd, paired_gain
from cgankd.measure.verdict import choose
from cgankd.types import Headline

Scores = Mapping[str, Sequence[float]]
"""Arm -> one score a seed."""
PAIRS = {"": ("best_real_arm", "best_bank_arm"), "both_": ("best_unlabelled_arm", "best_both_arm")}
"""What the keys of a gain begin with -> the arm without fakes and the one with them."""


@dataclass(frozen=True)
class Judge:
    """What scores are compared by: which arms have fakes, which way is better, the level of intervals, and which arms have
    unlabelled images."""

    uses_bank: Mapping[str, bool]
    headline: Headline
    confidence: float
    uses_unlabelled: Mapping[str, bool] = field(default_factory=dict)

    def row(self, val: Scores, test: Scores) -> dict[str, Any]:
        """One number of steps: the arms, the best of each family on validation, and on test the gain of fakes over real images
        alone (`gain`) and beside unlabelled images over those alone (`both_gain`); no gain without arms for it."""
        choice = choose(val, self.uses_bank, self.headline, self.uses_unlabelled)
        found: dict[str, Any] = {"best_real_arm": choice.best_real, "best_bank_arm": choice.best_bank, "arms": {}}
        more = {"best_unlabelled_arm": choice.best_unlabelled, "best_both_arm": choice.best_both}
        found |= {key: name for key, name in more.items() if name is not None}
        for name, values in test.items():
            (mean, sd), (val_mean, _) = mean_sd(values), mean_sd(val[name])
            found["arms"][name] = {"mean": mean, "sd": sd, "values": list(values), "val_mean": val_mean}
        for start, (rival, arm) in PAIRS.items():
            if found.get(rival) is not None and found.get(arm) is not None:
                found |= self._gain(f"{start}gain", test[found[rival]], test[found[arm]])
        return found

    def rows(self, scores: Mapping[int, tuple[Scores, Scores]]) -> dict[str, dict[str, Any]]:
        """`row` of each factor of the steps (factor -> validation and test scores), with how each gain differs from that of
        the shortest training, seed by seed (`change`, `both_change`, positive = the gap between with and without fakes grows)."""
        found = {str(factor): self.row(*scores[factor]) for factor in sorted(scores)}
        first, *later = found.values()
        for start in PAIRS:
            if f"{start}gain" in first:
                base = self._differences(first, start)
                for entry in later:
                    now = self._differences(entry, start)
                    change = paired_gain(base, now, higher_is_better=True, confidence=self.confidence)
                    ends = {"": change.gain, "_low": change.low, "_high": change.high}
                    entry |= {f"{start}change{end}": value for end, value in ends.items()}
        return found

    def _differences(self, entry: Mapping[str, Any], start: str) -> tuple[float, ...]:
        rival, arm = (entry["arms"][entry[key]]["values"] for key in PAIRS[start])
        higher = self.headline.higher_is_better
        return paired_gain(rival, arm, higher_is_better=higher, confidence=self.confidence).values

    def _gain(self, key: str, rival: Sequence[float], arm: Sequence[float]) -> dict[str, float]:
        higher = self.headline.higher_is_better
        gain = paired_gain(rival, arm, higher_is_better=higher, confidence=self.confidence)
        return {key: gain.gain, f"{key}_low": gain.low, f"{key}_high": gain.high}


def in_words(rows: Mapping[str, Mapping[str, Any]], unit: str) -> str:
    """A sentence on where more training closes the gap, and one more beside unlabelled images; empty where no arm has fakes."""
    first = next(iter(rows.values()))
    said = [_sentence(rows, start, unit) for start in PAIRS if f"{start}gain" in first]
    if "best_both_arm" in first and "both_gain" not in first:
        said.append(
            "What fakes and what unlabelled images bring at more steps is not told apart, as no arm has those alone."
        )
    return " ".join(said)


def _sentence(rows: Mapping[str, Mapping[str, Any]], start: str, unit: str) -> str:
    (_, first), *later = rows.items()
    unit, dec = "points" if unit == "%" else unit, places_of(first)
    beside, (rival, arm) = " beside unlabelled images" if start else "", PAIRS[start]

    def size(entry: Mapping[str, Any], key: str) -> str:
        return with_ends(entry, f"{start}{key}", dec, unit=unit)

    parts = [
        f"at {factor} times the steps {size(entry, 'gain')} ({entry[arm]} over {entry[rival]};"
        f" change {size(entry, 'change')})"
        for factor, entry in later
    ]
    shut = next((factor for factor, entry in later if entry[f"{start}change_high"] < 0), None)
    grows = next((factor for factor, entry in later if entry[f"{start}change_low"] > 0), None)
    head = f"More training is not shown to change what fakes bring{beside}"
    if shut is not None:
        head = f"From {shut} times the steps on, longer training brings part of what fakes bring{beside}"
    elif grows is not None:
        head = f"Fakes bring more{beside} at {grows} times the steps"
    return f"{head}: {size(first, 'gain')} at the set number of steps, {', '.join(parts)}."
