"""`data.unlabelled: rest`: what the caps on training images leave out, and nothing else, for sources of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Dataset
from cgankd.data.readers.sources import load
from cgankd.data.readers.unlabelled import Unlabelled, read_rest
from cgankd.types import Images
from tests.data.builders import data_config, save_picture

NUM = 60


def pictures(folder: Path) -> Path:
    """60 pictures of three classes and twenty films, and a list that names class, number and film."""
    lines = ["path,label,value,film"]
    for row in range(NUM):
        save_picture(folder / "abc"[row % 3] / f"{row:02}.png", row)
        lines.append(f"{'abc'[row % 3]}/{row:02}.png,{'abc'[row % 3]},{row % 12}.5,film{row // 3}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return folder


def hdf5(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    with h5py.File(folder / "set.h5", "w") as file:
        file["images_train"] = rng.integers(0, 256, (NUM, 3, 16, 16), dtype=np.uint8)
        file["labels_train"] = np.arange(NUM) % 3
    return folder / "set.h5"


def settings(name: str, folder: Path) -> dict[str, Any]:
    """Settings of a source that caps its training images."""
    shared = {"channels": 3, "train_per_label": 4, "val_per_label": 2, "test_share": 0.2}
    grouped = {"groups": "film", "path_column": "path"}
    listed = shared | {"source": "csv", "root": str(folder / "list.csv")}
    scalar = {"task": "scalar", "val_per_label": None, "num_val": 6, "label_column": "value"}
    found: dict[str, dict[str, Any]] = {
        "digits": {"source": "digits", "train_per_label": 5, "val_per_label": 3},
        "long tail": {"source": "digits", "train_per_label": 9, "imbalance": 3.0},
        "hands": shared | {"source": "hands", "image_size": 16, "num_train": 20},
        "image-folder": shared | {"source": "image-folder", "root": str(folder)},
        "csv": listed | grouped | {"label_column": "label"},
        "csv scalar": listed | scalar | {"path_column": "path", "train_per_label": 2, "num_train": 10},
        "csv scalar, groups": listed | grouped | scalar | {"train_per_label": None, "num_train": 10},
        "hdf5": shared | {"source": "hdf5", "num_train": 5},
        "repeats": shared | {"source": "image-folder", "root": str(folder), "replicate_to": 6},
    }
    return found[name]


NAMES = [
    *("digits", "long tail", "hands", "image-folder", "csv", "csv scalar", "csv scalar, groups", "hdf5", "repeats"),
]


def keys(images: Images) -> set[bytes]:
    return {image.numpy().tobytes() for image in images[:]}


def rest_of(cfg: DataConfig, data: Dataset, seed: int = 3) -> Unlabelled:
    return read_rest(cfg, seed, data.train.images)


@pytest.mark.parametrize("name", NAMES)
def test_labelled_rest_validation_and_test_make_up_the_whole(name: str, tmp_path: Path) -> None:
    values = settings(name, pictures(tmp_path))
    if name == "hdf5":
        values["root"] = str(hdf5(tmp_path))
    cfg = data_config(**values, unlabelled="rest")
    data = load(cfg, 3)
    capless = {"train_per_label": None, "num_train": None, "imbalance": None, "replicate_to": None}
    whole = load(data_config(**(values | capless)), 3)
    rest = rest_of(cfg, data)
    known = {part: keys(split.images) for part, split in data.splits().items()}
    assert known["val"] == keys(whole.val.images) and known["test"] == keys(whole.test.images)
    found = keys(rest.images)
    assert found and len(found) == len(rest) == len(rest.names) == len(set(rest.names))
    assert not found & (known["train"] | known["val"] | known["test"])
    assert found | known["train"] == keys(whole.train.images)
    if "csv" in name or name == "image-folder":
        first = np.asarray(Image.open(tmp_path / rest.names[0] if not Path(rest.names[0]).is_file() else rest.names[0]))
        assert (rest.images[0].numpy().transpose(1, 2, 0) == first).all()


def test_a_cap_takes_a_seeded_subset() -> None:
    cfg = data_config(train_per_label=5, unlabelled="rest")
    data = load(cfg, 0)
    whole = read_rest(cfg, 0, data.train.images)
    some, again, other = (
        read_rest(data_config(train_per_label=5, unlabelled="rest", num_unlabelled=7), seed, data.train.images)
        for seed in (0, 0, 1)
    )
    assert len(whole) == 450 and len(some) == 7 and keys(some.images) < keys(whole.images)
    assert some.names == again.names and torch.equal(some.images, again.images) and some.names != other.names


def test_pixels_that_are_there_twice_are_counted(tmp_path: Path) -> None:
    """A double of a labelled image is no labelled image: it stays, for `prepare` to name it."""
    for row in range(12):
        for label in "ab":
            save_picture(tmp_path / label / f"{row:02}.png", 0 if label == "a" else row + 1)
    shared = {"source": "image-folder", "root": str(tmp_path), "channels": 3, "test_share": 0.2}
    cfg = data_config(**shared, train_per_label=3, unlabelled="rest")
    data = load(cfg, 0)
    rest = read_rest(cfg, 0, data.train.images)
    assert len(rest) == 24 - 2 * (2 + 2 + 3) and len(keys(rest.images)) == 1 + 5


def test_where_nothing_is_left_that_is_said() -> None:
    with pytest.raises(ConfigError, match=r"data\.train_per_label must be set where data\.unlabelled is rest"):
        data_config(unlabelled="rest")
    cfg = data_config(train_per_label=50, unlabelled="rest")
    with pytest.raises(
        ConfigError, match=r"data\.unlabelled is rest, but all 500 training images .* digits are labelled"
    ):
        read_rest(cfg, 0, load(cfg, 0).train.images)
