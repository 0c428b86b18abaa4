from __future__ import annotations

import dataclasses
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgankd.config import ConfigError
from cgankd.data.dataset import Dataset
from cgankd.data.readers import cifar
from cgankd.data.readers.sources import load
from tests.data.builders import data_config, save_picture

TRAIN, TEST = 50, 20


def text(value: str) -> bytes:
    raw = value.encode()
    return b"U" + bytes([len(raw)]) + raw


def whole(value: int) -> bytes:
    return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)


def array(data: np.ndarray) -> bytes:
    """A uint8 array as Python 2 and numpy 1 pickled it."""
    rows, columns = data.shape
    dtype = (
        b"cnumpy\ndtype\n"
        + text("u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text("|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = b"J" + struct.pack("<i", rows) + whole(columns) + b"\x86"
    raw = data.tobytes()
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R"
    return start + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"


def members(items: list[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"


def mapping(entries: dict[str, bytes]) -> bytes:
    return b"\x80\x02}q\x01(" + b"".join(text(key) + value for key, value in entries.items()) + b"u."


def rows(seed: int, num: int, classes: int) -> tuple[np.ndarray, list[int]]:
    images = np.random.default_rng(seed).integers(0, 256, (num, 3072), np.uint8)
    return images, [i % classes for i in range(num)]


def edition_for(source: str) -> cifar.Edition:
    edition = cifar.EDITIONS[source]
    size = edition.num_classes // 10
    return dataclasses.replace(edition, num_train=TRAIN * size, num_test=TEST * size)


def write_py(root: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[np.ndarray, list[int]]]:
    """The extracted Python archive with few rows, and its md5 sums in place of the public ones."""
    edition, out, sums = edition_for(source), {}, {}
    folder = root / edition.py_folder
    folder.mkdir(parents=True)
    for part, files, total in (
        ("train", edition.py_train, edition.num_train),
        ("test", edition.py_test, edition.num_test),
    ):
        images, labels = rows(len(files), total, edition.num_classes)
        out[part] = images, labels
        step = total // len(files)
        for place, name in enumerate(files):
            own = slice(place * step, (place + 1) * step)
            entries = {
                "batch_label": text("a part"),
                edition.label_key: members([whole(label) for label in labels[own]]),
                "data": array(images[own]),
                "filenames": members([text(f"{i}.png") for i in range(step)]),
            }
            (folder / name).write_bytes(mapping(entries))
    names = {edition.names_key: members([text(f"c{i:02d}") for i in range(edition.num_classes)])}
    (folder / edition.py_meta[0]).write_bytes(mapping(names))
    for path in folder.iterdir():
        sums[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    edition = dataclasses.replace(
        edition,
        py_train={name: sums[name] for name in edition.py_train},
        py_test={name: sums[name] for name in edition.py_test},
        py_meta=(edition.py_meta[0], sums[edition.py_meta[0]]),
    )
    monkeypatch.setitem(cifar.EDITIONS, source, edition)
    return out


def write_bin(root: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[np.ndarray, list[int]]]:
    edition, out = edition_for(source), {}
    monkeypatch.setitem(cifar.EDITIONS, source, edition)
    folder = root / edition.bin_folder
    folder.mkdir(parents=True)
    for part, files, total in (
        ("train", edition.bin_train, edition.num_train),
        ("test", edition.bin_test, edition.num_test),
    ):
        images, labels = rows(len(files), total, edition.num_classes)
        out[part] = images, labels
        label = np.array(labels, np.uint8)[:, None]
        coarse = np.full_like(label, 7)
        table = np.concatenate([*([coarse] * (edition.label_bytes - 1)), label, images], axis=1)
        for name, own in zip(files, np.split(table, len(files)), strict=True):
            (folder / name).write_bytes(own.tobytes())
    (folder / edition.bin_names).write_text("\n".join(f"c{i:02d}" for i in range(edition.num_classes)) + "\n\n")
    return out


def read(root: Path, source: str = "cifar10", **changes: object) -> Dataset:
    defaults = {"source": source, "root": str(root), "image_size": 32, "channels": 3, "val_per_label": 1}
    return load(data_config(**(defaults | changes)), 0)


def found(data: Dataset, *names: str) -> dict[bytes, int]:
    splits = [data.splits()[name] for name in names]
    return {x.numpy().tobytes(): int(y) for s in splits for x, y in zip(s.images, s.labels, strict=True)}


WRITERS = {"py": write_py, "bin": write_bin}


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
@pytest.mark.parametrize("layout", ["py", "bin"])
def test_archives(tmp_path: Path, source: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = WRITERS[layout](tmp_path, source, monkeypatch)
    data = read(tmp_path, source)
    classes = 10 if source == "cifar10" else 100
    assert data.info.class_names == tuple(f"c{i:02d}" for i in range(classes))
    assert found(data, "train", "val") == {x.tobytes(): y for x, y in zip(*true["train"], strict=True)}
    assert found(data, "test") == {x.tobytes(): y for x, y in zip(*true["test"], strict=True)}
    assert len(data.val) == classes and data.notes == {"images_found": classes / 10 * (TRAIN + TEST)}


def test_limited_sets_are_nested_and_stratified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bin(tmp_path, "cifar10", monkeypatch)
    small, large = read(tmp_path, num_train=20), read(tmp_path, num_train=30)
    assert found(small, "train").items() < found(large, "train").items()
    assert torch.bincount(small.train.labels).tolist() == [2] * 10
    assert torch.equal(small.test.images, large.test.images) and torch.equal(small.val.images, large.val.images)


def test_smaller_and_grey_images_follow_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = write_bin(tmp_path, "cifar10", monkeypatch)["test"][0]
    grey = read(tmp_path, channels=1).test
    half = read(tmp_path, image_size=16).test
    pictures = [Image.fromarray(x.reshape(3, 32, 32).transpose(1, 2, 0)) for x in true]
    want = np.stack([np.asarray(p.convert("L")) for p in pictures]).astype(int)
    assert_same(grey.images[:, 0].numpy(), want)
    small = np.stack([np.asarray(p.resize((16, 16), Image.Resampling.BOX)).transpose(2, 0, 1) for p in pictures])
    assert_same(half.images.numpy(), small.astype(int))


def assert_same(images: np.ndarray, want: np.ndarray) -> None:
    """Equal as sets of pictures up to one level of rounding."""
    gaps = [min(int(np.abs(image.astype(int) - other).max()) for other in want) for image in images]
    assert max(gaps) <= 1 and len(images) == len(want)


def tree(root: Path, classes: int, train: int = 3, test: int = 1) -> None:
    for part, num in (("train", train), ("test", test)):
        for k in range(classes):
            for i in range(num):
                save_picture(root / part / f"c{k:02d}" / f"{i}.png", 1000 * k + 10 * i + len(part), size=(16, 16))


def test_image_tree(tmp_path: Path) -> None:
    tree(tmp_path, 10)
    data = read(tmp_path, image_size=16)
    assert {name: len(split) for name, split in data.splits().items()} == {"train": 20, "val": 10, "test": 10}
    assert (data.notes["images_found"], data.notes["images_missing"]) == (40.0, 59_960.0)


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_a_tree_of_other_classes_is_refused(tmp_path: Path, source: str) -> None:
    tree(tmp_path, 9)
    with pytest.raises(
        ConfigError, match=r"train has 9 class folders \(36 images were found.*data.source to image-folder"
    ):
        read(tmp_path, source, image_size=16)


def test_nothing_there_names_the_download(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no cifar-10-batches-py.*data.download: true"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="data.download must be false for data.source digits"):
        data_config(download=True)


def test_a_changed_file_is_not_even_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_py(tmp_path, "cifar10", monkeypatch)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    read_plain = cifar.read_plain_pickle

    def guarded(data: bytes) -> object:
        assert data[-1:] == b".", "a changed file was parsed"
        return read_plain(data)

    monkeypatch.setattr(cifar, "read_plain_pickle", guarded)
    with pytest.raises(
        ConfigError, match=r"data_batch_3 has the md5 \w{32} instead of \w{32}.*fetch the archive again"
    ):
        read(tmp_path)


def test_missing_truncated_and_mislabelled_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bin(tmp_path, "cifar10", monkeypatch)
    folder = tmp_path / "cifar-10-batches-bin"
    path = folder / "data_batch_2.bin"
    whole_file = path.read_bytes()
    path.write_bytes(whole_file[:-1])
    with pytest.raises(ConfigError, match="data_batch_2.bin has 30729 bytes instead of 30730"):
        read(tmp_path)
    path.write_bytes(b"\x0a" + whole_file[1:])
    with pytest.raises(ConfigError, match="has images of 11, but there must be 10"):
        read(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match="data_batch_2.bin cannot be read"):
        read(tmp_path)


def test_settings_that_cannot_be_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bin(tmp_path, "cifar10", monkeypatch)
    with pytest.raises(ConfigError, match="data.image_size must divide the 32x32"):
        read(tmp_path, image_size=64)
    with pytest.raises(ConfigError, match="data.test_share must be null"):
        read(tmp_path, test_share=0.2)
    with pytest.raises(ConfigError, match="class 'c00' has 5 images but needs 6"):
        read(tmp_path, val_per_label=5)
