from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from cgankd.config import ConfigError
from cgankd.data.dataset import Dataset
from cgankd.data.readers import tiny_imagenet
from cgankd.data.readers.sources import load
from cgankd.data.readers.tiny_imagenet import Size
from tests.data.builders import data_config, save_picture

WNIDS = ["n03", "n01", "n02"]


def read(root: Path, source: str = "tiny-imagenet", **changes: object) -> Dataset:
    defaults = {"source": source, "root": str(root), "channels": 3, "val_per_label": 1}
    return load(data_config(**(defaults | changes)), 0)


@pytest.fixture()
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tiny_imagenet, "TINY", Size(classes=3, train=(4, 4), test=2))
    root = tmp_path / "tiny-imagenet-200"
    for k, wnid in enumerate(WNIDS):
        for i in range(4):
            mode = "L" if i == 0 else "RGB"
            save_picture(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 10 * k + i, mode=mode)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes are not read")
    lines = []
    for i in range(6):
        save_picture(root / "val/images" / f"val_{i}.JPEG", 100 + i)
        lines.append(f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t32\t44\t62")
    (root / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius\nn02\tcrane\nn03\tcrane\nn99\telse\n")
    (root / "test/images").mkdir(parents=True)
    return root


def test_tiny_imagenet(tiny: Path) -> None:
    data = read(tiny)
    assert data.info.class_names == ("goldfish", "crane (n02)", "crane (n03)")
    assert {name: len(split) for name, split in data.splits().items()} == {"train": 9, "val": 3, "test": 6}
    assert data.notes["images_found"] == 18.0
    for i in range(6):
        want = torch.from_numpy(np.array(Image.open(tiny / f"val/images/val_{i}.JPEG").convert("RGB"))).permute(2, 0, 1)
        row = [k for k, image in enumerate(data.test.images) if torch.equal(image, want)]
        assert data.test.labels[row].tolist() == [["n01", "n02", "n03"].index(WNIDS[i % 3])]
    grey = [bool((image == image[:1]).all()) for s in (data.train, data.val) for image in s.images]
    assert sum(grey) == 3


def test_the_numbers_of_training_images_are_nested(tiny: Path) -> None:
    small, large = ({image.numpy().tobytes() for image in read(tiny, train_per_label=n).train.images} for n in (1, 2))
    assert small < large and len(small) == 3


def test_bad_tiny_imagenet(tiny: Path) -> None:
    listing = tiny / "val/val_annotations.txt"
    lines = listing.read_text().splitlines()
    listing.write_text("\n".join(lines[:-1]))
    with pytest.raises(ConfigError, match=r"val_annotations.txt has no line for .*val_5.JPEG"):
        read(tiny)
    listing.write_text("\n".join([*lines, "val_9.JPEG\tn01\t0"]))
    with pytest.raises(ConfigError, match=r"val_annotations.txt: line 7 names val_9.JPEG, but .*val_9.JPEG does not"):
        read(tiny)
    listing.write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(ConfigError, match="line 7 names val_0.JPEG a second time"):
        read(tiny)
    listing.write_text("\n".join([*lines[:-1], "val_5.JPEG\tn77"]))
    with pytest.raises(ConfigError, match="line 6 is .* not a file and a class of wnids.txt"):
        read(tiny)
    listing.write_text("\n".join(lines))
    (tiny / "train/n02/images/n02_1.JPEG").unlink()
    with pytest.raises(ConfigError, match="n02/images has 3 images instead of 4; unpack .*data.source csv"):
        read(tiny)
    shutil.rmtree(tiny / "train/n02")
    with pytest.raises(ConfigError, match="n02/images does not exist; data.root must be"):
        read(tiny)
    with pytest.raises(ConfigError, match="wnids.txt does not exist"):
        read(tiny / "val")


def test_an_incomplete_tiny_imagenet_is_noticed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = tiny / "val/val_annotations.txt"
    lines = listing.read_text().splitlines()
    listing.write_text("\n".join(lines[:-1]))
    (tiny / "val/images/val_5.JPEG").unlink()
    with pytest.raises(ConfigError, match=r"val has 1 images of class n02 instead of 2 \(5 in all\); unpack"):
        read(tiny)
    (tiny / "wnids.txt").write_text("n01\nn02\n")
    with pytest.raises(ConfigError, match="wnids.txt names 2 classes instead of 3; unpack"):
        read(tiny)
    monkeypatch.undo()
    size = tiny_imagenet.TINY
    assert (size.classes, size.train, size.test) == (200, (500, 500), 50)


def test_a_truncated_jpeg_is_named(tiny: Path) -> None:
    path = tiny / "train/n01/images/n01_2.JPEG"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ConfigError, match=r"n01_2.JPEG cannot be read as an image"):
        read(tiny)


def test_wrong_size_is_named(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"JPEG is 16x16, smaller than data.image_size 32"):
        read(tiny, image_size=32)


@pytest.fixture()
def hundred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tiny_imagenet, "IMAGENET100", Size(classes=100, train=(2, 3), test=1))
    monkeypatch.setattr(tiny_imagenet, "NUM_IMAGENET100", 302)
    for k in range(100):
        for part, num in (("train", 2), ("val", 1)):
            for i in range(num):
                size = (20, 40) if i else (34, 18)
                save_picture(tmp_path / part / f"n{k:03d}" / f"{i}.png", 10 * k + 3 * i + len(part), size=size)
    return tmp_path


