"""Results side by side: evaluate and student runs from files, git revisions, DVC experiments or MLflow.

Nothing is scored here: test numbers are those that `evaluate` wrote, and no choice is made on them.
"""

from __future__ import annotations

from dataclasses import dataclass

from cgankd.measure.predictive import Gain, paired_gain, unpaired_gain
from pipelines.report.records import Record


@dataclass(frozen=True)
class Difference:
    """An arm of a record against the same arm of the first record; `paired` tells which interval it is."""

    gain: Gain
    paired: bool


def same_split(first: Record, other: Record) -> bool:
    """Both were scored on the same kind of split, in the same unit."""
    unit = [(r.split, r.headline["unit"], r.headline["higher_is_better"]) for r in (first, other)]
    return unit[0] == unit[1]


def why_unpaired(first: Record, other: Record) -> str | None:
    """The plain reason why seeds of two records do not pair up; None where they do."""
    if first.seeds is None or other.seeds is None:
        return "the seeds of one of them are not known"
    if first.seeds != other.seeds:
        return "their seeds differ"
    if first.dataset is None or other.dataset is None:
        return "the data set of one of them is not known"
    if first.dataset.startswith("md5:") != other.dataset.startswith("md5:"):
        return "their data sets were recorded by different digests"
    if first.dataset.removeprefix("md5:")[:12] != other.dataset.removeprefix("md5:")[:12]:
        return "their data sets differ"
    return None


def difference(first: Record, other: Record, arm: str) -> Difference | None:
    """The gain of an arm in `other` over the same arm in `first`; None where it cannot be told."""
    if not same_split(first, other) or arm not in first.arms or arm not in other.arms:
        return None
    before, after = first.arms[arm].values, other.arms[arm].values
    if min(len(before), len(after)) < 2:
        return None
    options = {"higher_is_better": first.headline["higher_is_better"], "confidence": first.confidence}
    if why_unpaired(first, other) is None and len(before) == len(after):
        return Difference(paired_gain(before, after, **options), True)
    return Difference(unpaired_gain(before, after, **options), False)


def over_real(one: Record, arm: str) -> Gain | None:
    """The paired gain of an arm over `real` of the same record."""
    if arm == "real" or "real" not in one.arms:
        return None
    rival, values = one.arms["real"].values, one.arms[arm].values
    if len(rival) != len(values) or len(values) < 2:
        return None
    return paired_gain(rival, values, higher_is_better=one.headline["higher_is_better"], confidence=one.confidence)


def notes(records: list[Record]) -> list[str]:
    """What a reader must know of the differences, in plain sentences."""
    first, said = records[0], []
    for other in records[1:]:
        reason = why_unpaired(first, other)
        if not same_split(first, other):
            said.append(
                f"{other.name} and {first.name} are scored on different splits or in different units: no differences."
            )
        elif reason is None:
            said.append(
                f"{other.name} against {first.name}: same seeds and data set, so differences are paired by seed."
            )
        else:
            said.append(
                f"{other.name} against {first.name}: {reason}, so intervals are unpaired (Welch), which are usually wider."
            )
    level = f"{100 * first.confidence:.0f} %"
    said.append(f"Differences are positive where better; brackets are {level} intervals, each on its own.")
    if any(one.split == "test" for one in records):
        said.append("Test numbers are those the stage evaluate wrote; choose between runs on validation.")
    return said
