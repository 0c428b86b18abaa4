from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cgankd.config import ConfigError
from cgankd.data.dataset import Dataset
from cgankd.data.readers import hdf5_sets as store_sets
from cgankd.data.readers.sources import load
from tests.data.builders import data_config

ANGLES = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 89.9])
PER_ANGLE = 30
SCALAR = {"task": "scalar", "channels": 3, "val_per_label": None, "num_val": 8}


@pytest.fixture(autouse=True)
def small_rc49(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_sets, "RC49_ANGLES", len(ANGLES))
    monkeypatch.setattr(store_sets, "RC49_CHAIRS", PER_ANGLE)


def read(source: str, root: Path, seed: int = 0, **changes: object) -> Dataset:
    return load(data_config(**(SCALAR | {"source": source, "root": str(root)} | changes)), seed)


def pictures(seed: int, num: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, 3, size, size), np.uint8)


def write_rc49(path: Path) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(ANGLES, PER_ANGLE)
    order = np.random.default_rng(0).permutation(len(labels))
    images = pictures(1, len(labels))
    with h5py.File(path, "w") as file:
        file["images"], file["labels"] = images, labels[order]
        file["types"] = np.arange(len(labels)) % 49
        file["notes"] = "a text is not read, so it does no harm"
    return images, labels[order]


