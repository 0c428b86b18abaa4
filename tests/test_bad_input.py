"""What a user can get wrong at the command line: one sentence, exit code 2, nothing lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from cgankd.data.readers.tiny_imagenet import Size
from cgankd.data.store.datasets import write_dataset
from pipelines.commands.app import app
from tests.gan.test_own_program import torchscript
from tests.pipelines.finished import made_data
from tests.tiny import tiny, write_params


def photo(path: Path, size: int = 16) -> None:
    """A grey noise image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (size, size), dtype=np.uint8)).save(path)


def folder(root: Path, num: int = 12) -> Path:
    """Two classes of `num` images each."""
    for label in ("a", "b"):
        for i in range(num):
            photo(root / "photos" / label / f"{i}.png")
    return root / "photos"


def listing(root: Path, lines: list[str]) -> Path:
    """A CSV of path,label over images that exist."""
    for i in range(13):
        photo(root / "list" / f"{i}.png")
    path = root / "list" / "labels.csv"
    path.write_text("".join(f"{i}.png,{i}\n" for i in range(12)) + "".join(f"{line}\n" for line in lines))
    return path


def faces(root: Path) -> Path:
    """A dozen faces, one of them cut off."""
    for i in range(12):
        path = root / "faces" / f"{20 + i % 3}_0_0_20170101{i:08d}.jpg"
        photo(path)
    broken = root / "faces" / "20_0_0_2017010100000003.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    return root / "faces"


def archive(root: Path) -> Path:
    """Files that only have the names of CIFAR-10's."""
    folder = root / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (folder / name).write_bytes(b"\x80\x02}q\x01.")
    return root / "cifar"


