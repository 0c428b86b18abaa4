from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cgankd.config import ConfigError
from cgankd.data.dataset import Dataset
from cgankd.data.readers.sources import load
from tests.data.builders import data_config, save_picture


def pictures(folder: Path, num: int) -> list[str]:
    names = [f"img/{i:03d}.png" for i in range(num)]
    for i, name in enumerate(names):
        save_picture(folder / name, i)
    return names


def read(path: Path, **changes: object) -> Dataset:
    defaults = {
        "source": "csv",
        "root": str(path),
        "task": "scalar",
        "channels": 3,
        "test_share": 0.2,
        "val_per_label": None,
        "num_val": 6,
    }
    return load(data_config(**(defaults | changes)), 0)


@pytest.fixture()
def listed(tmp_path: Path) -> Path:
    lines = [f"{name},{i * 0.5 - 3}" for i, name in enumerate(pictures(tmp_path, 40))]
    path = tmp_path / "list.csv"
    path.write_text("path,label\n" + "\n".join(lines) + "\n\n", encoding="utf-8-sig")
    return path


def test_scalars(listed: Path) -> None:
    data = read(listed)
    assert {name: len(split) for name, split in data.splits().items()} == {"train": 26, "val": 6, "test": 8}
    labels = torch.cat([split.labels for split in data.splits().values()])
    assert labels.dtype == torch.float32
    assert torch.equal(labels.sort().values, torch.arange(40) * 0.5 - 3)
    assert data.info.class_names == () and data.info.label_unit == "units"
    assert data.info.label_min == float(data.train.labels.min())


def test_images_go_with_their_labels_and_the_header_is_optional(listed: Path) -> None:
    with_header = read(listed)
    text = listed.read_text(encoding="utf-8-sig").removeprefix("path,label\n")
    listed.write_text(text)
    without = read(listed)
    assert torch.equal(with_header.train.images, without.train.images)
    whole = {
        image.numpy().tobytes(): float(y)
        for s in without.splits().values()
        for image, y in zip(*vars(s).values(), strict=True)
    }
    reversed_file = listed.with_name("reversed.csv")
    reversed_file.write_text("\n".join(text.strip().split("\n")[::-1]))
    other = read(reversed_file)
    for split in other.splits().values():
        for image, y in zip(split.images, split.labels, strict=True):
            assert whole[image.numpy().tobytes()] == float(y)


def test_class_names(tmp_path: Path) -> None:
    names = ["zebra", "ape", "10"]
    path = tmp_path / "list.csv"
    path.write_text("\n".join(f'"{name}", {names[i % 3]}' for i, name in enumerate(pictures(tmp_path, 30))))
    data = read(path, task="class", val_per_label=2, num_val=None)
    assert data.info.class_names == ("10", "ape", "zebra") and data.info.kind == "class"
    assert torch.bincount(data.test.labels).tolist() == [2, 2, 2] and data.train.labels.dtype == torch.int64
    assert torch.bincount(data.train.labels).tolist() == [6, 6, 6]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("img/000.png,nan", r"list.csv:42: label 'nan' is not a finite number"),
        ("img/000.png,inf", r"list.csv:42: label 'inf' is not a finite number"),
        ("img/000.png,1e300", r"list.csv:42: label '1e300' is not a finite number"),
        ("img/000.png,tall", r"list.csv:42: label 'tall' is not a number"),
        ("img/000.png", r"list.csv:42: expected path,label but found 'img/000.png'"),
        ("img/000.png,1,2", r"list.csv:42: expected path,label but found"),
        ("img/000.png,", r"list.csv:42: expected path,label"),
        ("img/999.png,1", r"list.csv:42: image '.*999.png' does not exist"),
        (
            "./img/../img/001.png,1",
            r"list.csv:42: './img/../img/001.png' is listed before, at .*list.csv:3, as .* and here as '1'; keep",
        ),
    ],
)
def test_bad_lines_are_named(listed: Path, line: str, words: str) -> None:
    text = listed.read_text(encoding="utf-8-sig").strip()
    lines = text.split("\n")
    if line.startswith("img/000"):
        lines[1] = "img/../img/039.png,1"  # Frees picture 000.
        lines.remove("img/039.png,16.5")
        save_picture(listed.parent / "img/100.png", 100)
        lines.append("img/100.png,3")
    listed.write_text("\n".join([*lines, line]))
    with pytest.raises(ConfigError, match=words):
        read(listed)


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    with pytest.raises(ConfigError, match="is not a file"):
        read(path)
    path.write_text("path,label\n\n")
    with pytest.raises(ConfigError, match="lists no images"):
        read(path)
    path.write_bytes(b"\xff\x00\xfebad")
    with pytest.raises(ConfigError, match="is not a CSV file in UTF-8"):
        read(path)
    path.write_bytes(b"PK\x03\x04rest of a workbook")
    with pytest.raises(ConfigError, match="is a workbook or archive, not text; save it as CSV"):
        read(path)
    pictures(tmp_path, 3)
    path.write_text("img/000.png,a\nimg/001.png,a\n")
    with pytest.raises(ConfigError, match="names 1 class"):
        read(path, task="class")
    path.write_text("img/000.png,1\nimg/001.png,2\nimg/002.png,3\n")
    with pytest.raises(ConfigError, match="has 3 images, too few"):
        read(path)
