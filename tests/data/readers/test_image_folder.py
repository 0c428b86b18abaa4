from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgankd.config import ConfigError
from cgankd.data.dataset import Dataset
from cgankd.data.readers.sources import load
from tests.data.builders import data_config, save_picture

CLASSES = {"ant": 12, "bee": 10, "cow": 14}


def fill(root: Path, counts: dict[str, int], first_seed: int = 0, **how: object) -> None:
    for offset, (name, count) in enumerate(counts.items()):
        for i in range(count):
            save_picture(root / name / f"{i:02d}.png", first_seed + 100 * offset + i, **how)  # type: ignore[arg-type]


def read(root: Path, seed: int = 0, **changes: object) -> Dataset:
    defaults = {"source": "image-folder", "root": str(root), "channels": 3, "test_share": 0.25}
    return load(data_config(**(defaults | changes)), seed)


@pytest.fixture()
def flat(tmp_path: Path) -> Path:
    fill(tmp_path / "set", CLASSES)
    return tmp_path / "set"


def test_unsplit_folder(flat: Path) -> None:
    (flat / "ant" / "notes.txt").write_text("skipped")
    (flat / ".hidden").mkdir()
    data = read(flat)
    assert data.info.class_names == ("ant", "bee", "cow")
    assert torch.bincount(data.test.labels).tolist() == [3, 2, 4]
    assert torch.bincount(data.val.labels).tolist() == [2, 2, 2]
    assert torch.bincount(data.train.labels).tolist() == [7, 6, 8]
    assert data.notes == {"images_resized": 0.0}
    assert data.account.counts == {"files_ignored": 1.0, "files_hidden": 1.0}
    assert "left out: 1 .txt files (ant/notes.txt)" in data.account.lines
    on_disk = {np.asarray(Image.open(path)).tobytes(): path.parent.name for path in flat.rglob("*.png")}
    found = [
        image.permute(1, 2, 0).contiguous().numpy().tobytes() for s in data.splits().values() for image in s.images
    ]
    names = [data.info.class_names[int(y)] for s in data.splits().values() for y in s.labels]
    assert dict(zip(found, names, strict=True)) == on_disk


def test_same_seed_same_split_and_caps_are_nested(flat: Path) -> None:
    assert torch.equal(read(flat).train.images, read(flat).train.images)
    assert not torch.equal(read(flat, seed=1).test.images, read(flat).test.images)
    small, large = read(flat, num_train=6, train_per_label=4), read(flat, num_train=9, train_per_label=4)
    assert len(small.train) == 6 and torch.equal(small.test.images, large.test.images)
    as_bytes = [{image.numpy().tobytes() for image in data.train.images} for data in (small, large)]
    assert as_bytes[0] < as_bytes[1]


def test_folder_that_is_split_already(tmp_path: Path) -> None:
    fill(tmp_path / "train", CLASSES)
    fill(tmp_path / "test", {"ant": 3, "bee": 1, "cow": 2}, first_seed=5000)
    data = read(tmp_path, test_share=None)
    assert torch.bincount(data.test.labels).tolist() == [3, 1, 2]
    assert torch.bincount(data.train.labels).tolist() == [10, 8, 12]
    fill(tmp_path / "valid", {"ant": 2, "bee": 2, "cow": 1}, first_seed=9000)
    data = read(tmp_path, test_share=None)
    assert torch.bincount(data.val.labels).tolist() == [2, 2, 1]
    assert torch.bincount(data.train.labels).tolist() == [12, 10, 14]
    assert len(read(tmp_path, test_share=None, num_test=4).test) == 4


