"""Labels of other turns, and which part of a circle labels cover, against hand-made cases and brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cgankd.config import ConfigError
from cgankd.data.dataset import make_dataset
from cgankd.data.readers.splits import split_scalars
from cgankd.data.turns import brought, covered
from cgankd.types import Split
from tests.data.builders import data_config

SCALARS = {"task": "scalar", "source": "csv", "val_per_label": None, "num_val": 6, "test_share": 0.2}


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20), st.sampled_from([0.0, -180.0, 17.5]))
def test_labels_are_brought_to_one_turn(labels: list[float], low: float) -> None:
    y = torch.tensor(labels, dtype=torch.float32)
    found = brought(y, low, 360.0)
    assert ((found >= low) & (found < low + 360)).all()
    turns = (found.double() - y.double()) / 360
    np.testing.assert_allclose(turns - turns.round(), 0, atol=1e-5)
    assert torch.equal(brought(found, low, 360.0), found)


@pytest.mark.parametrize(
    ("labels", "period", "ends"),
    [
        (np.arange(0, 360, 5), 360.0, (0, 360)),
        (np.arange(-180, 180, 5), 360.0, (-180, 180)),
        (np.arange(0, 10, 0.1), 10.0, (0, 10)),
        (np.arange(-80, 81), 360.0, (-80, 80)),
        (np.arange(350, 391), 360.0, (-10, 30)),  # 350 to 359 and 0 to 30: no seam within
        (np.arange(0, 91, 3), 360.0, (0, 90)),
        (np.arange(0, 3600, 7), 360.0, (0, 360)),  # a heading that was added up
        ([0.0, 120.0, 240.0], 360.0, (0, 360)),
    ],
)
def test_the_part_that_labels_cover(labels: list[float], period: float, ends: tuple[float, float]) -> None:
    y = torch.as_tensor(np.asarray(labels), dtype=torch.float32)
    assert covered(y, period) == pytest.approx(ends)
    inside = brought(y, ends[0], period)
    assert float(inside.min()) >= ends[0] and float(inside.max()) <= ends[1] + 1e-4


def test_a_given_end_stays_and_the_other_is_a_turn_away() -> None:
    y = torch.arange(10.0)
    assert covered(y, 24.0, low=6.0) == (6.0, 30.0)
    assert covered(y, 24.0, high=12.0) == (-12.0, 12.0)
    assert covered(y, 24.0, low=0.0, high=12.0) == (0.0, 12.0)


def splits(labels: list[float]) -> dict[str, Split]:
    y = torch.tensor(labels)
    return {name: Split(torch.zeros(len(y), 1, 16, 16, dtype=torch.uint8), y) for name in ("train", "val", "test")}


def test_a_data_set_says_where_its_turn_begins_and_what_was_moved() -> None:
    labels = [float(value) for value in range(0, 361, 10)]
    made = make_dataset(data_config(**SCALARS, label_period=360.0), splits(labels), label_unit="degrees")
    assert (made.info.label_min, made.info.label_max, made.info.label_answer) == (0.0, 360.0, "circle")
    assert made.train.labels.tolist() == [*labels[:-1], 0.0]
    assert made.account.lines == (
        "labels go round in 360; a turn begins at 0",
        "3 labels of other turns brought to this one, such as 360 is now 0 (data.label_period)",
    )
    part = make_dataset(data_config(**SCALARS, label_period=360.0), splits([10.0, 20.0, 90.0]), label_unit="")
    assert part.account.lines == ("labels go round in 360; a turn begins at 10, and labels cover it up to 90",)
    plain = make_dataset(data_config(**SCALARS), splits(labels), label_unit="degrees")
    assert plain.account.lines == () and plain.info.label_answer == "scalar" and plain.train.labels.tolist() == labels
    scalar = make_dataset(
        data_config(**SCALARS, label_period=360.0, label_answer="scalar"), splits(labels), label_unit="degrees"
    )
    assert scalar.info == replace(made.info, label_answer="scalar")


def test_settings_that_do_not_go_together_are_refused() -> None:
    for changes, words in (
        ({"label_period": 100.0, "label_min": 0.0, "label_max": 180.0}, "at least data.label_max - label_min"),
        ({"label_period": 0.0}, "data.label_period must be null or positive"),
        ({"label_answer": "circle"}, "data.label_answer must be null or scalar without data.label_period"),
    ):
        with pytest.raises(ConfigError, match=words):
            data_config(**SCALARS, **changes)
    with pytest.raises(ConfigError, match="data.label_answer must be null for class labels"):
        data_config(label_answer="scalar")


def test_turning_all_labels_changes_no_split() -> None:
    gen = torch.Generator().manual_seed(0)
    y = torch.randint(0, 80, (100,), generator=gen) / 8  # turns of 10 are exact
    cfg = data_config(**SCALARS, label_period=10.0, train_per_label=2)
    plain = split_scalars(y, cfg, 3)
    for turn in (2.5, 7.125):
        turned = split_scalars(torch.remainder(y + turn, 10.0), cfg, 3)
        assert {name: rows.tolist() for name, rows in turned.items()} == {n: rows.tolist() for n, rows in plain.items()}
    assert len(plain["val"]) == 6 and len(plain["test"]) == 20
