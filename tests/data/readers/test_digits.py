from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as reference

from cgankd.config import ConfigError
from cgankd.data.readers.sources import load
from cgankd.types import Split
from tests.data.builders import data_config


def digits(**changes: object) -> dict[str, Split]:
    return load(data_config(**({"train_per_label": 5, "val_per_label": 10} | changes)), 0).splits()


def rows(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def test_counts_labels_and_disjoint_splits() -> None:
    data = load(data_config(train_per_label=5, val_per_label=10), 0)
    assert {name: len(split) for name, split in data.splits().items()} == {"train": 50, "val": 100, "test": 1197}
    assert torch.bincount(data.train.labels).tolist() == [5] * 10
    assert torch.bincount(data.val.labels).tolist() == [10] * 10
    assert data.info.class_names == tuple("0123456789") and data.train.labels.dtype == torch.int64
    train, val, test = (rows(split) for split in data.splits().values())
    assert not train & val and not train & test and not val & test


def test_test_and_validation_do_not_depend_on_the_training_size_and_training_is_nested() -> None:
    few, many = digits(train_per_label=5), digits(train_per_label=10)
    for part in ("val", "test"):
        assert torch.equal(few[part].images, many[part].images)
    assert rows(few["train"]) < rows(many["train"])
    assert len(digits(train_per_label=None)["train"]) == 500


def test_enlarged_images_keep_the_scan() -> None:
    """2x2 blocks of the enlargement average to a blurred scan, whose nearest original must be of its class."""
    split = digits()["train"]
    scans = reference().images * (255 / 16)
    small = split.images[:, 0].double().reshape(-1, 8, 2, 8, 2).mean((2, 4)).numpy()
    nearest = [int(np.abs(scans - image).mean((1, 2)).argmin()) for image in small]
    assert (reference().target[nearest] == split.labels.numpy()).mean() > 0.95
    assert int(split.images.max()) > 240 and int(split.images.min()) == 0


def test_caps_are_balanced_and_nested() -> None:
    small, large = digits(num_train=20, num_test=100), digits(num_train=35, num_test=200)
    assert torch.bincount(small["train"].labels).tolist() == [2] * 10
    assert rows(small["train"]) < rows(large["train"]) and rows(small["test"]) < rows(large["test"])
    assert digits(val_per_label=None, num_val=25)["val"].labels.bincount().tolist() == [3] * 5 + [2] * 5


def test_a_long_tail_leaves_validation_and_test_alone() -> None:
    even, tail = digits(train_per_label=50), digits(train_per_label=50, imbalance=15)
    assert tail["train"].labels.bincount().tolist() == [50, 37, 27, 20, 15, 11, 8, 6, 5, 3]
    assert rows(tail["train"]) < rows(even["train"])
    for part in ("val", "test"):
        assert torch.equal(even[part].images, tail[part].images)


def test_another_seed_gives_another_split() -> None:
    one, other = (load(data_config(train_per_label=5), seed).train for seed in (0, 1))
    assert not torch.equal(one.images, other.images)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 3}, "data.channels must be 1"),
        ({"train_per_label": 51}, "data.train_per_label must be at most 50"),
        ({"test_share": 0.2}, "data.test_share must be null"),
        ({"val_per_label": 125}, "class '.' of the digits has 1.. images"),
        ({"num_train": 9}, "data.num_train 9 is less than the 10 classes"),
        ({"task": "scalar"}, "data.task must be class for data.source digits, but is 'scalar'"),
        ({"source": "digts"}, "did you mean 'digits'"),
        ({"source": "chairs"}, "data.task must be scalar for data.source chairs, but is 'class'"),
    ],
)
def test_settings_that_cannot_be_met(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        digits(**changes)
