"""Images without labels: a folder of any depth or an HDF5 file, by the rules of all other images, counted and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from cgankd.config import ConfigError, DataConfig
from cgankd.data.readers.unlabelled import find_unlabelled, read_unlabelled
from cgankd.data.store.stream import MemoryBudget, StreamedImages
from cgankd.data.store.unlabelled import read_unlabelled as read_back
from cgankd.data.store.unlabelled import write_unlabelled
from cgankd.rng import generator
from tests.conftest import preset


def config(**changes: object) -> DataConfig:
    return DataConfig(**(preset("own-classes")["data"] | {"root": "photos", "image_size": 16, "channels": 1} | changes))


def grey(path: Path, value: int, size: tuple[int, int] = (16, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size[::-1], value, np.uint8)
    pixels[0, 0] = value + 1
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place, name in enumerate(("a.png", "deep/er/b.png", "deep/c.png", "z/d.png")):
        grey(tmp_path / "more" / name, 40 * place)
    (tmp_path / "more" / "notes.txt").write_text("no image")
    grey(tmp_path / "more" / ".hidden" / "e.png", 200)
    return tmp_path / "more"


def test_a_folder_of_any_depth_in_the_order_of_its_paths(folder: Path) -> None:
    found = read_unlabelled(config(unlabelled=str(folder)), 0)
    assert found.names == ["a.png", "deep/c.png", "deep/er/b.png", "z/d.png"]
    assert [int(image[0, 5, 5]) for image in found.images] == [0, 80, 40, 120]
    assert any("1 .txt files (notes.txt)" in line for line in found.account.lines)


def test_null_is_no_image_of_the_right_shape() -> None:
    found = read_unlabelled(config(), 0)
    assert len(found) == 0 and found.images.shape == (0, 1, 16, 16)


def test_the_rules_are_those_of_all_images(folder: Path) -> None:
    grey(folder / "wide.png", 9, (24, 16))
    with pytest.raises(ConfigError, match=r"wide\.png is 24x16, but images must be square"):
        read_unlabelled(config(unlabelled=str(folder)), 0)
    assert len(read_unlabelled(config(unlabelled=str(folder), fit="crop"), 0)) == 5
    said = read_unlabelled(config(unlabelled=str(folder), skip_broken=True), 0)
    assert len(said) == 4 and said.account.counts["files_skipped"] == 1
    grey(folder / "wide.png", 9, (8, 8))
    with pytest.raises(ConfigError, match=r"smaller than data\.image_size"):
        read_unlabelled(config(unlabelled=str(folder)), 0)
    assert len(read_unlabelled(config(unlabelled=str(folder), enlarge=True), 0)) == 5


def test_a_cap_is_a_seeded_subset(tmp_path: Path) -> None:
    for place in range(30):
        grey(tmp_path / "more" / f"{place:02}.png", 8 * place)
    some = [
        read_unlabelled(config(unlabelled=str(tmp_path / "more"), num_unlabelled=7), seed).names for seed in (0, 0, 1)
    ]
    assert some[0] == some[1] != some[2] and some[0] == sorted(some[0]) and len(some[0]) == 7


@pytest.mark.parametrize("by_pixel", [True, False])
def test_an_hdf5_file_with_images_in_either_layout(tmp_path: Path, by_pixel: bool) -> None:
    images = torch.randint(0, 256, (5, 3, 32, 32), generator=generator("h5"), dtype=torch.uint8)
    with h5py.File(tmp_path / "more.h5", "w") as file:
        file["images"] = images.permute(0, 2, 3, 1).numpy() if by_pixel else images.numpy()
        file["notes"] = np.zeros(3)
    found = read_unlabelled(config(unlabelled=str(tmp_path / "more.h5"), channels=3), 0)
    wanted = torch.nn.functional.avg_pool2d(images.float(), 2).round().to(torch.uint8)
    assert torch.equal(found.images[:], wanted) and found.names == [f"row {row}" for row in range(5)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone", "does not exist; name a folder or an HDF5 file"),
        ("list.csv", "must be a folder of images or an HDF5 file"),
        ("empty", "has no images; put some into it"),
        ("labels.h5", "dataset 'images' is missing"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "list.csv").write_text("path\n")
    (tmp_path / "empty").mkdir()
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        file["labels"] = np.zeros(3)
    with pytest.raises(ConfigError, match=words) as caught:
        read_unlabelled(config(unlabelled=str(tmp_path / name)), 0)
    assert "data.unlabelled" in str(caught.value)


@pytest.mark.parametrize("num", [0, 1, 5])
def test_what_is_written_comes_back_and_is_streamed_where_memory_is_short(tmp_path: Path, num: int) -> None:
    images = torch.randint(0, 256, (9, 3, 16, 16), generator=generator("store"), dtype=torch.uint8)
    rows = torch.tensor([8, 0, 3, 4, 7][:num], dtype=torch.int64)
    for name in ("a", "b"):
        write_unlabelled(tmp_path / f"{name}.h5", images, rows)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert torch.equal(read_back(tmp_path / "a.h5")[:], images[rows])
    streamed = read_back(tmp_path / "a.h5", MemoryBudget(0))
    assert isinstance(streamed, StreamedImages) == (num > 0) and torch.equal(streamed[:], images[rows])


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.num_unlabelled must be null where data\.unlabelled is"):
        config(num_unlabelled=3)
    with pytest.raises(ConfigError, match=r"data\.num_unlabelled must be null or at least 1"):
        config(unlabelled="more", num_unlabelled=0)
    with pytest.raises(ConfigError, match=r"data\.unlabelled must be null, rest or the path"):
        config(unlabelled=" ")


def written(path: Path, images: np.ndarray[Any, Any]) -> Path:
    with h5py.File(path, "w") as file:
        file["images"] = images
    return path


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        ((0, 3, 32, 32), "u1", r"has no images; put some into it"),
        ((7, 3, 32, 64), "u1", r"has images of 32x64, but they must be square .*data\.image_size.*write them so"),
        ((5, 3, 0, 0), "u1", r"has images of 0x0, .* sides of 16 \(data\.image_size\) or a multiple"),
        ((7, 3, 24, 24), "u1", r"has images of 24x24, .* sides of 16 \(data\.image_size\) or a multiple"),
        ((7, 32, 32), "u1", r"has the shape \(7, 32, 32\); write it as .* with 1 for C"),
        ((7, 32, 32, 4), "u1", r"with 1 or 3 channels; write it so, without a channel of transparency"),
        ((7, 3, 32, 32), "u2", r"has the type uint16; bring its values to 0 \(black\) to 255 \(white\)"),
        ((7, 3, 32, 32), "f4", r"has the type float32; bring its values"),
    ],
)
def test_an_hdf5_file_that_cannot_be_used_names_the_setting_the_file_and_the_cure(
    tmp_path: Path, shape: tuple[int, ...], kind: str, words: str
) -> None:
    """Former sentences named data.channels, data.image_size of the labelled images or no cure."""
    path = written(tmp_path / "more.h5", np.zeros(shape, kind))
    cfg = config(unlabelled=str(path), channels=3)
    for read in (find_unlabelled, lambda cfg: read_unlabelled(cfg, 0)):
        with pytest.raises(ConfigError, match=words) as caught:
            read(cfg)
        assert str(caught.value).startswith(f"data.unlabelled {str(path)!r}: dataset 'images' ")


@pytest.mark.parametrize("by_pixel", [True, False])
def test_a_grey_hdf5_file_in_a_project_in_colour_is_converted_as_grey_image_files_are(
    tmp_path: Path, by_pixel: bool
) -> None:
    images = torch.randint(0, 256, (5, 1, 16, 16), generator=generator("grey"), dtype=torch.uint8)
    (tmp_path / "more").mkdir()
    for row, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"more/{row}.png")
    path = written(tmp_path / "more.h5", (images.permute(0, 2, 3, 1) if by_pixel else images).numpy())
    found, of_files = (
        read_unlabelled(config(unlabelled=str(of), channels=3), 0).images[:] for of in (path, tmp_path / "more")
    )
    assert found.shape == (5, 3, 16, 16) and torch.equal(found, of_files)


def test_they_are_counted_before_any_is_decoded(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_text("no image")
    assert find_unlabelled(config()) is None
    assert find_unlabelled(config(unlabelled="rest", num_train=5)) is None
    assert find_unlabelled(config(unlabelled=str(folder))) == 5
    path = written(tmp_path / "more.h5", np.zeros((3, 1, 16, 16), np.uint8))
    assert find_unlabelled(config(unlabelled=str(path))) == 3


def test_a_broken_file_is_named_with_the_settings_that_cure_it(folder: Path) -> None:
    (folder / "broken.png").write_text("no image")
    with pytest.raises(ConfigError, match=r"broken\.png cannot be read .*\(data\.skip_broken leaves out") as caught:
        read_unlabelled(config(unlabelled=str(folder)), 0)
    assert str(caught.value).startswith(f"data.unlabelled {str(folder)!r}: ")


@pytest.mark.parametrize("linked", [False, True])
def test_unlabelled_images_lie_apart_from_labelled_ones(tmp_path: Path, linked: bool) -> None:
    for name in ("ant/a", "bee/b", "unl/c"):
        grey(tmp_path / f"photos/{name}.png", 40)
    root, inside = tmp_path / "photos", tmp_path / "photos/unl"
    if linked:
        (tmp_path / "other").symlink_to(root)
        inside = tmp_path / "other/unl"
    same = tmp_path / "other" if linked else root
    with pytest.raises(ConfigError, match=r"is the folder of the labelled images \(data\.root\); move the images"):
        find_unlabelled(config(root=str(root), unlabelled=str(same)))
    # With a cap some of them may be left.
    assert find_unlabelled(config(root=str(root), unlabelled=str(same), num_train=2)) == 3
    with pytest.raises(ConfigError, match=r"lies inside the labelled images in data\.root"):
        find_unlabelled(config(root=str(root), unlabelled=str(inside)))
    assert find_unlabelled(config(root=str(tmp_path / "photos"), unlabelled=str(tmp_path))) == 3


def test_a_folder_beside_those_of_the_splits_is_no_class(tmp_path: Path) -> None:
    for name in ("train/ant/a", "train/bee/b", "test/ant/c", "test/bee/d", "unlabelled/e"):
        grey(tmp_path / f"photos/{name}.png", 40)
    assert find_unlabelled(config(root=str(tmp_path / "photos"), unlabelled=str(tmp_path / "photos/unlabelled"))) == 1
