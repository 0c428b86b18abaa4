from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgankd.config import ConfigError
from cgankd.data.readers.splits import capped_by_class, even_shares, spaced, split_classes, split_parts, split_scalars
from cgankd.rng import generator
from tests.data.builders import data_config


@given(st.integers(0, 200), st.integers(1, 30))
def test_even_shares(total: int, parts: int) -> None:
    shares = even_shares(total, parts)
    assert sum(shares) == total and len(shares) == parts and max(shares) - min(shares) <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(8, 30), min_size=2, max_size=5), st.integers(0, 99), st.sampled_from([None, 0.1, 0.4]))
def test_class_splits_are_disjoint_stratified_and_nested(sizes: list[int], seed: int, share: float | None) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    names = [f"c{k}" for k in range(len(sizes))]
    full = split_classes(labels, names, data_config(), seed, test_share=share)
    everything = torch.cat(list(full.values()))
    assert everything.sort().values.tolist() == list(range(len(labels)))
    for k, size in enumerate(sizes):
        assert int((labels[full["val"]] == k).sum()) == 2
        expected = 0 if share is None else max(1, round(share * size))
        assert int((labels[full["test"]] == k).sum()) == expected
    few = split_classes(labels, names, data_config(train_per_label=2), seed, test_share=share)
    assert torch.equal(few["test"], full["test"]) and torch.equal(few["val"], full["val"])
    assert torch.bincount(labels[few["train"]]).tolist() == [2] * len(sizes)
    assert set(few["train"].tolist()) <= set(full["train"].tolist())


def test_class_too_small_names_it_and_what_it_needs() -> None:
    labels = torch.tensor([0] * 20 + [1] * 6)
    with pytest.raises(ConfigError, match=r"class 'owl' has 6 images but needs 7 \(1 test, 2 validation, 4 training\)"):
        split_classes(labels, ["cat", "owl"], data_config(train_per_label=4), 0, test_share=0.2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.data())
def test_caps_by_class_are_nested_proportional_and_leave_no_class_out(sizes: list[int], data: st.DataObject) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    rows = torch.randperm(len(labels), generator=generator("rows", *sizes))
    cap = data.draw(st.integers(len(sizes), len(labels)))
    kept = capped_by_class(labels, rows, cap, "data.num_train")
    assert len(kept) == cap == len(torch.unique(kept))
    counts = torch.bincount(labels[kept], minlength=len(sizes)).double()
    assert int(counts.min()) >= 1
    wanted = torch.tensor(sizes).double() * cap / len(labels)
    assert float((counts - wanted).abs().max()) <= len(sizes) + 1
    smaller = data.draw(st.integers(len(sizes), cap))
    assert set(capped_by_class(labels, rows, smaller, "x").tolist()) <= set(kept.tolist())
    assert torch.equal(capped_by_class(labels, rows, None, "x"), rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.data())
def test_spaced_takes_one_of_each_equal_stretch(count: int, data: st.DataObject) -> None:
    num = data.draw(st.integers(1, count))
    places = spaced(count, num, generator(1, count, num))
    border = [count * i // num for i in range(num + 1)]
    assert all(low <= p < high for low, p, high in zip(border, places.tolist(), border[1:], strict=False))


def scalars(**changes: object) -> dict[str, torch.Tensor]:
    cfg = data_config(**({"val_per_label": None, "num_val": 20, "test_share": 0.25} | changes))
    return split_scalars(torch.rand(200, generator=generator("labels")) ** 2 * 80, cfg, 4)


def test_scalar_splits_cover_the_labels_evenly() -> None:
    labels = torch.rand(200, generator=generator("labels")) ** 2 * 80
    parts = scalars()
    assert {name: len(part) for name, part in parts.items()} == {"test": 50, "val": 20, "train": 130}
    assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(200))
    rank = labels.argsort().argsort()
    assert (rank[parts["test"]].sort().values // 4).tolist() == list(range(50))
    for part in parts.values():
        place = rank[part].sort().values / 200
        assert float((place - torch.arange(len(part)) / len(part)).abs().max()) < 1.1 / len(part) + 0.02
    fewer = scalars(num_train=30, num_test=10)
    assert set(fewer["train"].tolist()) < set(parts["train"].tolist())
    assert set(fewer["test"].tolist()) < set(parts["test"].tolist())
    assert torch.equal(fewer["val"], parts["val"])


def test_train_per_label_caps_each_distinct_scalar() -> None:
    labels = torch.tensor([10.0, 20.0, 30.0, 40.0]).repeat(10)
    cfg = data_config(val_per_label=None, num_val=4, test_share=0.1, train_per_label=3)
    train = split_scalars(labels, cfg, 0)["train"]
    assert torch.unique(labels[train], return_counts=True)[1].tolist() == [3] * 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_val": None, "val_per_label": 2}, "data.num_val must be set for scalar"),
        ({"test_share": None}, "data.test_share must be set"),
        ({"num_val": 149}, "has 200 images, too few for 50 test, 149 validation"),
    ],
)
def test_scalar_errors(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        scalars(**changes)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(8, 30), min_size=2, max_size=4), st.integers(0, 99), st.data())
def test_smaller_class_protocols_are_part_of_larger_ones(sizes: list[int], seed: int, data: st.DataObject) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    parts = ["test" if i % 5 == 0 else "train" for i in range(len(labels))]
    names = [f"c{k}" for k in range(len(sizes))]

    def train(**changes: int) -> set[int]:
        return set(split_parts(labels, parts, names, data_config(**changes), seed)["train"].tolist())

    few, many = sorted(data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4))))
    assert train(train_per_label=few) <= train(train_per_label=many) <= train()
    few, many = sorted(data.draw(st.tuples(st.integers(len(sizes), 40), st.integers(len(sizes), 40))))
    assert train(num_train=few) <= train(num_train=many) <= train()
    assert train(num_train=few, train_per_label=3) <= train(num_train=many, train_per_label=3)
    assert len(train(num_train=few)) == min(few, len(train()))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=30, max_size=60), st.integers(0, 99), st.booleans(), st.data())
