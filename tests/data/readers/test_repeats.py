"""Training images of rare labels, repeated up to a number of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from cgankd.config import ConfigError
from cgankd.data.readers.repeats import repeats, replicated
from cgankd.data.readers.sources import load
from tests.data.builders import data_config
from tests.pipelines.finished import made_data


def test_rows_are_repeated_in_their_order_until_each_label_has_enough() -> None:
    labels = torch.tensor([7.0, 3.0, 7.0, 3.0, 3.0, 9.5])
    assert repeats(labels, 4).tolist() == [1, 0, 2, 5, 5, 5]
    assert repeats(labels, 1).tolist() == []
    counts = Counter(torch.cat([labels, labels[repeats(labels, 5)]]).tolist())
    assert set(counts.values()) == {5}


@pytest.mark.parametrize("scalar", [False, True])
def test_only_training_images_are_repeated(scalar: bool) -> None:
    data = made_data(scalar)
    num, want = len(data.train), 40
    data = replace(data, files={"train": [f"{row}.png" for row in range(num)]})
    found = replicated(data, want)
    labels = found.train.labels
    count = np.unique(labels.numpy(), return_counts=True)[1]
    before = np.unique(data.train.labels.numpy(), return_counts=True)[1]
    np.testing.assert_array_equal(count, np.maximum(before, want))
    assert torch.equal(found.train.images[torch.arange(num)], data.train.images[torch.arange(num)])
    rows = torch.cat([torch.arange(num), repeats(data.train.labels, want)])
    assert torch.equal(found.train.images[torch.arange(len(rows))], data.train.images[rows])
    assert torch.equal(labels, data.train.labels[rows])
    assert found.val is data.val and found.test is data.test and found.info == data.info
    assert found.notes["images_repeated"] == len(rows) - num
    assert found.files["train"] == [f"{row}.png" for row in rows.tolist()], "a repeat goes by its file"
    assert replicated(data, None) is data


def test_the_source_gives_them() -> None:
    plain = {"source": "digits", "root": "cgankd/data", "train_per_label": 3, "val_per_label": 2}
    few, many = (load(data_config(**plain, **more), 0) for more in ({}, {"replicate_to": 7}))
    assert len(few.train) == 30 and len(many.train) == 70 and many.notes["images_repeated"] == 40
    assert "images_repeated" not in few.notes and few.info == many.info
    with pytest.raises(ConfigError, match=r"data\.replicate_to must be null or at least 2, but is 1"):
        data_config(**plain, replicate_to=1)