def keys(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_rc49(tmp_path: Path) -> None:
    images, labels = write_rc49(tmp_path / "RC-49_64x64.h5")
    data = read("rc49", tmp_path, train_per_label=5)
    angle_of = {image.tobytes(): np.float32(label) for image, label in zip(images, labels, strict=True)}
    for split in data.splits().values():
        assert [angle_of[x.numpy().tobytes()] for x in split.images] == split.labels.tolist()
    odd = [np.float32(a) for a in (0.1, 0.3, 0.5, 89.9)]
    found, count = torch.unique(data.train.labels, return_counts=True)
    assert found.tolist() == odd and count.tolist() == [5] * 4
    assert set(data.val.labels.tolist()) <= set(odd) and len(data.val) == 8
    # All of the even angles, and of the odd ones what is neither among the 25 reserved nor validation.
    assert len(data.test) == 2 * PER_ANGLE + 4 * (PER_ANGLE - 25) - 8
    assert not keys(data.test.images) & (keys(data.train.images) | keys(data.val.images))


def test_rc49_protocols_share_test_and_are_nested(tmp_path: Path) -> None:
    path = tmp_path / "mine.h5"
    write_rc49(path)
    few, many = read("rc49", path, train_per_label=5), read("rc49", path, train_per_label=15)
    assert keys(few.train.images) < keys(many.train.images) < keys(read("rc49", path).train.images)
    assert torch.equal(few.test.images, many.test.images) and torch.equal(few.val.images, many.val.images)
    assert keys(read("rc49", path, num_train=9).train.images) < keys(read("rc49", path, num_train=30).train.images)
    assert not torch.equal(few.test.images, read("rc49", path, seed=1, train_per_label=5).test.images)


def test_rc49_own_training_rows(tmp_path: Path) -> None:
    path = tmp_path / "RC-49_64x64.h5"
    images, labels = write_rc49(path)
    own = np.flatnonzero(np.isin(labels, [0.1, 0.5]))
    with h5py.File(path, "a") as file:
        file["indx_train"] = own
    data = read("rc49", path, train_per_label=3)
    assert keys(data.train.images) < {images[row].tobytes() for row in own}
    with pytest.raises(ConfigError, match="data.train_per_label must be at most 25"):
        read("rc49", path, train_per_label=26)
    with h5py.File(path, "a") as file:
        file["indx_train"][0] = np.flatnonzero(labels == 0.2)[0]
    with pytest.raises(ConfigError, match="'indx_train' names a row twice or an angle with an even last digit"):
        read("rc49", path)
    with h5py.File(path, "a") as file:
        file["indx_train"][0] = 10**6
    with pytest.raises(ConfigError, match="'indx_train' names rows that the file does not have"):
        read("rc49", path)


def replace_in(path: Path, name: str, value: object) -> None:
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = value


def test_an_incomplete_rc49_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "RC-49_64x64.h5"
    images, labels = write_rc49(path)
    (row,) = np.flatnonzero(labels == 0.3)[:1]
    replace_in(path, "labels", np.delete(labels, row))
    replace_in(path, "images", np.delete(images, row, axis=0))
    words = (
        r"179 images at 6 angles, 29 of them at 0.3 degrees, instead of 30 at each of 6; fetch .*data.source to hdf5"
    )
    with pytest.raises(ConfigError, match=words):
        read("rc49", path)
    replace_in(path, "labels", labels[labels != 0.3])
    replace_in(path, "images", images[labels != 0.3])
    with pytest.raises(ConfigError, match=r"has 150 images at 5 angles, instead of 30 at each of 6"):
        read("rc49", path)
    monkeypatch.undo()
    assert store_sets.RC49_ANGLES * store_sets.RC49_CHAIRS == 44_051


def test_bad_rc49(tmp_path: Path) -> None:
    path = tmp_path / "RC-49_64x64.h5"
    with pytest.raises(ValueError, match=r"RC-49_64x64.h5 does not exist; fetch or write the file again"):
        read("rc49", tmp_path)
    images, labels = write_rc49(path)
    with pytest.raises(ConfigError, match="data.num_val must be at most 20"):
        read("rc49", path, num_val=21)
    with pytest.raises(ConfigError, match="data.image_size must divide the 16x16"):
        read("rc49", path, image_size=32)
    for wrong, words in ((0.15, "label 0.15 of row 3"), (np.nan, "label nan of row 3"), (90.0, "label 90 of row 3")):
        changed = labels.copy()
        changed[3] = wrong
        replace_in(path, "labels", changed)
        with pytest.raises(ConfigError, match=words):
            read("rc49", path)
    replace_in(path, "labels", labels[:-1])
    with pytest.raises(ValueError, match=r"'labels' has shape \(179,\), but 'images' has 180 rows"):
        read("rc49", path)
    replace_in(path, "labels", labels)
    replace_in(path, "images", images.astype(np.float32))
    with pytest.raises(ValueError, match="'images' has an unexpected type float32"):
        read("rc49", path)
    replace_in(path, "images", h5py.SoftLink("/labels"))
    with pytest.raises(ValueError, match="'images' is a link to somewhere else, which is not followed"):
        read("rc49", path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="is no whole HDF5 file"):
        read("rc49", path)


def write_hdf5(
    path: Path, *, by_pixel: bool = False, parts: tuple[str, ...] = ("train", "test"), classes: int = 0
) -> dict[bytes, float]:
    known = {}
    with h5py.File(path, "w") as file:
        for place, part in enumerate(parts):
            images = pictures(place, 40)
            labels = np.arange(40) % classes * 10 if classes else np.arange(40) * 0.5
            file[f"images_{part}"] = images.transpose(0, 2, 3, 1) if by_pixel else images
            file[f"labels_{part}"] = labels
            known |= {f"{part}".encode() + x.tobytes(): float(y) for x, y in zip(images, labels, strict=True)}
    return known


@pytest.mark.parametrize("by_pixel", [False, True])
@pytest.mark.parametrize("parts", [("train", "test"), ("train", "valid", "test"), ("train",)])
def test_hdf5_scalars(tmp_path: Path, by_pixel: bool, parts: tuple[str, ...]) -> None:
    known = write_hdf5(tmp_path / "set.h5", by_pixel=by_pixel, parts=parts)
    data = read("hdf5", tmp_path / "set.h5", test_share=None if "test" in parts else 0.25)
    home = {
        "train": b"train",
        "val": b"valid" if "valid" in parts else b"train",
        "test": b"test" if "test" in parts else b"train",
    }
    for name, split in data.splits().items():
        assert [known[home[name] + x.numpy().tobytes()] for x in split.images] == split.labels.tolist()
    sizes = {name: len(split) for name, split in data.splits().items()}
    assert sizes["val"] == (40 if "valid" in parts else 8) and sizes["test"] == (40 if "test" in parts else 10)
    assert sum(sizes.values()) == 40 * len(parts)


def test_hdf5_classes(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    known = write_hdf5(path, classes=4)
    changes = {"task": "class", "val_per_label": 2, "num_val": None}
    data = read("hdf5", path, **changes)
    assert data.info.class_names == ("0", "10", "20", "30")
    assert [known[b"test" + x.numpy().tobytes()] for x in data.test.images] == (data.test.labels * 10).tolist()
    with h5py.File(path, "a") as file:
        file["labels_test"][0] = 70
    with pytest.raises(ConfigError, match="label 70 has no training image"):
        read("hdf5", path, **changes)
    write_hdf5(path)
    with pytest.raises(ConfigError, match="labels have fractions; set data.task to scalar"):
        read("hdf5", path, **changes)


def test_bad_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    write_hdf5(path)
    with pytest.raises(ConfigError, match="data.test_share must be null"):
        read("hdf5", path, test_share=0.2)
    replace_in(path, "images_test", h5py.ExternalLink("other.h5", "/images"))
    with pytest.raises(ValueError, match="'images_test' is a link to somewhere else"):
        read("hdf5", path)
    write_hdf5(path)
    with h5py.File(path, "a") as file:
        del file["labels_train"]
    with pytest.raises(ValueError, match="'labels_train' is missing; fetch or write the file again"):
        read("hdf5", path)
    write_hdf5(path)
    replace_in(path, "images_train", np.zeros((40, 5, 16, 16), np.uint8))
    with pytest.raises(ConfigError, match=r"'images_train' has the shape \(40, 5, 16, 16\), neither"):
        read("hdf5", path)
    with h5py.File(path, "a") as file:
        del file["images_train"]
        file.create_dataset("images_train", (10**6, 3, 512, 512), np.uint8, chunks=(1, 3, 512, 512))
    with pytest.raises(ValueError, match="'images_train' claims 786432000000 bytes in a file of"):
        read("hdf5", path)


def test_broken_packed_labels_are_named(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    write_hdf5(path)
    with h5py.File(path, "a") as file:
        del file["labels_train"]
        file.create_dataset("labels_train", data=np.arange(40) * 0.5, chunks=(40,), compression="gzip", fletcher32=True)
        place = file["labels_train"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[place.byte_offset + place.size // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"set.h5: dataset 'labels_train' cannot be read .*; write the file again"):
        read("hdf5", path)


def test_outside_and_virtual_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    raw = tmp_path / "raw.bin"
    raw.write_bytes(bytes(40 * 3 * 256))
    write_hdf5(path)
    with h5py.File(path, "a") as file:
        del file["images_train"]
        shape = (40, 3, 16, 16)
        file.create_dataset("images_train", shape, np.uint8, external=[(str(raw), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(ValueError, match="'images_train' keeps its values in another file"):
        read("hdf5", path)
    with h5py.File(path, "a") as file:
        del file["images_train"]
        layout = h5py.VirtualLayout((40, 3, 16, 16), np.uint8)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "images", (40, 3, 16, 16))
        file.create_virtual_dataset("images_train", layout)
    with pytest.raises(ValueError, match="'images_train' keeps its values in another file"):
        read("hdf5", path)