def test_large_squares_are_averaged_down_and_counted(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 5, "b": 5}, size=(32, 32))
    data = read(tmp_path)
    assert data.notes["images_resized"] == 10.0
    blocks = {
        tuple(np.asarray(Image.open(path)).reshape(16, 2, 16, 2, 3).mean((1, 3)).ravel()[:6].tolist())
        for path in tmp_path.rglob("*.png")
    }
    first = data.train.images[0].permute(1, 2, 0).flatten()[:6].numpy()
    assert min(np.abs(np.array(block) - first).max() for block in blocks) <= 1.0  # Pillow rounds after each axis.


def test_grey_and_colour_are_converted_to_the_channels_asked(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 6}, mode="L")
    fill(tmp_path, {"b": 6}, mode="RGB")
    assert read(tmp_path, channels=1).train.images.shape[1] == 1
    colour = read(tmp_path, channels=3).train
    grey = colour.images[colour.labels == 0]
    assert torch.equal(grey[:, 0], grey[:, 2])


def test_turned_photos_stand_upright(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 5, "b": 5})
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # Turned by 180 degrees.
    for path in (tmp_path / "a").iterdir():
        Image.fromarray(pixels).save(path, exif=exif)
    train = read(tmp_path).train
    image = train.images[train.labels == 0][0]
    assert int(image[:, :8].max()) == 0 and int(image[:, 8:].min()) == 255


def broken(root: Path) -> None:
    path = root / "ant" / "00.png"
    path.write_bytes(path.read_bytes()[:200])


def not_an_image(root: Path) -> None:
    (root / "ant" / "00.png").write_text("hello")


def oblong(root: Path) -> None:
    save_picture(root / "ant" / "00.png", 1, size=(20, 18))


def small(root: Path) -> None:
    save_picture(root / "ant" / "00.png", 1, size=(12, 12))


def deep(root: Path) -> None:
    Image.fromarray(np.full((16, 16), 0.4, np.float32)).save(root / "ant" / "0.tif")


def no_images(root: Path) -> None:
    (root / "dog").mkdir()


def one_class(root: Path) -> None:
    shutil.rmtree(root / "ant")
    shutil.rmtree(root / "bee")


def loose(root: Path) -> None:
    empty(root)
    for name in ("a.png", "b.JPG", "notes.txt"):
        (root / name).touch()


def empty(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def gone(root: Path) -> None:
    shutil.rmtree(root)


def few(root: Path) -> None:
    for i in range(3, 12):
        (root / "ant" / f"{i:02d}.png").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (broken, r"ant/00.png cannot be read as an image"),
        (not_an_image, r"ant/00.png cannot be read as an image \(UnidentifiedImageError"),
        (oblong, r"ant/00.png is 20x18, but images must be square"),
        (small, r"ant/00.png is 12x12, smaller than data.image_size 16"),
        (deep, r"ant/0.tif has more than 8 bits a channel \(floating point, mode F\); set data.pixel_range"),
        (no_images, r"dog has no images"),
        (one_class, r"has 1 sub-folders; there must be one for each of at least two classes"),
        (empty, r"data.root '.*' is empty"),
        (loose, r"has 2 images but no sub-folders; sort them into one sub-folder for each class"),
        (gone, r"data.root '.*' is not a folder"),
        (few, r"class 'ant' has 3 images but needs 4"),
    ],
)
def test_bad_folders_name_what_is_wrong(flat: Path, damage: object, words: str) -> None:
    damage(flat)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=words):
        read(flat)


def test_setting_errors(flat: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data.test_share must be set"):
        read(flat, test_share=None)
    split = tmp_path / "split"
    fill(split / "train", CLASSES)
    fill(split / "test", {"dog": 2})
    with pytest.raises(ConfigError, match="dog is a class that the training folder"):
        read(split, test_share=None)
    shutil.rmtree(split / "test")
    fill(split / "test", {"ant": 2})
    with pytest.raises(ConfigError, match="data.test_share must be null"):
        read(split)
    fill(split / "val", {"ant": 2})
    fill(split / "valid", {"ant": 2})
    with pytest.raises(ConfigError, match="both val and valid"):
        read(split, test_share=None)
