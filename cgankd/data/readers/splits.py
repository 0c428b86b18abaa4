"""Seeded splits. Test is set aside first and validation second, so neither depends on how many images train.

Every cap takes the first rows of one fixed order: a smaller set is always part of a larger one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cgankd.config import ConfigError, DataConfig
from cgankd.rng import generator

PARTS = ("train", "val", "test")


def shuffled(rows: Tensor, *keys: int | str) -> Tensor:
    """The rows in an order that depends on the keys alone (and on how many rows there are)."""
    return rows[torch.randperm(len(rows), generator=generator(*keys))]


def even_shares(total: int, parts: int) -> list[int]:
    """Split a count into parts that differ by one at most."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def val_shares(cfg: DataConfig, counts: Sequence[int]) -> list[int]:
    """Validation images of each class that has so many left after test: `val_per_label`, `num_val` spread evenly, or
    `val_share` of them with the floor `val_floor`, which takes a third of them at most.
    """
    if cfg.val_share is not None:
        floors = [max(1, min(cfg.val_floor, count // 3)) for count in counts]
        return [max(floor, round(cfg.val_share * count)) for floor, count in zip(floors, counts, strict=True)]
    if cfg.val_per_label is not None:
        return [cfg.val_per_label] * len(counts)
    assert cfg.num_val is not None, "DataConfig checks this"
    return even_shares(cfg.num_val, len(counts))


def train_caps(cfg: DataConfig, num_classes: int) -> list[int | None]:
    """Training images of each class at most: `train_per_label`, falling geometrically where `imbalance` is set."""
    most = cfg.train_per_label
    if cfg.imbalance is None or most is None:
        return [most] * num_classes
    steps = max(1, num_classes - 1)
    return [max(1, round(most * cfg.imbalance ** (-index / steps))) for index in range(num_classes)]


def required_test_share(cfg: DataConfig) -> float:
    """`test_share`. Raises ConfigError where it is null: the source has no test part of its own."""
    if cfg.test_share is None:
        raise ConfigError(
            f"data.test_share must be set, for example to 0.2: {cfg.root!r} has no test images of its own"
        )
    return cfg.test_share


def _val_settings(cfg: DataConfig) -> str:
    """The settings that say how many images validate."""
    return "data.val_per_label, data.num_val" if cfg.val_share is None else "data.val_share, data.val_floor"


def check_class(name: str, count: int, wanted: tuple[int, int, int], cfg: DataConfig) -> None:
    """Raise ConfigError where a class has fewer images than its test, validation and training images need."""
    num_test, num_val, num_train = wanted
    if count < sum(wanted):
        raise ConfigError(
            f"data.root {cfg.root!r}: class {name!r} has {count} images but needs {sum(wanted)}"
            f" ({num_test} test, {num_val} validation, {num_train} training); add images, or lower"
            f" data.test_share, {_val_settings(cfg)} or data.train_per_label"
        )


def capped(rows: Tensor, cap: int | None) -> Tensor:
    """The first `cap` rows, or all."""
    return rows if cap is None else rows[:cap]


def capped_by_class(label_N: Tensor, rows: Tensor, cap: int | None, name: str) -> Tensor:
    """At most `cap` of the rows, each class in proportion and with at least one; `rows` are in their class's order.

    Raises ConfigError naming the setting where the cap is smaller than the number of classes.
    """
    if cap is None or cap >= len(rows):
        return rows
    label_R = label_N[rows]
    classes, place_R, count_K = torch.unique(label_R, return_inverse=True, return_counts=True)
    if cap < len(classes):
        raise ConfigError(f"{name} {cap} is less than the {len(classes)} classes; each needs at least one image")
    order_R = torch.argsort(place_R, stable=True)
    first_K = count_K.cumsum(0) - count_K
    rank_R = torch.empty_like(place_R)
    rank_R[order_R] = torch.arange(len(rows)) - first_K[place_R[order_R]]
    # Proportional: the rank as a share of its class; the first of each class comes before all others.
    key_R = (rank_R.double() + 0.5) / count_K[place_R]
    key_R[rank_R == 0] = 0.0
    chosen = torch.argsort(key_R, stable=True)[:cap]
    return rows[chosen.sort().values]


def split_classes(
    label_N: Tensor,
    class_names: Sequence[str],
    cfg: DataConfig,
    seed: int,
    *,
    test_share: float | None,
    with_val: bool = True,
) -> dict[str, Tensor]:
    """Row numbers of "train", "val" and "test", stratified by class.

    "test" is empty where `test_share` is None and "val" without `with_val`: those images come from elsewhere.

    Raises ConfigError naming the class, what it has and what it needs, where a class is too small.
    """
    parts: dict[str, list[Tensor]] = {"train": [], "val": [], "test": []}
    counts = torch.bincount(label_N, minlength=len(class_names)).tolist()
    tests = [0 if test_share is None else max(1, round(test_share * count)) for count in counts]
    left = [count - num_test for count, num_test in zip(counts, tests, strict=True)]
    shares = val_shares(cfg, left) if with_val else [0] * len(class_names)
    caps = train_caps(cfg, len(class_names))
    for index, (name, num_test, num_val, cap) in enumerate(zip(class_names, tests, shares, caps, strict=True)):
        rows = shuffled((label_N == index).nonzero()[:, 0], seed, "split", name)
        check_class(name, len(rows), (num_test, num_val, cap or 1), cfg)
        parts["test"].append(rows[:num_test])
        parts["val"].append(rows[num_test : num_test + num_val])
        parts["train"].append(capped(rows[num_test + num_val :], cap))
    joined = {name: torch.cat(rows) for name, rows in parts.items()}
    joined["train"] = capped_by_class(label_N, joined["train"], cfg.num_train, "data.num_train")
    joined["test"] = capped_by_class(label_N, joined["test"], cfg.num_test, "data.num_test")
    return joined


def split_parts(
    label_N: Tensor, part_of: Sequence[str], class_names: Sequence[str], cfg: DataConfig, seed: int
) -> dict[str, Tensor]:
    """Row numbers of "train", "val" and "test" where `part_of` [N] names the part each image belongs to; a part that
    the source lacks is taken out of its training images. Raises ConfigError as `split_classes` does.
    """
    own = own_rows(part_of)
    if len(own["test"]) and cfg.test_share is not None:
        raise ConfigError(
            f"data.test_share must be null: {cfg.root!r} has a test part of its own, which is the test split"
        )
    share = None if len(own["test"]) else required_test_share(cfg)
    within = split_classes(
        label_N[own["train"]], class_names, cfg, seed, test_share=share, with_val=len(own["val"]) == 0
    )
    rows = {part: own["train"][index] for part, index in within.items()}
    if len(own["val"]):
        rows["val"] = own["val"]
    if len(own["test"]):
        test = shuffled(own["test"], seed, "split", "test")
        rows["test"] = capped_by_class(label_N, test, cfg.num_test, "data.num_test")
    return {part: rows[part] for part in PARTS}


def spaced(count: int, num: int, gen: torch.Generator) -> Tensor:
    """`num` positions out of 0..count-1, one at random in each of `num` equal stretches, ascending."""
    border = (torch.arange(num + 1, dtype=torch.float64) * count / num).long()
    offset = (torch.rand(num, generator=gen, dtype=torch.float64) * border.diff()).long()
    return border[:-1] + torch.minimum(offset, border.diff() - 1)


def own_rows(part_of: Sequence[str]) -> dict[str, Tensor]:
    """Row numbers of each part that a source has itself."""
    masks = {name: torch.tensor([part == name for part in part_of], dtype=torch.bool) for name in PARTS}
    return {name: mask.nonzero()[:, 0] for name, mask in masks.items()}


def split_scalars(
    label_N: Tensor, cfg: DataConfig, seed: int, *, part_of: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Row numbers of "train", "val" and "test", spread evenly over the labels: in label order, test and then
    validation take one row out of each equal stretch of what `part_of` [N] calls "train" (null = all rows); parts that
    the source has itself stay. Labels that go round are put in order from that of the first row on, so that turning all of
    them changes no split.

    Raises ConfigError where `num_val` or `test_share` is null, or set against the source, or too little is left.
    """
    if cfg.num_val is None:
        raise ConfigError("data.num_val must be set for scalar labels, and data.val_per_label null")
    if cfg.label_period is not None:
        label_N = torch.remainder(label_N.double() - float(label_N[0]), cfg.label_period)
    own = own_rows(part_of or [PARTS[0]] * len(label_N))
    if len(own["test"]) and cfg.test_share is not None:
        raise ConfigError(
            f"data.test_share must be null: {cfg.root!r} has a test part of its own, which is the test split"
        )
    num_test = 0 if len(own["test"]) else max(1, round(required_test_share(cfg) * len(own["train"])))
    num_val = 0 if len(own["val"]) else cfg.num_val
    if num_test + num_val + 2 > len(own["train"]):
        raise ConfigError(
            f"data.root {cfg.root!r} has {len(own['train'])} images, too few for {num_test} test, {num_val} validation"
            " and at least 2 training images; add images or lower data.num_val or data.test_share"
        )
    # Rows are shuffled before the stable sort, so that equal labels come in a seeded order.
    rest = own["train"][shuffled(torch.arange(len(own["train"])), seed, "split", "ties")]
    rest = rest[torch.argsort(label_N[rest], stable=True)]
    parts = {"test": own["test"], "val": own["val"]}
    for name, num in (("test", num_test), ("val", num_val)):
        if num == 0:
            continue
        taken = torch.zeros(len(rest), dtype=torch.bool)
        taken[spaced(len(rest), num, generator(seed, "split", name))] = True
        parts[name], rest = rest[taken], rest[~taken]
    parts["test"] = capped(shuffled(parts["test"], seed, "split", "num_test"), cfg.num_test).sort().values
    parts["train"] = capped(shuffled(capped_by_label(label_N, rest, cfg), seed, "split", "num_train"), cfg.num_train)
    return parts


def capped_by_label(label_N: Tensor, rows: Tensor, cfg: DataConfig) -> Tensor:
    """At most `train_per_label` rows of each distinct label; rows are sorted by label."""
    if cfg.train_per_label is None:
        return rows
    _, place_R, count_K = torch.unique_consecutive(label_N[rows], return_inverse=True, return_counts=True)
    rank_R = torch.arange(len(rows)) - (count_K.cumsum(0) - count_K)[place_R]
    return rows[rank_R < cfg.train_per_label]