def tiny_imagenet(root: Path) -> Path:
    """Two classes in the layout of Tiny-ImageNet, an image of val without its line."""
    top, lines = root / "tiny-imagenet-200", []
    for wnid in ("a", "b"):
        for i in range(3):
            photo(top / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
        for i in range(2):
            photo(top / "val" / "images" / f"{wnid}{i}.JPEG")
            lines.append(f"{wnid}{i}.JPEG\t{wnid}\t0\t0\t9\t9\n")
    (top / "val" / "val_annotations.txt").write_text("".join(lines[:-1]))
    (top / "wnids.txt").write_text("a\nb\n")
    (top / "words.txt").write_text("a\tant\nb\tbee\n")
    return top


def drive(root: Path) -> Path:
    """Twelve frames, and a line for all but one."""
    for i in range(12):
        photo(root / "drive" / f"{i}.jpg")
    (root / "drive" / "data.txt").write_text("".join(f"{i}.jpg {i}.5\n" for i in range(12) if i != 7))
    return root / "drive"


def hdf5(root: Path) -> Path:
    """A set in the authors' layout: 12 images of each of two classes, split here."""
    with h5py.File(root / "set.h5", "w") as file:
        file["images_train"] = np.random.default_rng(0).integers(0, 255, (24, 1, 16, 16), dtype=np.uint8)
        file["labels_train"] = np.arange(24) % 2
    return root / "set.h5"


def linked(root: Path) -> Path:
    path = hdf5(root)
    path.rename(root / "other.h5")
    with h5py.File(path, "w") as file:
        file["images_train"] = h5py.ExternalLink("other.h5", "images_train")
        file["labels_train"] = np.arange(24) % 2
    return path


def hollow(root: Path) -> Path:
    path = hdf5(root)
    with h5py.File(path, "a") as file:
        del file["images_train"]
        file.create_dataset("images_train", (10**10, 1, 16, 16), np.uint8, chunks=(64, 1, 16, 16))
    return path


def truncated(root: Path) -> Path:
    path = hdf5(root)
    path.write_bytes(path.read_bytes()[:3000])
    return path


CASES: dict[str, tuple[str, Callable[[Path], Path], list[str]]] = {
    "missing folder": ("image-folder", lambda p: p / "nowhere", ["data.root", "nowhere"]),
    "broken image": (
        "image-folder",
        lambda p: (folder(p) / "a" / "3.png").write_bytes(b"not a picture") and p / "photos",
        ["3.png"],
    ),
    "small class": ("image-folder", lambda p: folder(p, 4), ["4"]),
    "wrong size": ("image-folder", lambda p: (photo(folder(p) / "a" / "3.png", 9), p / "photos")[1], ["3.png", "9"]),
    "no images": ("image-folder", lambda p: ((p / "photos").mkdir(), p / "photos")[1], ["photos"]),
    "label no number": ("csv", lambda p: listing(p, ["12.png,ten"]), ["labels.csv", "13", "ten"]),
    "label NaN": ("csv", lambda p: listing(p, ["12.png,nan"]), ["labels.csv", "13", "nan"]),
    "image not there": ("csv", lambda p: listing(p, ["99.png,3"]), ["99.png"]),
    "truncated face": ("utkface", faces, ["20_0_0_2017010100000003.jpg", "cannot be read as an image"]),
    "wrong archive": ("cifar10", archive, ["batches.meta", "md5", "fetch the archive again"]),
    "another archive": ("cifar100", lambda p: archive(p).parent, ["no cifar-100-python", "data.download"]),
    "no annotation": ("tiny-imagenet", tiny_imagenet, ["val_annotations.txt has no line for", "b1.JPEG"]),
    "image without an angle": ("steering-angle", drive, ["data.txt has no line for", "7.jpg", "add the line"]),
    "linked HDF5": ("hdf5", linked, ["set.h5", "images_train", "link"]),
    "hollow HDF5": ("hdf5", hollow, ["set.h5", "'images_train' claims 2560000000000 bytes"]),
    "truncated HDF5": ("hdf5", truncated, ["set.h5", "no whole HDF5 file", "write the file again"]),
}
SCALARS = ("csv", "utkface", "steering-angle")


def settings(folder: Path, source: str, root: Path, **data: Any) -> None:
    """params.yaml of a set of one's own: no split of the preset."""
    scalar = source in SCALARS
    values: dict[str, Any] = tiny("chairs" if scalar else "digits")
    splits = {"train_per_label": None, "num_train": None, "test_share": 0.2, "num_test": None, "channels": 1}
    splits |= {"num_val": 3, "val_per_label": None} if scalar else {"num_val": None, "val_per_label": 3}
    splits |= {} if scalar else {"train_per_label": 5}
    splits |= {"test_share": None} if source in ("cifar10", "cifar100", "tiny-imagenet") else {}
    values["data"] |= splits | {"source": source, "root": str(root), "image_size": 16} | data
    values["tracking"]["mlflow"] = False
    write_params(folder, values)


def one_sentence(command: list[str], words: list[str]) -> None:
    """Run a command: exit code 2 and one line on stderr, with these words in it."""
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("case", sorted(CASES))
def test_bad_data_ends_in_one_sentence(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, make, words = CASES[case]
    monkeypatch.setattr("cgankd.data.readers.tiny_imagenet.TINY", Size(classes=2, train=(3, 3), test=2))
    settings(tmp_path, source, make(tmp_path))
    kept = tmp_path / "artifacts" / "dataset.h5"
    kept.parent.mkdir()
    kept.write_bytes(b"of an earlier run")
    monkeypatch.chdir(tmp_path)
    one_sentence(["prepare"], words)
    assert kept.read_bytes() == b"of an earlier run"


def test_a_part_of_a_public_set_is_used_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, num in (("train", 4), ("test", 1)):
        for label, i in itertools.product(range(10), range(num)):
            photo(tmp_path / "cifar" / part / f"c{label}" / f"{i}.jpg")
    settings(tmp_path, "cifar10", tmp_path / "nowhere", train_per_label=1)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["prepare", "--root", "cifar"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "WARNING: data.root 'cifar' has 59,950 images fewer than the public data set" in result.output


class Unconditional(nn.Module):
    """A generator that takes no label."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z[:, :1, None, None].expand(-1, 1, 16, 16))


class Guess(nn.Module):
    """A teacher of five classes."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3))[:, None].repeat(1, 5)


def fakes(folder: Path) -> None:
    with h5py.File(folder / "own.h5", "w") as file:
        file["images"] = np.zeros((6, 1, 16, 16), np.uint8)


STAGES: dict[str, tuple[str, str, Callable[[Path], object], list[str]]] = {
    "generator of another signature": (
        "cgan",
        "own.pt",
        lambda p: (p / "own.pt").write_bytes(torchscript(Unconditional())),
        ["cgan.file 'own.pt' cannot be called with z float32", "it must take z [B, cgan.z_dim] and label [B]"],
    ),
    "generated images without labels": (
        "cgan",
        "own.h5",
        fakes,
        ["cgan.file own.h5: dataset 'labels' is missing; write the file again"],
    ),
    "teacher of other classes": (
        "teacher",
        "own.pt",
        lambda p: (p / "own.pt").write_bytes(torchscript(Guess())),
        [
            "teacher.file own.pt must give 3 class scores an image, but gives the shape",
            "use a teacher of this data set",
        ],
    ),
}


@pytest.mark.parametrize("case", sorted(STAGES))
def test_files_of_ones_own_that_do_not_fit(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, name, make, words = STAGES[case]
    values = tiny("digits")
    values["tracking"]["mlflow"] = False
    values[stage]["file"] = name
    write_params(tmp_path, values)
    make(tmp_path)
    write_dataset(tmp_path / "artifacts" / "dataset.h5", made_data(False))
    kept = tmp_path / "artifacts" / f"{stage}.safetensors"
    kept.write_bytes(b"of an earlier run")
    monkeypatch.chdir(tmp_path)
    one_sentence([stage], words)
    assert kept.read_bytes() == b"of an earlier run"
