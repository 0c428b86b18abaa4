"""What holds over draws of the whole pipeline: other labelled images, another teacher, another GAN, another bank each time.

A table of one draw cannot tell whether fakes help: its intervals cover the students' seeds alone. Here a draw counts once,
by the means over its students, and intervals are Student's t over the draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cgankd.measure.places import places_of, with_ends
from cgankd.measure.predictive import Gain, mean_interval, mean_sd, paired_gain
from cgankd.measure.verdict import Choice, best_arm
from cgankd.types import Headline

LEAST_DRAWS = 3
"""Fewer draws prove nothing, whatever their interval says."""
OVER = {
    "gain": "real",
    "rival_gain": "the best real-only arm",
    "unlabelled_gain": "the best one with unlabelled images alone",
}
"""What each gain is over."""


@dataclass(frozen=True)
class Family:
    """What arms of a family train on beside labelled real images, and how a sentence speaks of it."""

    name: str
    bank: bool
    unlabelled: bool
    what: str
    has: str
    many: bool

    @property
    def key(self) -> str:
        """The row of the arm that each draw chose of the family."""
        return f"best_{self.name}"

    @property
    def ships(self) -> str:
        """The number of draws in which an arm of the family ships."""
        return f"ships_{self.name}"

    def verb(self, stem: str) -> str:
        """The verb that goes with `what`."""
        return stem if self.many else f"{stem}s"


UNLABELLED = Family("unlabelled", False, True, "unlabelled images", "unlabelled images", many=True)
BANK = Family("bank", True, False, "the bank", "fakes", many=False)
BOTH = Family("both", True, True, "both", "both", many=True)
FAMILIES = UNLABELLED, BANK, BOTH
"""In the order in which they are told of."""


@dataclass(frozen=True)
class Draw:
    """One run of the whole pipeline: the test and validation means of its arms over the students, and what validation chose."""

    seed: int
    teacher: float
    test: Mapping[str, float]
    val: Mapping[str, float]
    uses_bank: Mapping[str, bool]
    uses_unlabelled: Mapping[str, bool]
    choice: Choice

    def is_of(self, name: str, family: Family) -> bool:
        """Whether an arm is of a family."""
        return (self.uses_bank[name], self.uses_unlabelled.get(name, False)) == (family.bank, family.unlabelled)


def over_draws(draws: Sequence[Draw], headline: Headline, confidence: float) -> dict[str, Any]:
    """Means over draws and paired gains with t intervals: of each arm that all draws have, and of the arms that each draw chose.

    `arms` NAME holds mean, sd, values (one a draw) and the gains over `real`, over the best real-only arm (`rival_gain`) and,
    where there are arms of unlabelled images alone, over the best of those (`unlabelled_gain`). Rivals are chosen in each draw
    on its validation images, as a user of that draw would. `chosen` has the same for the best arm of each family and the one
    that ships, whose arm may be another in each draw.
    """
    assert len(draws) >= 2, "an interval needs at least two draws"
    choices = [draw.choice for draw in draws]
    picks: dict[str, list[str]] = {"best_real": [choice.best_real for choice in choices]}
    for family in FAMILIES:
        names = [name for choice in choices if (name := getattr(choice, family.key)) is not None]
        if len(names) == len(draws):
            picks[family.key] = names
    picks["ships"] = [choice.chosen for choice in choices]
    rivals = {"gain": ["real"] * len(draws), "rival_gain": picks["best_real"]}
    if "best_unlabelled" in picks:
        rivals["unlabelled_gain"] = picks["best_unlabelled"]

    def scores(names: Sequence[str]) -> list[float]:
        return [draw.test[name] for draw, name in zip(draws, names, strict=True)]

    def row(names: Sequence[str]) -> dict[str, Any]:
        """Of the arm that each draw has in this row; an arm has no gain over itself, and zero over another of equal scores."""
        values, val = scores(names), [draw.val[name] for draw, name in zip(draws, names, strict=True)]
        mean, sd = mean_sd(values)
        entry: dict[str, Any] = {"mean": mean, "sd": sd, "values": values, "val_mean": mean_sd(val)[0]}
        for key, against in rivals.items():
            if list(names) != against:
                higher = headline.higher_is_better
                gain = paired_gain(scores(against), values, higher_is_better=higher, confidence=confidence)
                entry |= _said(key, gain)
        return entry

    shared = [name for name in draws[0].test if all(name in draw.test for draw in draws)]
    arms = {name: row([name] * len(draws)) | {"uses_bank": draws[0].uses_bank[name]} for name in shared}
    for name in shared:
        arms[name] |= {"uses_unlabelled": True} if draws[0].uses_unlabelled.get(name) else {}
    chosen = {key: row(names) | {"arms": names} for key, names in picks.items()}
    mean, low, high = mean_interval([draw.teacher for draw in draws], confidence)
    found = {
        "num_draws": len(draws),
        "seeds": [draw.seed for draw in draws],
        "teacher": {"mean": mean, "low": low, "high": high, "values": [draw.teacher for draw in draws]},
        "arms": arms,
        "chosen": chosen,
    }
    for family in FAMILIES:
        if family is BANK or any(draw.is_of(name, family) for draw in draws for name in draw.test):
            found[family.ships] = sum(draw.is_of(draw.choice.chosen, family) for draw in draws)
    return found


def best_shared(result: Mapping[str, Any], headline: Headline, family: Family) -> str | None:
    """The arm that is best by its validation mean over all draws, of one family; None where it is empty."""
    arms, wanted = result["arms"], (family.bank, family.unlabelled)
    names = [name for name, arm in arms.items() if (arm["uses_bank"], arm.get("uses_unlabelled", False)) == wanted]
    values = {name: [arms[name]["val_mean"]] for name in names}
    return best_arm(names, values, headline) if names else None


@dataclass(frozen=True)
class Claim:
    """What is said of a family: its head, and the gains of its best arm that the head rests on."""

    family: Family
    head: str
    keys: tuple[str, ...]


def draws_verdict(result: Mapping[str, Any], headline: Headline, confidence: float) -> str:
    """Do unlabelled images and the fakes help, over draws, in one or two sentences.

    Fakes are credited with what they bring over an arm that has all the rest, as in the verdict of a single run: the best
    real-only arm of each draw, or beside unlabelled images the best one with those alone.
    """
    num, dec = result["num_draws"], places_of(result)
    claims = list(_claims(result))
    if not claims:
        return f"No arm of the {num} draws uses the bank."
    unit = "points" if headline.unit == "%" else headline.unit

    def gains(row: Mapping[str, Any], keys: Sequence[str]) -> str:
        return f"gains {' and '.join(f'{with_ends(row, key, dec, unit=unit)} over {OVER[key]}' for key in keys)}"

    heads, best, ships, shared = list[str](), list[str](), list[str](), list[str]()
    for claim in claims:
        family = claim.family
        heads.append(claim.head if not heads else claim.head[:1].lower() + claim.head[1:])
        best.append(f"the best arm with {family.has} {gains(result['chosen'][family.key], claim.keys)} of each draw")
        ships.append(f"{family.what}{'' if ships else ' ' + family.verb('ship')} in {result[family.ships]}")
        if (name := best_shared(result, headline, family)) is not None:
            shared.append(f"{name} {gains(result['arms'][name], claim.keys[-1:])}")
    text = (
        f"{'; '.join(heads)}: {'; '.join(best)} ({100 * confidence:.0f} % intervals over {num} draws, arms chosen on"
        f" validation); {', '.join(ships)} of {num}."
    )
    return f"{text} Of the arms that all draws have, {'; '.join(shared)}." if shared else text


def _claims(result: Mapping[str, Any]) -> Iterator[Claim]:
    """Of each family that all draws have; an arm with both is compared with those of unlabelled images alone."""
    chosen, few = result["chosen"], result["num_draws"] < LEAST_DRAWS
    for family in (UNLABELLED, BANK):
        if family.key in chosen:
            yield Claim(family, _head(family, chosen[family.key], result["num_draws"]), ("gain", "rival_gain"))
    if BOTH.key not in chosen:
        return
    if UNLABELLED.key not in chosen:
        head = "What fakes and what unlabelled images bring is not told apart, as no arm has those alone"
        yield Claim(BOTH, head, ("gain", "rival_gain"))
        return
    low, high = (chosen[BOTH.key][f"unlabelled_gain_{end}"] for end in ("low", "high"))
    if few:
        head = "nor whether fakes add to unlabelled images"
    elif low > 0:
        head = "fakes add to unlabelled images over draws"
    else:
        head = "fakes take away from unlabelled images over draws" if high < 0 else "fakes are not shown to add to them"
    yield Claim(BOTH, head, ("unlabelled_gain",))


def _head(family: Family, row: Mapping[str, Any], num: int) -> str:
    """Whether a family helps over draws, against the plain and the best real-only student."""
    what, helps, is_ = family.what, family.verb("help"), "are" if family.many else "is"
    name = what[:1].upper() + what[1:]
    if num < LEAST_DRAWS:
        return f"{num} draws are too few to say whether {what} {helps}"
    if row["rival_gain_low"] > 0:
        return f"{name} {helps} over draws"
    if row["rival_gain_high"] < 0:
        return f"{name} {family.verb('hurt')} over draws"
    if row["gain_low"] > 0:
        return (
            f"Over draws {what} {helps} against the plain student, but {is_} not shown to beat the best real-only one"
        )
    return f"Over draws {what} {is_} not shown to help"


def _said(key: str, gain: Gain) -> dict[str, Any]:
    return {key: gain.gain, f"{key}_low": gain.low, f"{key}_high": gain.high, f"{key}_values": list(gain.values)}
