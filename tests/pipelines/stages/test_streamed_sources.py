"""Sources read under any memory budget: the same bytes, and no more decoded images alive than a chunk and the budget."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgankd.data.dataset import Dataset
from cgankd.data.readers import hdf5_sets as store_sets
from cgankd.data.readers import image_files, own_fakes, tiny_imagenet
from cgankd.data.readers.own_fakes import load_own_fakes
from cgankd.data.readers.sources import load
from cgankd.data.readers.tiny_imagenet import Size
from cgankd.data.store import datasets as store
from cgankd.data.store import files as store_files
from cgankd.data.store.datasets import write_dataset
from cgankd.data.store.room import in_memory
from cgankd.data.store.stream import MemoryBudget
from cgankd.types import Split
from pipelines.runtime import scratch
from tests.data.builders import data_config, save_picture
from tests.gan.toys import CLASSES, SCALARS

CHUNK = 3
IMAGE = 16 * 16
SCALAR = {"task": "scalar", "val_per_label": None, "num_val": 4}


class Watch:
    """Decoded images alive, the most there were at a time, bytes of room given in memory, and the mapped rooms."""

    def __init__(self) -> None:
        self.alive = self.most = self.seen = self.held = 0
        self.mapped: set[int] = set()

    def decoded(self, pixels: np.ndarray[Any, Any], images: int) -> None:
        self.alive, self.seen = self.alive + images, self.seen + images
        self.most = max(self.most, self.alive)
        weakref.finalize(pixels, self.gone, images)

    def gone(self, images: int) -> None:
        self.alive -= images

    def is_mapped(self, split: Split) -> bool:
        return split.images[:].untyped_storage().data_ptr() in self.mapped


@contextmanager
def watching() -> Iterator[Watch]:
    """Small chunks everywhere, and every function that decodes or gives room counted."""
    watch = Watch()
    decode, slabs, mapped = image_files.read_image, store_files.slabs, scratch.mapped

    def counted(*given: Any, **more: Any) -> Any:
        found = decode(*given, **more)
        watch.decoded(found[0], 1)
        return found

    def counted_slabs(*given: Any) -> Iterator[Any]:
        for places, part in slabs(*given):
            watch.decoded(part, len(part))
            yield places, part

    def counted_memory(shape: tuple[int, ...]) -> torch.Tensor:
        watch.held += int(np.prod(shape))
        return in_memory(shape)

    def counted_mapped(*given: Any) -> torch.Tensor:
        found = mapped(*given)
        watch.mapped.add(found.untyped_storage().data_ptr())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_files, "READ_AHEAD", CHUNK)
        patch.setattr(image_files, "read_image", counted)
        for module in (store_sets, own_fakes):
            patch.setattr(module, "slabs", counted_slabs)
        for module in (store, store_files):
            patch.setattr(module, "SLAB_ROWS", CHUNK)
        patch.setattr(scratch, "in_memory", counted_memory)
        patch.setattr(scratch, "mapped", counted_mapped)
        yield watch


def pictures(num: int, size: int = 16) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (num, 1, size, size), np.uint8)


def folders(root: Path, classes: tuple[str, ...] = ("left", "right")) -> None:
    for at, name in enumerate(classes):
        for i in range(12):
            save_picture(root / name / f"{i}.png", 12 * at + i, size=(32, 32) if i % 3 else (16, 16))


def listed(root: Path, name: str, label: Callable[[int], object]) -> None:
    for i in range(24):
        save_picture(root / f"{i}.png", i)
    (root / name).write_text("\n".join(["path,label", *(f"{i}.png,{label(i)}" for i in range(24))]))


def faces(root: Path) -> None:
    for i in range(24):
        save_picture(root / f"{1 + 2 * i}_0_0_2017010917{i:010d}.jpg", i)


def frames(root: Path) -> None:
    for i in range(24):
        save_picture(root / f"{i}.jpg", i, size=(30, 20))
    (root / "data.txt").write_text("\n".join(f"{i}.jpg {3.5 * i - 40}" for i in range(24)))


def tiny(root: Path) -> None:
    lines = []
    for at, wnid in enumerate(("n01", "n02")):
        for i in range(10):
            save_picture(root / "train" / wnid / "images" / f"{i}.JPEG", 10 * at + i)
        for i in range(4):
            save_picture(root / "val/images" / f"{wnid}_{i}.JPEG", 100 + 10 * at + i)
            lines.append(f"{wnid}_{i}.JPEG\t{wnid}\t0\t0\t1\t1")
    (root / "val/val_annotations.txt").write_text("\n".join(lines))
    (root / "wnids.txt").write_text("n01\nn02")
    (root / "words.txt").write_text("n01\tgoldfish\nn02\tcrane")


def arrays(root: Path, labels: np.ndarray[Any, Any], **how: Any) -> None:
    """An `hdf5` source with the last axis for channels, twice as large as wanted, and a test part of its own."""
    root.mkdir()
    images = pictures(len(labels), 32).transpose(0, 2, 3, 1)
    with h5py.File(root / "set.h5", "w") as file:
        for part, rows in (("train", slice(0, -6)), ("test", slice(-6, None))):
            file.create_dataset(f"images_{part}", data=images[rows], **how)
            file[f"labels_{part}"] = labels[rows]


def own_arrays(root: Path, labels: np.ndarray[Any, Any]) -> None:
    root.mkdir()
    with h5py.File(root / "set.h5", "w") as file:
        file["images"], file["labels"] = pictures(len(labels)), labels


WHOLE, FRACTIONS = np.arange(30) % 2, np.linspace(0.5, 20.0, 30)
SOURCES: dict[str, tuple[Callable[[Path], None], str, dict[str, Any]]] = {
    "folder": (folders, ".", {"source": "image-folder", "test_share": 0.25}),
    "names": (lambda root: listed(root, "l.csv", lambda i: "ab"[i % 2]), "l.csv", {"source": "csv", "test_share": 0.2}),
    "numbers": (lambda root: listed(root, "l.csv", float), "l.csv", {"source": "csv", "test_share": 0.2} | SCALAR),
    "faces": (faces, ".", {"source": "utkface", "test_share": 0.2} | SCALAR),
    "frames": (frames, ".", {"source": "steering-angle", "test_share": 0.2} | SCALAR),
    "tiny": (tiny, ".", {"source": "tiny-imagenet"}),
    "rc49": (lambda root: own_arrays(root, np.arange(84) % 3 / 10 + 0.1), "set.h5", {"source": "rc49"} | SCALAR),
    "classes": (lambda root: arrays(root, WHOLE), "set.h5", {"source": "hdf5"}),
    "packed": (
        lambda root: arrays(root, FRACTIONS, chunks=(3, 32, 32, 1), compression="gzip"),
        "set.h5",
        {"source": "hdf5"} | SCALAR,
    ),
}
OWN: dict[str, tuple[Callable[[Path], None], str, Any]] = {
    "own folder": (folders, ".", CLASSES),
    "own list": (lambda root: listed(root, "labels.csv", float), ".", SCALARS),
    "own classes": (lambda root: own_arrays(root, WHOLE), "set.h5", CLASSES),
    "own scalars": (lambda root: own_arrays(root, FRACTIONS), "set.h5", SCALARS),
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with every source in its own layout."""
    base = tmp_path_factory.mktemp("sources")
    for name, (make, *_) in (SOURCES | OWN).items():
        make(base / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_imagenet, "TINY", Size(classes=2, train=(10, 10), test=4))
        patch.setattr(store_sets, "RC49_ANGLES", 3)
        patch.setattr(store_sets, "RC49_CHAIRS", 28)
        yield base