def test_smaller_scalar_protocols_are_part_of_larger_ones(
    values: list[int], seed: int, own_test: bool, data: st.DataObject
) -> None:
    labels = torch.tensor(values, dtype=torch.float32)
    parts = ["test" if own_test and i % 5 == 0 else "train" for i in range(len(values))]

    def split(**changes: int) -> dict[str, torch.Tensor]:
        base = {"val_per_label": None, "num_val": 4, "test_share": None if own_test else 0.2}
        return split_scalars(labels, data_config(**(base | changes)), seed, part_of=parts)

    def train(**changes: int) -> set[int]:
        return set(split(**changes)["train"].tolist())

    full = split()
    assert torch.cat(list(full.values())).sort().values.tolist() == list(range(len(values)))
    if own_test:
        assert full["test"].tolist() == list(range(0, len(values), 5))
    few, many = sorted(data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5))))
    assert train(train_per_label=few) <= train(train_per_label=many) <= train()
    few, many = sorted(data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40))))
    assert train(num_train=few) <= train(num_train=many) <= train()
    assert torch.equal(split(num_train=few)["test"], full["test"])


def test_own_validation_stays_and_own_test_forbids_a_share() -> None:
    labels = torch.arange(30, dtype=torch.float32)
    parts = ["train"] * 20 + ["val"] * 5 + ["test"] * 5
    cfg = data_config(val_per_label=None, num_val=2)
    rows = split_scalars(labels, cfg, 0, part_of=parts)
    assert rows["val"].tolist() == list(range(20, 25)) and rows["test"].tolist() == list(range(25, 30))
    assert sorted(rows["train"].tolist()) == list(range(20))
    with pytest.raises(ConfigError, match="data.test_share must be null"):
        split_scalars(labels, data_config(val_per_label=None, num_val=2, test_share=0.2), 0, part_of=parts)


def by_class(labels: torch.Tensor, rows: torch.Tensor, num: int) -> list[int]:
    return torch.bincount(labels[rows], minlength=num).tolist()


def test_validation_in_proportion_has_a_floor_that_leaves_small_classes_their_images() -> None:
    """Of 1000, 20, 11 and 3 images that test leaves: a fifth; the floor of five; a third of eleven; one of three."""
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor([1250, 25, 14, 4]))
    cfg = data_config(val_per_label=None, val_share=0.2)
    rows = split_classes(labels, list("abcd"), cfg, 0, test_share=0.2)
    assert by_class(labels, rows["test"], 4) == [250, 5, 3, 1]
    assert by_class(labels, rows["val"], 4) == [200, 5, 3, 1]
    assert by_class(labels, rows["train"], 4) == [800, 15, 8, 2]
    none = split_classes(
        labels, list("abcd"), data_config(val_per_label=None, val_share=0.2, val_floor=1), 0, test_share=0.2
    )
    assert by_class(labels, none["val"], 4) == [200, 4, 2, 1]


def test_an_image_alone_is_not_enough_for_validation_in_proportion() -> None:
    labels = torch.tensor([0] * 20 + [1])
    with pytest.raises(ConfigError, match=r"class 'owl' has 1 images but needs 2 .*data.val_share, data.val_floor"):
        split_classes(labels, ["cat", "owl"], data_config(val_per_label=None, val_share=0.2), 0, test_share=None)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.floats(1, 40), st.integers(2, 20))
def test_a_long_tail_falls_geometrically_and_is_part_of_the_even_set(classes: int, ratio: float, most: int) -> None:
    labels = torch.repeat_interleave(torch.arange(classes), 40)
    names = [f"c{k}" for k in range(classes)]
    even = split_classes(labels, names, data_config(train_per_label=most), 3, test_share=0.2)
    tail = split_classes(labels, names, data_config(train_per_label=most, imbalance=ratio), 3, test_share=0.2)
    assert torch.equal(even["test"], tail["test"]) and torch.equal(even["val"], tail["val"])
    assert set(tail["train"].tolist()) <= set(even["train"].tolist())
    counts = by_class(labels, tail["train"], classes)
    wanted = [most / ratio ** (k / (classes - 1)) for k in range(classes)]
    assert counts[0] == most and all(abs(c - max(1.0, w)) <= 0.5 for c, w in zip(counts, wanted, strict=True))
