"""The numbers of an audit that look at images and labels one by one: copies, duplicates, labels, variety, the bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cgankd.measure import bound, labels
from cgankd.measure.copies import (
    CLOSEST_SHARE,
    EXACT,
    NEAR_SHARE,
    Nearest,
    Shifted,
    as_float,
    candidates,
    closeness_limit,
    closest_real,
    leave_one_out,
    near_limit,
    nearest,
    nearest_shifted,
    nearest_within,
)
from cgankd.measure.findings import COPIED, FAR, MISLABELLED, UNEVEN, UNVARIED, Finding, over, under
from cgankd.rng import generator
from cgankd.types import Images, LogFn, Split
from pipelines.audit.numbers import Sets, Space, pair

BATCH = 512
SHIFT_CANDIDATES = 8
"""Nearest training images by pixels, and as many by features, that are tried with shifts."""
MOST_VARIED = 4000
"""Images of the bank whose pixel diversity is measured."""


@dataclass(frozen=True)
class Neighbours:
    """For every image of a set the nearest training image: by pixels, by features, and by shifted pixels."""

    pixel: Nearest
    feature: Nearest
    shifted: Shifted


def neighbours(images_NCHW: Images, features_NF: Tensor, sets: Sets, space: Space, log: LogFn) -> Neighbours:
    """Search the training images for every image of a set, piece by piece."""
    by_pixel, by_feature, by_shift = [], [], []
    done = 0
    for row in torch.split(torch.arange(len(images_NCHW)), BATCH):
        image, feature = images_NCHW[row], features_NF[row]
        tried = [
            candidates(as_float(query), target, SHIFT_CANDIDATES)
            for query, target in ((image, sets.train.images), (feature, space.train))
        ]
        by_pixel.append(nearest(image, sets.train.images))
        by_feature.append(nearest(feature, space.train))
        by_shift.append(nearest_shifted(image, sets.train.images, torch.cat(tried, dim=1)))
        done += len(row)
        log(done, {}, len(images_NCHW))

    def joined(parts: list[Nearest]) -> Nearest:
        return Nearest(torch.cat([p.distance for p in parts]), torch.cat([p.index for p in parts]))

    shifted = Shifted(*(torch.cat([getattr(p, f) for p in by_shift]) for f in ("distance", "index", "shift")))
    return Neighbours(joined(by_pixel), joined(by_feature), shifted)


@dataclass(frozen=True)
class Closeness:
    """Nearest training images of bank and validation images, leave-one-out distances of the training images, limits."""

    bank: Neighbours
    val: Neighbours
    real_pixel: Tensor
    real_feature: Tensor

    @property
    def pixel_limit(self) -> float:
        """1st percentile of the pixel distances between training images."""
        return closeness_limit(self.real_pixel)

    @property
    def feature_limit(self) -> float:
        """1st percentile of the feature distances between training images."""
        return closeness_limit(self.real_feature)

    @property
    def closest_real_pixel(self) -> float:
        """Pixel distance of the closest real pair: a validation and a training image (shifts tried), or two of those."""
        return closest_real(self.val.shifted.distance, self.real_pixel)

    @property
    def closest_real_feature(self) -> float:
        """The same by features; here too pictures that are there twice do not count."""
        return closest_real(self.val.feature.distance, self.real_feature)

    @property
    def copy_limit(self) -> float:
        """Pixel distance under which a fake counts as a copy of a training image with small changes."""
        return near_limit(self.closest_real_pixel)


def closeness(sets: Sets, space: Space, log: LogFn) -> Closeness:
    """Everything about nearest training images."""
    return Closeness(
        neighbours(sets.bank.images, space.bank, sets, space, log),
        neighbours(sets.val.images, space.val, sets, space, lambda step, values, total: None),
        leave_one_out(sets.train.images),
        leave_one_out(space.train),
    )


def share(mask: Tensor) -> float:
    """Share of true entries."""
    return float(mask.double().mean())


def copy_findings(close: Closeness) -> list[Finding]:
    """Copies of training images: exact ones, ones with small changes, and fakes closer than real images come."""
    exact = pair(lambda side: float((side.shifted.distance <= EXACT).sum()), close.bank, close.val)
    least = pair(lambda side: float(side.shifted.distance.min()), close.bank, close.val)
    limit, leak = close.copy_limit, "training images leak into the bank"
    near = pair(lambda side: float((side.shifted.distance <= limit).sum()), close.bank, close.val)
    half = f"{100 * NEAR_SHARE:g} % of the closest real pair ({close.closest_real_pixel:.3g})"
    found = [
        Finding(
            "copies.exact",
            *exact,
            "fakes that are a training image within 2 grey levels, also shifted by up to 1 pixel",
            leak if exact[0] else "",
        ),
        Finding(
            "copies.near",
            *near,
            f"fakes that are a training image with small changes (noise, compression): within {limit:.3g}",
            leak if near[0] else "",
        ),
        Finding(
            "copies.closest",
            *least,
            "pixel distance (RMS, 0 to 1) of the closest pair, shifts tried",
            f"under {half}" if least[0] <= limit else "",
        ),
    ]
    both = (
        ("pixel", close.pixel_limit, close.bank.pixel.distance, close.val.pixel.distance),
        ("feature", close.feature_limit, close.bank.feature.distance, close.val.feature.distance),
    )
    for name, limit, bank_M, val_N in both:
        # Lambdas would all see the last limit of the loop.
        shares = share(bank_M < limit), share(val_N < limit)
        medians = pair(lambda distance: float(distance.median()), bank_M, val_N)
        found += [
            Finding(
                f"copies.{name}.share",
                *shares,
                f"fakes closer to a training image than 99 % of those are to each other ({name}s, under {limit:.3g})",
                over(shares[0], max(shares[1], CLOSEST_SHARE), COPIED),
            ),
            Finding(f"copies.{name}.median", *medians, f"median distance to the nearest training image ({name}s)"),
        ]
    return found


def blocks(num_rows: int, size: int, gen: torch.Generator) -> list[Tensor]:
    """All row numbers in random blocks of about `size` (never fewer, unless there are fewer rows in all)."""
    return list(torch.tensor_split(torch.randperm(num_rows, generator=gen), max(1, num_rows // size)))


def label_groups(group_N: Tensor) -> Iterator[Tensor]:
    """The row numbers of each group."""
    for group in torch.unique(group_N).tolist():
        yield (group_N == group).nonzero()[:, 0]


def duplicate_findings(sets: Sets, close: Closeness) -> list[Finding]:
    """Fakes that repeat other fakes: nearly equal ones of one label, and crowding at the density of the training set."""

    def repeated(split: Split) -> float:
        groups = label_groups(sets.task.filter_groups(split.labels))
        return share(nearest_within(split.images, groups) <= EXACT)

    equal = pair(repeated, sets.bank, sets.train)
    gen = generator(sets.seed, "audit blocks")
    crowded = nearest_within(sets.bank.images, blocks(len(sets.bank), len(sets.train), gen))
    near = share(crowded < close.pixel_limit)
    usual = share(close.real_pixel < close.pixel_limit)
    return [
        Finding(
            "duplicates.exact",
            *equal,
            "fakes that another fake of their label equals within 2 grey levels",
            over(equal[0], max(equal[1], CLOSEST_SHARE), 1.0),
        ),
        Finding(
            "duplicates.near",
            near,
            usual,
            f"fakes closer to another fake, among {len(sets.train)} drawn, than 99 % of training images to each other",
            over(near, max(usual, CLOSEST_SHARE), COPIED),
        ),
    ]


def label_findings(sets: Sets, outputs: tuple[Tensor, Tensor], unit: str) -> list[Finding]:
    """What the teacher says of the labels of fakes and of validation images, and how the label marginals differ."""
    task = sets.task
    bank, val = (outputs[0], sets.asked), (outputs[1], sets.val.labels)
    score = pair(lambda side: float(task.score(*side).double().mean()), bank, val)
    error = pair(lambda side: float(task.error(*side).double().mean()), bank, val)
    train_group = task.filter_groups(sets.train.labels)
    marginal = pair(
        lambda label: labels.total_variation(train_group, task.filter_groups(label)), sets.bank.labels, sets.val.labels
    )
    found = [
        Finding(
            "label_score",
            *score,
            f"mean error ({unit}) of the teacher against the label asked for; the filter lowers it",
            over(*score, MISLABELLED),
        ),
        Finding(
            "teacher_error",
            *error,
            "the same in M2's measure; far under the reference means fakes easier than real images",
            over(*error, MISLABELLED),
        ),
        Finding(
            "label_marginal.tv",
            *marginal,
            "distance of label shares to the training set, 0 equal to 1 disjoint",
            over(marginal[0], marginal[1], FAR, 0.1),
        ),
    ]
    if sets.window is not None:
        moved = pair(
            lambda y: labels.label_distance(sets.train.labels, y, sets.period), sets.bank.labels, sets.val.labels
        )
        text = f"the same as a mean way in {unit} (Wasserstein-1)"
        found.append(Finding("label_marginal.w1", *moved, text, over(*moved, FAR, sets.window[1])))
    return found


def variety_findings(sets: Sets, close: Closeness) -> list[Finding]:
    """How varied the fakes of one label are, beside validation images of one label."""
    group_of = sets.task.filter_groups
    val_group, bank_group = group_of(sets.val.labels), group_of(sets.bank.labels)
    found = []
    gen = generator(sets.seed, "audit variety")
    row = torch.randperm(len(sets.bank), generator=gen)[:MOST_VARIED]
    pixels = [
        labels.pixel_diversity(sets.bank.images[row], bank_group[row], gen),
        labels.pixel_diversity(sets.val.images, val_group, gen),
    ]
    if pixels[0] is not None and pixels[1] is not None:
        text = "mean pixel difference (RMS, 0 to 1) of two fakes of one label"
        found.append(Finding("diversity.pixel", pixels[0], pixels[1], text, under(pixels[0], UNVARIED * pixels[1])))
    kept, num_bank = torch.bincount(val_group).tolist(), torch.bincount(bank_group).tolist()
    size = {g: min(n, m) for g, (n, m) in enumerate(zip(kept, num_bank, strict=False)) if min(n, m) > 1}
    spread_ = [
        labels.group_entropy(group, side.pixel.index, size, gen)
        for group, side in ((bank_group, close.bank), (val_group, close.val))
    ]
    if spread_[0] is not None and spread_[1] is not None:
        text = "nats: how evenly fakes of one label spread over the training images nearest to them"
        found.append(Finding("diversity.entropy", spread_[0], spread_[1], text, under(spread_[0], UNEVEN * spread_[1])))
    return found


def bound_findings(sets: Sets, gap: float, span: float | None, error: float, acceptance: float | None) -> list[Finding]:
    """What of the error bound can be measured; the loss is relative to its largest value."""
    values = bound.ingredients(len(sets.train), len(sets.bank), gap)
    says = {
        "theta": "M^r / M, the share of real images in the student's training set",
        "deviation_real": "2 sqrt(ln(2/delta) / 2M): left to chance by the training images alone (delta 0.05)",
        "deviation": "the same with the bank",
        "tv_at_least": "least total variation distance of bank and validation images (tv_at_least.teacher)",
        "mismatch_at_least": "2 (1 - theta) TV: what fakes that differ may cost, at least; TV itself is not known",
    }
    found = [Finding(f"bound.{name}", values[name], None, text) for name, text in says.items()]
    if span is not None:
        over_what = "the label range" if sets.period is None else "half a turn"
        text = f"label part where labels are replaced, L = 1: teacher error over {over_what}"
        found.append(Finding("bound.label_part", error / span, None, text))
    if acceptance is not None:
        text = "share of draws that passed M1 and M2, as this bank is set"
        found.append(Finding("bound.acceptance", acceptance, None, text))
    return found
