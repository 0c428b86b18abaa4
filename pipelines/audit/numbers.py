"""The numbers of an audit: what is compared with what, at which sizes, and when it is alarming.

Distances are to the validation images: the GAN and the teacher saw the training images, so a bank of their copies
would look perfect beside them. The reference is the training set itself, as far from validation as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from cgankd.measure import fidelity
from cgankd.measure.fidelity import Labelled
from cgankd.measure.findings import FAR, LACK, TELLING, Finding, over, under
from cgankd.measure.two_sample import two_sample
from cgankd.rng import derive, generator
from cgankd.types import Split, Task

T = TypeVar("T")
DRAWS = 5
"""Random parts of the bank compared at equal size."""
MOST_EQUAL, MOST_TOLD = 5000, 1000
"""Largest equal size, and images a side that the classifier gets: slow beyond, and stable before."""


@dataclass(frozen=True)
class Space:
    """Features [N, F] of training, validation and bank images in one feature space, such as "teacher"."""

    name: str
    says: str
    train: Tensor
    val: Tensor
    bank: Tensor


@dataclass(frozen=True)
class Sets:
    """What is audited; the bank's images may be memory-mapped. `window` is the centres [K] and the radius of sliding
    windows in raw label units, None where labels are classes.
    """

    task: Task
    train: Split
    val: Split
    bank: Split
    asked: Tensor
    window: tuple[Tensor, float] | None
    seed: int
    period: float | None = None
    """Length of the circle in raw units where labels lie on one."""

    @property
    def equal_size(self) -> int:
        """Rows drawn from either side where a number depends on the size."""
        return min(len(self.train), len(self.val), len(self.bank), MOST_EQUAL)

    def draws(self, space: Space) -> list[list[tuple[Tensor, Tensor]]]:
        """DRAWS times: features and random row numbers of bank and of training images, equally many."""

        def rows(features_NF: Tensor, name: str, turn: int) -> Tensor:
            gen = generator(self.seed, "audit draw", name, turn)
            return torch.randperm(len(features_NF), generator=gen)[: self.equal_size]

        both = (space.bank, "bank"), (space.train, "train")
        return [[(f_NF, rows(f_NF, name, turn)) for f_NF, name in both] for turn in range(DRAWS)]


def mean(values: list[float]) -> float:
    """The plain mean; NaN of nothing."""
    return sum(values) / len(values) if values else math.nan


def pair(measure: Callable[[T], float], bank: T, real: T) -> tuple[float, float]:
    """One number of the bank and the same of its reference."""
    return measure(bank), measure(real)


def spread(values: list[float]) -> float:
    """Sample standard deviation; 0 for a single value."""
    return float(torch.tensor(values, dtype=torch.float64).std()) if len(values) > 1 else 0.0


def compare(all_val_NF: Tensor, val_NF: Tensor, other_MF: Tensor, seed: int) -> dict[str, float]:
    """Every distance of one drawn set to the validation images."""
    precision, recall = fidelity.precision_recall(val_NF, other_MF)
    told = two_sample(val_NF[:MOST_TOLD], other_MF[:MOST_TOLD], seed=seed % 2**32)
    return {
        "fid": fidelity.fid(all_val_NF, other_MF),
        "kid": fidelity.kid(val_NF, other_MF, generator(seed, "kid"), num_subsets=10),
        "precision": precision,
        "recall": recall,
        "auc": told.auc,
        "gap": told.gap,
    }


def fidelity_findings(sets: Sets, space: Space) -> list[Finding]:
    """FID, KID, precision, recall and classifier of one feature space; bank and training set against validation."""
    s, n, width = space.name, sets.equal_size, space.val.shape[1]
    stable = n >= width
    doubt = "" if stable else f"; {n} images are too few for {width} features: read kid.{s}"
    val_NF = space.val[torch.randperm(len(space.val), generator=generator(sets.seed, "audit val"))[:MOST_EQUAL]]
    drawn = [
        [compare(space.val, val_NF, f_NF[rows], derive(sets.seed, "audit", s, i)) for f_NF, rows in both]
        for i, both in enumerate(sets.draws(space))
    ]
    bank, train = ({name: mean([pair[i][name] for pair in drawn]) for name in drawn[0][0]} for i in (0, 1))
    fid = pair(lambda f_NF: fidelity.fid(space.val, f_NF), space.bank, space.train)
    kid = pair(lambda f_NF: fidelity.kid(space.val, f_NF, generator(sets.seed, "kid")), space.bank, space.train)
    sd = spread([pair[0]["kid"] for pair in drawn])
    at = f"{n} a side"

    def finding(name: str, key: str, says: str, alarm: str) -> Finding:
        return Finding(f"{name}.{s}", bank[key], train[key], says, alarm)

    return [
        Finding(f"fid.{s}", *fid, f"Frechet distance to validation in {space.says}{doubt}"),
        Finding(
            f"fid.{s}.equal_size",
            bank["fid"],
            train["fid"],
            f"the same with {at}: these two may be compared{doubt}",
            over(bank["fid"], train["fid"], FAR) if stable else "",
        ),
        Finding(f"kid.{s}", *kid, "kernel distance to validation, free of size; 0 = none", over(*kid, FAR, 3 * sd)),
        finding(
            "precision",
            "precision",
            f"share of fakes among the validation images ({at})",
            under(bank["precision"], train["precision"] - LACK),
        ),
        finding(
            "recall",
            "recall",
            f"share of validation images that fakes reach ({at})",
            under(bank["recall"], train["recall"] - LACK),
        ),
        finding(
            "auc",
            "auc",
            f"a linear classifier tells fakes from validation images; 0.5 = by chance ({at})",
            over(bank["auc"], max(0.5, train["auc"]), 1.0, TELLING),
        ),
        finding("tv_at_least", "gap", "the total variation distance that this classifier proves", ""),
    ]


Curves = dict[str, dict[str, dict[float, float]]]
"""For "fid" and "kid", for "bank" and "training images": the distance at each label."""


def by_label(sets: Sets, space: Space) -> tuple[Curves, Curves]:
    """Distances to validation images within each class or label bin, and in sliding windows over scalar labels.

    Windows are as wide as the bins, at a quarter of their width from each other; classes have none.
    """
    gen = generator(sets.seed, "audit labels")
    measures = {"fid": fidelity.fid, "kid": lambda real, fake: fidelity.kid(real, fake, gen)}
    val = Labelled(space.val, sets.val.labels)
    others = {
        "bank": Labelled(space.bank, sets.bank.labels),
        "training images": Labelled(space.train, sets.train.labels),
    }

    def grouped(side: Labelled) -> Labelled:
        return Labelled(side.features, sets.task.filter_groups(side.label))

    binned: Curves = {}
    sliding: Curves = {}
    for measure, distance in measures.items():
        for name, other in others.items():
            found = fidelity.by_group(grouped(val), grouped(other), distance)
            binned.setdefault(measure, {})[name] = {float(group): value for group, value in found.items()}
            if sets.window is not None:
                found_at = fidelity.sliding(val, other, sets.window, distance, period=sets.period)
                sliding.setdefault(measure, {})[name] = found_at
    return binned, sliding


def by_label_findings(sets: Sets, space: Space, curves: Curves, name: str, says: str) -> list[Finding]:
    """Means over the labels at which bank and training images can both be measured, with how many these are."""
    found = []
    for measure in ("fid", "kid"):
        bank, train = (curves[measure][k] for k in ("bank", "training images"))
        shared = sorted(set(bank) & set(train))
        if not shared:
            continue
        values = mean([bank[label] for label in shared]), mean([train[label] for label in shared])
        error = spread([bank[label] - train[label] for label in shared]) / math.sqrt(len(shared))
        alarm = over(values[0], values[1], FAR, 2 * error) if measure == "kid" else ""
        size = ", which few images make large" if measure == "fid" else ""
        text = f"mean {measure.upper()} to validation {says} ({len(shared)} of them{size})"
        found.append(Finding(f"{measure}.{space.name}.{name}", *values, text, alarm))
    return found
