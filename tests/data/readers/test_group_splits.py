"""Groups are never divided between training, validation and test, whatever is asked for, and counts come near."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cgankd.config import ConfigError
from cgankd.data.readers.group_splits import class_rows, scalar_rows
from cgankd.data.readers.groups import Grouping
from cgankd.data.readers.splits import split_parts
from cgankd.data.readers.whole_groups import Wanted, take_groups
from cgankd.rng import generator
from tests.data.builders import data_config

CLASS_SETTINGS: list[dict[str, Any]] = [
    {"val_per_label": 2},
    {"val_per_label": None, "num_val": 13},
    {"val_per_label": None, "val_share": 0.2},
    {"val_per_label": None, "val_share": 0.15, "val_floor": 3, "num_train": 17},
    {"val_per_label": 3, "train_per_label": 4, "num_test": 9},
    {"val_per_label": 2, "train_per_label": 6, "imbalance": 3.0},
]
SCALAR_SETTINGS: list[dict[str, Any]] = [
    {"num_val": 10},
    {"num_val": 25, "num_train": 11},
    {"num_val": 7, "train_per_label": 1, "num_test": 5},
]


def grouping(number_N: Tensor) -> Grouping:
    kept, place_N = torch.unique(number_N, return_inverse=True)
    return Grouping(place_N, tuple(f"g{number}" for number in kept.tolist()), "column 'film'")


def films(seed: int, num_classes: int, *, mixed: bool) -> tuple[Tensor, Tensor]:
    """Labels and groups of very different sizes; `mixed` groups hold several classes."""
    gen = generator("films", seed)
    sizes = (torch.rand(12 * num_classes, generator=gen) ** 3 * 12).long() + 1
    group_N = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    label_N = torch.randint(num_classes, (len(group_N),), generator=gen) if mixed else group_N % num_classes
    return label_N, group_N


def check_whole(rows: dict[str, Tensor], group_N: Tensor) -> None:
    inside = [set(group_N[rows[part]].tolist()) for part in ("train", "val", "test")]
    assert all(inside) and not inside[0] & inside[1] and not inside[0] & inside[2] and not inside[1] & inside[2]
    everything = torch.cat(list(rows.values()))
    assert len(torch.unique(everything)) == len(everything)


@pytest.mark.parametrize("changes", CLASS_SETTINGS, ids=str)
@pytest.mark.parametrize("mixed", [False, True])
def test_no_group_of_classes_is_divided(changes: dict[str, Any], mixed: bool) -> None:
    for seed in range(8):
        label_N, group_N = films(seed, 4, mixed=mixed)
        names, cfg = list("abcd"), data_config(source="csv", test_share=0.2, groups="film", **changes)
        rows, account = class_rows(label_N, None, names, cfg, seed, grouping(group_N))
        check_whole(rows, group_N)
        for part, found in rows.items():
            assert torch.bincount(label_N[found], minlength=4).min() >= 1, part
        assert (
            account.counts["groups"] == len(torch.unique(group_N)) and "groups: 48 (column 'film')" in account.lines[0]
        )
        again, _ = class_rows(label_N, None, names, cfg, seed, grouping(group_N))
        assert all(torch.equal(rows[part], again[part]) for part in rows)
        if cfg.num_train is not None:
            assert len(rows["train"]) == cfg.num_train
        if cfg.train_per_label is not None and cfg.imbalance is None:
            assert torch.bincount(label_N[rows["train"]]).tolist() == [cfg.train_per_label] * 4
        if cfg.num_test is not None:
            assert len(rows["test"]) == cfg.num_test


@pytest.mark.parametrize("changes", SCALAR_SETTINGS, ids=str)
def test_no_group_of_scalars_is_divided(changes: dict[str, Any]) -> None:
    for seed in range(8):
        _, group_N = films(seed, 4, mixed=False)
        label_N = torch.rand(len(group_N), generator=generator("labels", seed)) * 90
        cfg = data_config(**({"task": "scalar", "source": "csv", "test_share": 0.2, "val_per_label": None} | changes))
        rows, account = scalar_rows(label_N, cfg, seed, grouping(group_N))
        check_whole(rows, group_N)
        assert abs(len(rows["val"]) - cfg.num_val) <= 2 and account.counts["groups_val"] >= 1
        if cfg.num_test is None:
            assert abs(len(rows["test"]) - round(0.2 * len(label_N))) <= 2
            assert abs(float(label_N[rows["test"]].mean()) - float(label_N.mean())) < 15


def test_test_and_validation_do_not_depend_on_how_many_train_and_less_is_part_of_more() -> None:
    label_N, group_N = films(3, 4, mixed=True)

    def split(**changes: Any) -> dict[str, Tensor]:
        cfg = data_config(source="csv", test_share=0.2, **changes)
        return class_rows(label_N, None, list("abcd"), cfg, 1, grouping(group_N))[0]

    full, few, fewer = split(), split(num_train=40), split(num_train=12)
    for other in (few, fewer, split(train_per_label=3)):
        assert torch.equal(full["val"], other["val"]) and torch.equal(full["test"], other["test"])
    assert set(fewer["train"].tolist()) < set(few["train"].tolist()) < set(full["train"].tolist())
    other = class_rows(label_N, None, list("abcd"), data_config(source="csv", test_share=0.2), 2, grouping(group_N))[0]
    assert set(other["test"].tolist()) != set(full["test"].tolist())


def test_groups_of_one_image_give_the_very_counts() -> None:
    label_N = torch.arange(123) % 3
    for changes in CLASS_SETTINGS[:3]:
        cfg = data_config(source="csv", test_share=0.2, **changes)
        rows, account = class_rows(label_N, None, list("abc"), cfg, 0, grouping(torch.arange(123)))
        plain = split_parts(label_N, ["train"] * 123, list("abc"), cfg, 0)
        for part in rows:
            assert torch.bincount(label_N[rows[part]]).tolist() == torch.bincount(label_N[plain[part]]).tolist()
        assert not any("in place of" in line for line in account.lines)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=3, max_size=9), st.floats(0.1, 0.5), st.integers(0, 9))
def test_few_groups_come_as_near_as_moving_one_or_swapping_two_could(sizes: list[int], share: float, seed: int) -> None:
    group_N = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    want = share * len(group_N)
    mask = take_groups(group_N, torch.zeros(len(group_N), dtype=torch.int64), Wanted([want], 1, True), seed)
    inside = set(group_N[mask].tolist())
    assert 1 <= len(inside) < len(sizes) and not inside & set(group_N[~mask].tolist())
    off = abs(int(mask.sum()) - want)
    for moved in range(len(sizes)):
        other = inside ^ {moved}
        if 1 <= len(other) < len(sizes):
            assert off <= abs(sum(sizes[group] for group in other) - want) + 1e-6
    if 3 * off > 0.05 * want:  # the kind and all images, which weigh twice
        for one, two in product(inside, set(range(len(sizes))) - inside):
            assert off <= abs(sum(sizes[group] for group in inside ^ {one, two}) - want) + 1e-6


def test_what_whole_groups_miss_is_said() -> None:
    group_N = torch.repeat_interleave(torch.arange(8), torch.tensor([9, 9, 9, 9, 9, 9, 9, 9]))
    label_N = group_N % 2
    cfg = data_config(source="csv", val_per_label=4, test_share=0.2)
    rows, account = class_rows(label_N, None, ["cat", "dog"], cfg, 0, grouping(group_N))
    assert [len(rows[part]) for part in ("train", "val", "test")] == [36, 18, 18]
    assert (
        "test: 18 images in place of 14 (+4), as groups stay whole; of one class +2 at most ('cat': 9 of 7)"
        in account.lines
    )
    assert (
        "validation: 18 images in place of 8 (+10), as groups stay whole; of one class +5 at most ('cat': 9 of 4)"
        in (account.lines)
    )


def test_splits_of_the_source_stay_and_what_they_divide_is_said() -> None:
    group_N = torch.arange(60) % 12
    label_N = torch.arange(60) // 6 % 2
    parts = ["test" if row >= 50 else "train" for row in range(60)]
    rows, account = class_rows(label_N, parts, ["cat", "dog"], data_config(source="image-folder"), 0, grouping(group_N))
    assert sorted(rows["test"].tolist()) == list(range(50, 60)) and account.counts["groups_divided"] == 10
    assert not set(group_N[rows["train"]].tolist()) & set(group_N[rows["val"]].tolist())
    assert any(
        line.startswith("WARNING: the splits that the source has itself divide 10 groups ('g2'")
        for line in account.lines
    )


@pytest.mark.parametrize(
    ("groups", "changes", "words"),
    [
        (
            [0] * 20 + [1] * 10 + [2] * 10,
            {},
            r"the 20 images of class 'cat' \(and 1 more classes\) lie in 1 group of data.groups",
        ),
        (
            [0, 1, 2, 3] * 5 + [9] * 10 + [8] * 10,
            {},
            "the 20 images of class 'dog' lie in 2 groups of data.groups, but must be",
        ),
        (list(range(40)), {"val_per_label": 18}, "class 'cat' has 20 images but needs 23"),
        ([0] * 18 + [1, 2] + [3] * 18 + [4, 5], {"train_per_label": 15, "val_per_label": 1}, ""),
    ],
)
def test_too_few_groups_are_refused(groups: list[int], changes: dict[str, Any], words: str) -> None:
    label_N, cfg = torch.arange(40) // 20, data_config(source="csv", test_share=0.2, **changes)
    if not words:
        rows, _ = class_rows(label_N, None, ["cat", "dog"], cfg, 0, grouping(torch.tensor(groups)))
        assert [len(rows[part]) for part in ("train", "val", "test")] == [30, 2, 2]
        return
    with pytest.raises(ConfigError, match=words):
        class_rows(label_N, None, ["cat", "dog"], cfg, 0, grouping(torch.tensor(groups)))


def test_training_images_that_whole_groups_do_not_leave_are_named() -> None:
    label_N, group_N = torch.arange(60) // 30, torch.arange(60) // 10
    cfg = data_config(source="csv", test_share=0.2, train_per_label=20)
    with pytest.raises(ConfigError, match="whole groups leave 10 training images of class 'cat', but 20 are needed"):
        class_rows(label_N, None, ["cat", "dog"], cfg, 0, grouping(group_N))


@pytest.mark.parametrize(
    ("num", "changes", "words"),
    [
        (2, {"num_val": 5}, "finds 2 groups in 'unused'; training, validation and test need"),
        (9, {"num_val": None, "val_per_label": 2}, "data.num_val must be set for scalar"),
        (9, {"num_val": 60}, "has 60 images, too few for 12 test, 60 validation"),
        (9, {"num_val": 5, "test_share": None}, "data.test_share must be set"),
    ],
)
def test_scalar_errors(num: int, changes: dict[str, Any], words: str) -> None:
    base = {"task": "scalar", "source": "csv", "test_share": 0.2, "val_per_label": None}
    with pytest.raises(ConfigError, match=words):
        scalar_rows(torch.arange(60.0), data_config(**(base | changes)), 0, grouping(torch.arange(60) % num))