def digest(data: Dataset, path: Path) -> str:
    write_dataset(path, data)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", list(SOURCES))
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 99), images=st.sampled_from([0, 5, 25]))
def test_a_data_set_is_the_same_under_any_budget(roots: Path, name: str, seed: int, images: int) -> None:
    _, file, changes = SOURCES[name]
    cfg = data_config(**(changes | {"root": str(roots / name / file)}))
    whole = load(cfg, seed)
    want = digest(whole, roots / "whole.h5")
    with watching() as watch:
        memory = MemoryBudget(images * IMAGE)
        data = load(cfg, seed, room=scratch.image_room(roots / "scratch", memory))
        assert digest(data, roots / "pieces.h5") == want and data.notes == whole.notes
    assert watch.seen == sum(map(len, data.splits().values()))
    # A chunk in the making beside the one before it.
    assert watch.most <= 2 * CHUNK and watch.alive == 0 and watch.held <= images * IMAGE
    if images == 0:
        assert all(map(watch.is_mapped, data.splits().values()))
    assert not (roots / "scratch").exists()


@pytest.mark.parametrize("name", list(OWN))
@pytest.mark.parametrize("images", [0, 100])
def test_own_images_are_the_same_under_any_budget(roots: Path, name: str, images: int) -> None:
    _, file, info = OWN[name]
    path, mixed = roots / name / file, torch.randperm(len(load_own_fakes(roots / name / file, info)))
    want = load_own_fakes(path, info).take(mixed)
    with watching() as watch:
        room = scratch.image_room(roots / "scratch", MemoryBudget(images * IMAGE))
        found = load_own_fakes(path, info, room=room, order=lambda num: mixed[:num])
    assert torch.equal(found.images[:], want.images[:]) and torch.equal(found.labels, want.labels)
    assert watch.seen >= len(want) and watch.most <= 2 * CHUNK and watch.is_mapped(found) == (images == 0)
    assert watch.held == (len(want) * IMAGE if images else 0)


def test_a_broken_image_is_named_whatever_the_budget(tmp_path: Path) -> None:
    folders(tmp_path / "set")
    for name in ("left/7.png", "right/1.png"):
        (tmp_path / "set" / name).write_bytes(b"no image")
    cfg, said = data_config(source="image-folder", root=str(tmp_path / "set"), test_share=0.25), []

    def read(memory: MemoryBudget, *, own: bool) -> None:
        room = scratch.image_room(tmp_path / "scratch", memory)
        with pytest.raises(ValueError, match=r"(7|1)\.png cannot be read as an image") as caught:
            load_own_fakes(tmp_path / "set", CLASSES, room=room) if own else load(cfg, 0, room=room)
        said.append(str(caught.value))

    for images in (0, 1000):
        read(MemoryBudget(images * IMAGE), own=False)
        read(MemoryBudget(images * IMAGE), own=True)
    assert said[:2] == said[2:] and "left" in said[1]
