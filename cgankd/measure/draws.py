"""What holds over draws of the whole pipeline: other labelled images, another teacher, another GAN, another bank each time.

A table of one draw cannot tell whether fakes help: its intervals cover the students' seeds alone. Here a draw counts once,
by the means over its students, and intervals are Student's t over the draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cgankd.measure.places import places_of, with_ends
from cgankd.measure.predictive import Gain, mean_interval, mean_sd, paired_gain
from cgankd.measure.verdict import best_arm
from cgankd.types import Headline

LEAST_DRAWS = 3
"""Fewer draws prove nothing, whatever their interval says."""


@dataclass(frozen=True)
class Draw:
    """One run of the whole pipeline: the test and validation means of its arms over the students, and what validation chose."""

    seed: int
    teacher: float
    test: Mapping[str, float]
    val: Mapping[str, float]
    uses_bank: Mapping[str, bool]
    best_real: str
    best_bank: str | None
    chosen: str


def over_draws(draws: Sequence[Draw], headline: Headline, confidence: float) -> dict[str, Any]:
    """Means over draws and paired gains with t intervals: of each arm that all draws have, and of the arms that each draw chose.

    `arms` NAME holds mean, sd, values (one a draw) and the gains over `real` and over the best real-only arm (`rival_gain`),
    which is chosen in each draw on its validation images, as a user of that draw would. `chosen` has the same for the rows
    best_real, best_bank and ships, whose arm may be another in each draw.
    """
    assert len(draws) >= 2, "an interval needs at least two draws"
    plain = [draw.test["real"] for draw in draws]
    rival = [draw.test[draw.best_real] for draw in draws]

    def row(names: Sequence[str]) -> dict[str, Any]:
        """Of the arm that each draw has in this row; an arm has no gain over itself, and zero over another of equal scores."""
        values = [draw.test[name] for draw, name in zip(draws, names, strict=True)]
        val = [draw.val[name] for draw, name in zip(draws, names, strict=True)]
        mean, sd = mean_sd(values)
        entry: dict[str, Any] = {"mean": mean, "sd": sd, "values": values, "val_mean": mean_sd(val)[0]}
        pairs = {"gain": (plain, ["real"] * len(draws)), "rival_gain": (rival, [draw.best_real for draw in draws])}
        for key, (others, against) in pairs.items():
            if list(names) != against:
                gain = paired_gain(others, values, higher_is_better=headline.higher_is_better, confidence=confidence)
                entry |= _said(key, gain)
        return entry

    shared = [name for name in draws[0].test if all(name in draw.test for draw in draws)]
    arms = {name: row([name] * len(draws)) | {"uses_bank": draws[0].uses_bank[name]} for name in shared}
    picks = {"best_real": [draw.best_real for draw in draws], "ships": [draw.chosen for draw in draws]}
    banks = [draw.best_bank for draw in draws]
    if all(bank is not None for bank in banks):
        picks["best_bank"] = [str(bank) for bank in banks]
    chosen = {key: row(names) | {"arms": names} for key, names in picks.items()}
    mean, low, high = mean_interval([draw.teacher for draw in draws], confidence)
    return {
        "num_draws": len(draws),
        "seeds": [draw.seed for draw in draws],
        "teacher": {"mean": mean, "low": low, "high": high, "values": [draw.teacher for draw in draws]},
        "arms": arms,
        "chosen": chosen,
        "ships_bank": sum(draw.uses_bank[draw.chosen] for draw in draws),
    }


def best_shared(result: Mapping[str, Any], headline: Headline, *, with_bank: bool) -> str | None:
    """The arm that is best by its validation mean over all draws, among those with or without the bank; None without any."""
    names = [name for name, arm in result["arms"].items() if arm["uses_bank"] == with_bank]
    values = {name: [result["arms"][name]["val_mean"]] for name in names}
    return best_arm(names, values, headline) if names else None


def draws_verdict(result: Mapping[str, Any], headline: Headline, confidence: float) -> str:
    """Do the fakes help, over draws: against the best real-only arm of each draw, in one or two sentences."""
    num = result["num_draws"]
    bank = result["chosen"].get("best_bank")
    if bank is None:
        return f"No arm of the {num} draws uses the bank."
    unit = "points" if headline.unit == "%" else headline.unit
    level = f"{100 * confidence:.0f} %"

    def words(row: Mapping[str, Any], key: str) -> str:
        return with_ends(row, key, places_of(result), unit=unit)

    plain = words(bank, "gain")
    over = words(bank, "rival_gain") if "rival_gain" in bank else plain
    low, high = (bank.get(f"rival_gain_{end}", bank[f"gain_{end}"]) for end in ("low", "high"))
    if num < LEAST_DRAWS:
        head = f"{num} draws are too few to say whether the bank helps"
    elif low > 0:
        head = "The bank helps over draws"
    elif high < 0:
        head = "The bank hurts over draws"
    elif bank["gain_low"] > 0:
        head = "Over draws the bank helps against the plain student, but is not shown to beat the best real-only one"
    else:
        head = "Over draws the bank is not shown to help"
    text = (
        f"{head}: the best arm with fakes gains {plain} over real and {over} over the best real-only arm of each draw"
        f" ({level} intervals over {num} draws, arms chosen on validation); the bank ships in {result['ships_bank']} of {num}."
    )
    name = best_shared(result, headline, with_bank=True)
    if name is not None and "rival_gain" in (arm := result["arms"][name]):
        text += (
            f" Of the arms that all draws have, {name} gains {words(arm, 'rival_gain')} over the best real-only arm."
        )
    return text


def _said(key: str, gain: Gain) -> dict[str, Any]:
    return {key: gain.gain, f"{key}_low": gain.low, f"{key}_high": gain.high, f"{key}_values": list(gain.values)}