def test_imagenet100(hundred: Path) -> None:
    data = read(hundred, "imagenet100")
    assert {name: len(split) for name, split in data.splits().items()} == {"train": 100, "val": 100, "test": 100}
    assert data.notes["images_found"] == 300.0 and data.notes["images_resized"] == 300.0
    assert data.notes["images_missing"] == 2.0
    for label in (0, 57):
        with Image.open(hundred / f"val/n{label:03d}/0.png") as file:
            # 34x18 -> the middle 18x18, averaged to 16x16.
            want = np.asarray(ImageOps.fit(file, (16, 16), Image.Resampling.BOX)).transpose(2, 0, 1)
        found = data.test.images[data.test.labels == label][0].numpy()
        assert np.array_equal(found, want)


def test_imagenet100_enlarges_small_images(hundred: Path) -> None:
    data = read(hundred, "imagenet100", image_size=32)
    with Image.open(hundred / "val/n005/0.png") as file:
        want = np.asarray(file.crop((8, 0, 26, 18)).resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(data.test.images[data.test.labels == 5][0].numpy(), want)


def test_an_incomplete_imagenet100_is_noticed(hundred: Path) -> None:
    save_picture(hundred / "val/n008/1.png", 1)
    with pytest.raises(
        ConfigError, match=r"has 2 val images of class n008 instead of 1; complete it, or set data.source"
    ):
        read(hundred, "imagenet100")
    for i in (2, 3):
        save_picture(hundred / f"train/n006/{i}.png", i)
    shutil.move(hundred / "val", hundred / "test")  # A split of the user's own may have any sizes.
    assert len(read(hundred, "imagenet100").test) == 101
    shutil.move(hundred / "test", hundred / "val")
    with pytest.raises(ConfigError, match=r"has 4 train images of class n006 instead of 2 to 3"):
        read(hundred, "imagenet100")
    (hundred / "train/n005/1.png").unlink()
    with pytest.raises(ConfigError, match=r"has 1 train images of class n005 instead of 2 to 3"):
        read(hundred, "imagenet100")


def test_bad_imagenet100(hundred: Path) -> None:
    shutil.rmtree(hundred / "val/n007")
    with pytest.raises(ConfigError, match="has 99 classes in its val images, but imagenet100 has 100"):
        read(hundred, "imagenet100")
    shutil.rmtree(hundred / "val")
    with pytest.raises(ConfigError, match="has no val or test folder"):
        read(hundred, "imagenet100")
    (hundred / "empty").mkdir()
    with pytest.raises(ConfigError, match="is empty"):
        read(hundred / "empty", "imagenet100")
