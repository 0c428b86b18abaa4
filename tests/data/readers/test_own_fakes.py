"""Labelled images from outside: the three layouts give the same rows, and bad ones name the file and the cure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from cgankd.config import ConfigError
from cgankd.data.readers.own_fakes import load_own_fakes
from tests.gan.toys import CLASSES, SCALARS

LEVELS = [10, 20, 30, 40]


def picture(path: Path, level: int, size: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size), level, np.uint8)).save(path)


def hdf5(path: Path, labels: object, shape: tuple[int, ...] = (1, 16, 16)) -> Path:
    with h5py.File(path, "w") as file:
        images = np.zeros((len(LEVELS), *shape), np.uint8)
        images[:] = np.array(LEVELS, np.uint8).reshape(-1, 1, 1, 1)
        file["images"], file["labels"] = images, np.array(labels)
    return path


def listed(folder: Path, labels: list[object]) -> Path:
    for level in LEVELS:
        picture(folder / f"{level}.png", level)
    rows = [f"{level}.png,{label}" for level, label in zip(LEVELS, labels, strict=False)]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]))
    return folder


def test_three_layouts_of_classes_are_one(tmp_path: Path) -> None:
    for level, name in zip(LEVELS, ("left", "left", "right", "right"), strict=True):
        picture(tmp_path / "tree" / name / f"{level}.png", level)
    for path in (
        tmp_path / "tree",
        listed(tmp_path, ["left", "left", "right", "right"]),
        hdf5(tmp_path / "f.h5", [0, 0, 1, 1]),
    ):
        fakes = load_own_fakes(path, CLASSES)
        assert fakes.labels.dtype == torch.int64 and fakes.labels.tolist() == [0, 0, 1, 1]
        assert fakes.images.shape == (4, 1, 16, 16) and fakes.images[:, 0, 3, 5].tolist() == LEVELS


def test_scalars_from_a_list_and_from_hdf5(tmp_path: Path) -> None:
    for path in (listed(tmp_path, [0.5, 7, 7, 49.25]), hdf5(tmp_path / "f.hdf5", [0.5, 7, 7, 49.25])):
        fakes = load_own_fakes(path, SCALARS)
        assert fakes.labels.dtype == torch.float32 and fakes.labels.tolist() == [0.5, 7.0, 7.0, 49.25]
        assert fakes.images[:, 0, 0, 0].tolist() == LEVELS


@pytest.mark.parametrize("kind", ["u1", "<u2", "<u4", "<u8", ">u2", ">i8", ">f4", "<f2"])
def test_numbers_of_every_type_are_labels(kind: str, tmp_path: Path) -> None:
    path = hdf5(tmp_path / "f.h5", np.array([0, 1, 1, 0], kind))
    assert load_own_fakes(path, CLASSES).labels.tolist() == [0, 1, 1, 0]
    assert load_own_fakes(path, SCALARS).labels.tolist() == [0.0, 1.0, 1.0, 0.0]
    path = hdf5(tmp_path / "g.h5", np.array([0, 1, 3, 0], kind))
    with pytest.raises(ConfigError, match="they must be the numbers 0 to 1 of the classes"):
        load_own_fakes(path, CLASSES)


def test_a_number_past_all_labels_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="they must be the numbers 0 to 1 of the classes"):
        load_own_fakes(hdf5(tmp_path / "f.h5", np.array([0, 1, 2**63, 0], "<u8")), CLASSES)


def test_lists_of_other_programs(tmp_path: Path) -> None:
    names = ["left", "right", "left", "right"]
    listed(tmp_path, names)
    (tmp_path / "labels.csv").rename(tmp_path / "metadata.csv")
    assert load_own_fakes(tmp_path, CLASSES).labels.tolist() == [0, 1, 0, 1]
    (tmp_path / "metadata.csv").unlink()
    lines = [json.dumps({"file_name": f"{level}.png", "label": n}) for level, n in zip(LEVELS, names, strict=True)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert load_own_fakes(tmp_path, CLASSES).labels.tolist() == [0, 1, 0, 1]


def test_classes_of_fakes_in_another_spelling(tmp_path: Path) -> None:
    info = replace(CLASSES, class_names=("1", "2"))
    assert load_own_fakes(listed(tmp_path / "a", ["1.0", "2", "02", "1"]), info).labels.tolist() == [0, 1, 1, 0]
    info = replace(CLASSES, class_names=("a", "\u00e9"))
    assert load_own_fakes(listed(tmp_path / "b", ["e\u0301", "a", "a", "\u00e9"]), info).labels.tolist() == [1, 0, 0, 1]


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no images; add a sub-folder"):
        load_own_fakes(tmp_path, CLASSES)
    with pytest.raises(ConfigError, match=r"cgan.file .* has no labels.csv; scalar labels"):
        load_own_fakes(tmp_path, SCALARS)
    picture(tmp_path / "middle" / "a.png", 1)
    with pytest.raises(ConfigError, match=r"'middle' is no class of the data set; there are left, right"):
        load_own_fakes(tmp_path, CLASSES)
    (tmp_path / "labels.csv").write_text("")
    with pytest.raises(ConfigError, match=r"cgan.file .* lists no images"):
        load_own_fakes(tmp_path, CLASSES)
    picture(tmp_path / "small" / "left" / "a.png", 1, size=8)
    with pytest.raises(ConfigError, match=r"a.png is 8x8, smaller than data.image_size 16"):
        load_own_fakes(tmp_path / "small", CLASSES)


@pytest.mark.parametrize("word", ["far", "nan"])
def test_a_list_with_a_label_that_is_no_number(tmp_path: Path, word: str) -> None:
    with pytest.raises(ConfigError, match=rf"labels.csv:2: label '{word}' is not a"):
        load_own_fakes(listed(tmp_path, [word]), SCALARS)


@pytest.mark.parametrize("labels", [[0, 1, 2, 1], [0, 1, 0.5, 1], [-1, 0, 1, 1]])
def test_hdf5_with_labels_that_are_no_classes(tmp_path: Path, labels: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"the numbers 0 to 1 of the classes"):
        load_own_fakes(hdf5(tmp_path / "f.h5", labels), CLASSES)


def test_hdf5_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"NaN or infinite"):
        load_own_fakes(hdf5(tmp_path / "nan.h5", [0.0, float("nan"), 1.0, 2.0]), SCALARS)
    path = hdf5(tmp_path / "f.h5", [0, 0, 1, 1])
    with pytest.raises(
        ConfigError, match=r"images of shape \[1, 16, 16\], but those of the data set are \[3, 16, 16\]"
    ):
        load_own_fakes(path, replace(CLASSES, channels=3))
    with pytest.raises(ValueError, match=r"more|rows"):
        load_own_fakes(hdf5(tmp_path / "short.h5", [0, 0, 1]), CLASSES)
    (tmp_path / "junk.h5").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"junk.h5 is no whole HDF5 file"):
        load_own_fakes(tmp_path / "junk.h5", CLASSES)


def test_only_images_and_labels_of_an_hdf5_file_are_looked_at(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "f.h5", [0, 0, 1, 1])
    with h5py.File(path, "a") as file:
        file["prompts"] = ["a text of the generator"] * 4
        file.create_group("extra")
    assert load_own_fakes(path, CLASSES).labels.tolist() == [0, 0, 1, 1]


def test_a_file_that_no_stage_writes_is_to_be_written_again(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "f.h5", [0, 0, 1, 1])
    whole = path.read_bytes()
    with h5py.File(path, "a") as file:
        del file["labels"]
    with pytest.raises(ConfigError, match=r"^cgan.file .*f.h5: dataset 'labels' is missing; write the file again$"):
        load_own_fakes(path, CLASSES)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"^cgan.file .*f.h5 is no whole HDF5 file .*; write the file again$"):
        load_own_fakes(path, CLASSES)
    with h5py.File(path, "w") as file:
        file["labels"] = np.zeros(10**6, np.int64)
        file.create_dataset("images", (10**6, 1, 16, 16), np.uint8)
    with pytest.raises(ConfigError, match=r"^cgan.file .*'images' claims 256000000 bytes .* holds 0 bytes of it"):
        load_own_fakes(path, CLASSES)


def test_all_that_is_left_out_is_said(tmp_path: Path) -> None:
    lines: list[str] = []
    for level, name in zip(LEVELS, ("left", "left", "right", "right"), strict=True):
        picture(tmp_path / "tree" / name / f"{level}.png", level)
    (tmp_path / "tree/right/notes.txt").write_text("x")
    (tmp_path / "tree/left/more").mkdir()
    picture(tmp_path / "tree/loose.png", 1)
    load_own_fakes(tmp_path / "tree", CLASSES, say=lines.append)
    assert lines == [
        "left out: 1 .txt files (right/notes.txt)",
        "left out: 1 images outside of a class folder (loose.png)",
        "4 of 4 images of one single value all over",
    ]
    lines.clear()
    picture(listed(tmp_path / "list", ["left", "right", "left", "right"]) / "other.png", 1)
    load_own_fakes(tmp_path / "list", CLASSES, say=lines.append)
    assert lines[0] == "left out: 1 images without a line in labels.csv (other.png)"
    for path in (tmp_path / "tree/right").glob("*.png"):
        path.unlink()
    lines.clear()
    load_own_fakes(tmp_path / "tree", CLASSES, say=lines.append)
    assert "WARNING: no images of 'right'" in lines
