"""Whether more training closes the gap between students with and without fakes: the gain at several numbers of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cgankd.measure.places import places_of, with_ends
from cgankd.measure.predictive import mean_sd, paired_gain
from cgankd.measure.verdict import choose
from cgankd.types import Headline

Scores = Mapping[str, Sequence[float]]
"""Arm -> one score a seed."""


@dataclass(frozen=True)
class Judge:
    """What scores are compared by: which arms have fakes, which way is better, and the level of intervals."""

    uses_bank: Mapping[str, bool]
    headline: Headline
    confidence: float

    def row(self, val: Scores, test: Scores) -> dict[str, Any]:
        """One number of steps: the arms, the best with and without fakes on validation, and the gain of the one over the
        other on test; no gain without arms with fakes."""
        choice = choose(val, self.uses_bank, self.headline)
        found: dict[str, Any] = {"best_real_arm": choice.best_real, "best_bank_arm": choice.best_bank, "arms": {}}
        for name, values in test.items():
            (mean, sd), (val_mean, _) = mean_sd(values), mean_sd(val[name])
            found["arms"][name] = {"mean": mean, "sd": sd, "values": list(values), "val_mean": val_mean}
        if choice.best_bank is not None:
            found |= self._gain("gain", test[choice.best_real], test[choice.best_bank])
        return found

    def rows(self, scores: Mapping[int, tuple[Scores, Scores]]) -> dict[str, dict[str, Any]]:
        """`row` of each factor of the steps (factor -> validation and test scores), with how the gain differs from that of
        the shortest training, seed by seed (`change`, positive = the gap between with and without fakes grows)."""
        found = {str(factor): self.row(*scores[factor]) for factor in sorted(scores)}
        first, *later = found.values()
        if "gain" in first:
            base = self._differences(first)
            for entry in later:
                change = paired_gain(base, self._differences(entry), higher_is_better=True, confidence=self.confidence)
                entry |= {"change": change.gain, "change_low": change.low, "change_high": change.high}
        return found

    def _differences(self, entry: Mapping[str, Any]) -> tuple[float, ...]:
        arms = entry["arms"]
        rival, bank = arms[entry["best_real_arm"]]["values"], arms[entry["best_bank_arm"]]["values"]
        higher = self.headline.higher_is_better
        return paired_gain(rival, bank, higher_is_better=higher, confidence=self.confidence).values

    def _gain(self, key: str, rival: Sequence[float], arm: Sequence[float]) -> dict[str, float]:
        higher = self.headline.higher_is_better
        gain = paired_gain(rival, arm, higher_is_better=higher, confidence=self.confidence)
        return {key: gain.gain, f"{key}_low": gain.low, f"{key}_high": gain.high}


def in_words(rows: Mapping[str, Mapping[str, Any]], unit: str) -> str:
    """One sentence on where more training closes the gap; empty where no arm has fakes."""
    (_, first), *later = rows.items()
    if "gain" not in first:
        return ""
    unit, dec = "points" if unit == "%" else unit, places_of(first)

    def size(entry: Mapping[str, Any], key: str) -> str:
        return with_ends(entry, key, dec, unit=unit)

    parts = [
        f"at {factor} times the steps {size(entry, 'gain')} ({entry['best_bank_arm']} over {entry['best_real_arm']};"
        f" change {size(entry, 'change')})"
        for factor, entry in later
    ]
    shut = next((factor for factor, entry in later if entry["change_high"] < 0), None)
    grows = next((factor for factor, entry in later if entry["change_low"] > 0), None)
    head = "More training is not shown to change what fakes bring"
    if shut is not None:
        head = f"From {shut} times the steps on, longer training brings part of what fakes bring"
    elif grows is not None:
        head = f"Fakes bring more at {grows} times the steps"
    return f"{head}: {size(first, 'gain')} at the set number of steps, {', '.join(parts)}."
