"""Splits that never divide a group: training, validation and test of whole groups, as near to the settings as these allow.

The order is that of `splits`: test first, validation second, so that neither depends on how many images train. Caps on
training and test leave images out, of a group as well, but move none to another split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Account
from cgankd.data.readers.groups import MOST_LISTED, Grouping
from cgankd.data.readers.splits import (
    PARTS,
    capped,
    capped_by_class,
    capped_by_label,
    check_class,
    own_rows,
    required_test_share,
    shuffled,
    split_parts,
    split_scalars,
    train_caps,
    val_shares,
)
from cgankd.data.readers.whole_groups import Wanted, take_groups

WORDS = {"train": "training", "val": "validation", "test": "test"}
MOST_STRETCHES, GROUPS_A_STRETCH = 20, 5
"""Stretches of the sorted labels over which scalar splits are spread evenly: so many where each has so many groups."""


@dataclass(frozen=True)
class Cut:
    """What was asked for and taken of one split, in images of each kind."""

    part: str
    want_K: Sequence[float]
    found_K: Sequence[int]


def class_rows(
    label_N: Tensor,
    part_of: Sequence[str] | None,
    class_names: Sequence[str],
    cfg: DataConfig,
    seed: int,
    groups: Grouping | None,
) -> tuple[dict[str, Tensor], Account]:
    """Row numbers of "train", "val" and "test", stratified by class as well as whole groups allow, and what to say of it.

    `part_of` [N] names the split an image has in the source, if it has any. Raises ConfigError naming the class that is too
    small, in images or in groups.
    """
    part_of = part_of or [PARTS[0]] * len(label_N)
    if groups is None:
        return split_parts(label_N, part_of, class_names, cfg, seed), Account()
    own, share = _own(part_of, cfg)
    rest, cuts, taken = own["train"], [], {part: own[part] for part in ("val", "test")}
    counts = torch.bincount(label_N[rest], minlength=len(class_names)).tolist()
    tests = [0 if share is None else max(1, round(share * count)) for count in counts]
    left = [count - num_test for count, num_test in zip(counts, tests, strict=True)]
    vals = val_shares(cfg, left) if len(own["val"]) == 0 else [0] * len(counts)
    caps = train_caps(cfg, len(class_names))
    for name, count, num_test, num_val, cap in zip(class_names, counts, tests, vals, caps, strict=True):
        check_class(name, count, (num_test, num_val, cap or 1), cfg)
    if share is not None:
        keep = 1 + (len(own["val"]) == 0)
        _enough(label_N[rest], groups.number_N[rest], class_names, keep + 1, cfg)
        taken["test"], rest, cut = _cut("test", rest, label_N, Wanted(tests, keep, True), groups, seed)
        cuts.append(cut)
    if len(own["val"]) == 0:
        left = torch.bincount(label_N[rest], minlength=len(class_names)).tolist()
        _enough(label_N[rest], groups.number_N[rest], class_names, 2, cfg)
        taken["val"], rest, cut = _cut("val", rest, label_N, Wanted(val_shares(cfg, left), 1, True), groups, seed)
        cuts.append(cut)
    train = [shuffled(rest[label_N[rest] == index], seed, "split", name) for index, name in enumerate(class_names)]
    _check_cuts(cuts, train, class_names, cfg)
    rows = torch.cat([capped(part, cap) for part, cap in zip(train, caps, strict=True)])
    test = [taken["test"][label_N[taken["test"]] == index] for index in range(len(class_names))]
    joined = torch.cat(
        [shuffled(part, seed, "split", "test", name) for part, name in zip(test, class_names, strict=True)]
    )
    found = {
        "train": capped_by_class(label_N, rows, cfg.num_train, "data.num_train"),
        "val": taken["val"],
        "test": capped_by_class(label_N, joined, cfg.num_test, "data.num_test"),
    }
    return found, _account(found, own, groups, cuts, class_names)


def scalar_rows(
    label_N: Tensor, cfg: DataConfig, seed: int, groups: Grouping | None
) -> tuple[dict[str, Tensor], Account]:
    """Row numbers of "train", "val" and "test", spread over the sorted labels as evenly as whole groups allow, and what to
    say of it. Raises ConfigError where there are too few images or groups.
    """
    if groups is None:
        return split_scalars(label_N, cfg, seed), Account()
    if cfg.num_val is None:
        raise ConfigError("data.num_val must be set for scalar labels, and data.val_per_label null")
    if cfg.label_period is not None:
        # As split_scalars: turning all labels changes nothing.
        label_N = torch.remainder(label_N.double() - float(label_N[0]), cfg.label_period)
    num = len(label_N)
    num_test = max(1, round(required_test_share(cfg) * num))
    if num_test + cfg.num_val + 2 > num:
        raise ConfigError(
            f"data.root {cfg.root!r} has {num} images, too few for {num_test} test, {cfg.num_val} validation and at least 2"
            " training images; add images or lower data.num_val or data.test_share"
        )
    if len(groups.names) < len(PARTS):
        raise ConfigError(
            f"data.groups ({groups.how}) finds {len(groups.names)} groups in {cfg.root!r}; training, validation and test need"
            " one each"
        )
    rest, taken, cuts = torch.arange(num), {}, []
    for part, wanted, keep in (("test", num_test, 2), ("val", cfg.num_val, 1)):
        stretch_R, size = _stretches(label_N[rest], len(torch.unique(groups.number_N[rest])))
        share_K = torch.bincount(stretch_R, minlength=size).double() / len(rest)
        kind_N = torch.zeros(num, dtype=torch.int64)
        kind_N[rest] = stretch_R
        aim = Wanted((share_K * wanted).tolist(), keep, False)
        taken[part], rest, cut = _cut(part, rest, kind_N, aim, groups, seed)
        cuts.append(cut)
    rest = rest[shuffled(torch.arange(len(rest)), seed, "split", "ties")]
    rest = capped_by_label(label_N, rest[torch.argsort(label_N[rest], stable=True)], cfg)
    found = {
        "train": capped(shuffled(rest, seed, "split", "num_train"), cfg.num_train),
        "val": taken["val"],
        "test": capped(shuffled(taken["test"], seed, "split", "num_test"), cfg.num_test).sort().values,
    }
    return found, _account(found, {}, groups, cuts, ())


def _own(part_of: Sequence[str], cfg: DataConfig) -> tuple[dict[str, Tensor], float | None]:
    """Rows of the splits that a source has itself, and the share to set aside for test. Raises ConfigError."""
    own = own_rows(part_of)
    if len(own["test"]) and cfg.test_share is not None:
        raise ConfigError(
            f"data.test_share must be null: {cfg.root!r} has a test part of its own, which is the test split"
        )
    return own, None if len(own["test"]) else required_test_share(cfg)


def _cut(
    part: str, rest: Tensor, kind_N: Tensor, wanted: Wanted, groups: Grouping, seed: int
) -> tuple[Tensor, Tensor, Cut]:
    """Rows taken for a split, rows left, and how near to what was wanted."""
    # Groups are numbered by their names, so that the order of the files makes no difference.
    mask = take_groups(groups.number_N[rest], kind_N[rest], wanted, seed, "split", "groups", part)
    found = torch.bincount(kind_N[rest[mask]], minlength=len(wanted.num_K)).tolist()
    return rest[mask], rest[~mask], Cut(part, wanted.num_K, found)


def _stretches(label_R: Tensor, num_groups: int) -> tuple[Tensor, int]:
    """The stretch of the sorted labels [R] that each label lies in, and how many there are; equal labels lie in one."""
    size = max(1, min(MOST_STRETCHES, num_groups // GROUPS_A_STRETCH))
    labels = label_R.double().numpy()
    edges = np.quantile(labels, np.linspace(0, 1, size + 1)[1:-1])
    return torch.from_numpy(np.searchsorted(edges, labels, side="right").astype(np.int64)), size


def _enough(label_R: Tensor, group_R: Tensor, class_names: Sequence[str], need: int, cfg: DataConfig) -> None:
    """Raise ConfigError naming the class with too few groups to be in every split."""
    pairs = torch.unique(torch.stack([label_R, group_R]), dim=1)
    num_K = torch.bincount(pairs[0], minlength=len(class_names)).tolist()
    place = min(range(len(class_names)), key=lambda index: num_K[index])
    if num_K[place] < need:
        few = sum(num < need for num in num_K)
        more = f" (and {few - 1} more classes)" if few > 1 else ""
        num = int((label_R == place).sum())
        raise ConfigError(
            f"data.root {cfg.root!r}: the {num} images of class {class_names[place]!r}{more} lie in {num_K[place]}"
            f" {_groups(num_K[place])} of data.groups, but must be divided into {need} splits; add images of other groups, or"
            " merge or remove the class"
        )


def _groups(num: int) -> str:
    return "group" if num == 1 else "groups"


def _check_cuts(cuts: Sequence[Cut], train: Sequence[Tensor], class_names: Sequence[str], cfg: DataConfig) -> None:
    """Raise ConfigError where a class is missing from a split or has too few training images."""
    caps = train_caps(cfg, len(class_names))
    for index, name in enumerate(class_names):
        for cut in cuts:
            if cut.want_K[index] > 0 and cut.found_K[index] == 0:
                raise ConfigError(
                    f"data.root {cfg.root!r}: no way was found to give every class {WORDS[cut.part]} images without dividing a"
                    f" group of data.groups; class {name!r} has none: its groups also hold other classes; add groups of it"
                )
        need = caps[index] or 1
        if len(train[index]) < need:
            raise ConfigError(
                f"data.root {cfg.root!r}: whole groups leave {len(train[index])} training images of class {name!r}, but"
                f" {need} are needed; add images of other groups, or lower data.test_share, the number of validation images"
                " or data.train_per_label"
            )


def _account(
    rows: Mapping[str, Tensor], own: Mapping[str, Tensor], groups: Grouping, cuts: Sequence[Cut], names: Sequence[str]
) -> Account:
    """How many groups there are, in all and in each split, how near the splits come, and which the source divides itself."""
    number_N, size_G = groups.number_N, torch.bincount(groups.number_N)
    inside = {part: torch.unique(number_N[found]) for part, found in rows.items()}
    counts = {"groups": float(len(groups.names))}
    counts |= {f"groups_{part}": float(len(inside[part])) for part in PARTS}
    each = ", ".join(f"{len(inside[part])} {WORDS[part]}" for part in PARTS)
    smallest, largest = int(size_G.min()), int(size_G.max())
    sizes = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
    lines = [f"groups: {len(groups.names)} ({groups.how}) of {sizes} images; {each}"]
    lines += [line for cut in cuts for line in _nearness(cut, names)]
    crossing = _crossing(number_N, own, groups)
    counts |= {"groups_divided": float(len(crossing))} if crossing else {}
    if crossing:
        named = ", ".join(map(repr, crossing[:MOST_LISTED])) + (", ..." if len(crossing) > MOST_LISTED else "")
        lines.append(
            f"WARNING: the splits that the source has itself divide {len(crossing)} {_groups(len(crossing))} ({named});"
            " errors measured there flatter"
        )
    return Account(counts, (*lines, *groups.lines))


def _nearness(cut: Cut, names: Sequence[str]) -> Iterator[str]:
    """By how much a split of whole groups misses what was asked for; nothing where it does not."""
    want, found = round(sum(cut.want_K)), sum(cut.found_K)
    off = [have - round(num) for have, num in zip(cut.found_K, cut.want_K, strict=True)] if names else []
    worst = max(range(len(off)), key=lambda index: abs(off[index])) if off else None
    if found == want and (worst is None or off[worst] == 0):
        return
    text = f"{WORDS[cut.part]}: {found} images in place of {want} ({found - want:+d}), as groups stay whole"
    if worst is not None and off[worst]:
        text += f"; of one class {off[worst]:+d} at most ({names[worst]!r}: {cut.found_K[worst]} of {round(cut.want_K[worst])})"
    yield text


def _crossing(number_N: Tensor, own: Mapping[str, Tensor], groups: Grouping) -> list[str]:
    """Names of the groups of which the source itself puts images into several splits."""
    if sum(len(rows) > 0 for rows in own.values()) < 2:
        return []
    times = torch.zeros(len(groups.names), dtype=torch.int64)
    for rows in own.values():
        times[torch.unique(number_N[rows])] += 1
    return [groups.names[number] for number in (times > 1).nonzero()[:, 0].tolist()]
