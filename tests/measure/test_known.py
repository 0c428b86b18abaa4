"""Images that are labelled already among others: copies changed in every way that is claimed, and nothing else."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cgankd.config import config_from_dict
from cgankd.data.readers.digits import load_digits
from cgankd.measure import known
from cgankd.measure.known import difference, known_images, repeats, shifted
from cgankd.rng import generator
from tests.conftest import preset


def pictures(num: int, size: int, channels: int, seed: int) -> Tensor:
    """Random smooth pictures with some detail, no two alike."""
    gen = generator("pictures", seed)
    # Colour changes slowly, as in photographs, whose JPEG files have it at half the size.
    parts = [(1.0, channels, 3), (0.6, 1, 6), (0.15, 1, size)]
    drawn = [(share, torch.rand(num, of, side, side, generator=gen)) for share, of, side in parts]
    images = sum(share * F.interpolate(part, size=(size, size), mode="bicubic") for share, part in drawn) / 1.75
    return (255 * (0.1 + 0.7 * images.clamp(0, 1))).to(torch.uint8)


def as_pil(image: Tensor) -> Image.Image:
    pixels = image.numpy()
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def from_pil(image: Image.Image) -> Tensor:
    pixels = np.array(image)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def jpeg(image: Tensor) -> Tensor:
    stream = io.BytesIO()
    as_pil(image).save(stream, "JPEG", quality=75)
    return from_pil(Image.open(io.BytesIO(stream.getvalue())))


def resized(image: Tensor) -> Tensor:
    size = image.shape[1]
    other = as_pil(image).resize((3 * size // 2, 3 * size // 2), Image.Resampling.BILINEAR)
    return from_pil(other.resize((size, size), Image.Resampling.BICUBIC))


def brighter(image: Tensor) -> Tensor:
    return (1.3 * image.float()).clamp(0, 255).to(torch.uint8)


def darker(image: Tensor) -> Tensor:
    return (0.7 * image.float() - 10).clamp(0, 255).to(torch.uint8)


def moved(image: Tensor) -> Tensor:
    return shifted(image[None], 1, 0)[0]


def moved_askew(image: Tensor) -> Tensor:
    """Moved by a pixel both ways, with black where nothing was."""
    return F.pad(image[:, 1:, :-1], (1, 0, 0, 1))


CHANGES: list[Callable[[Tensor], Tensor]] = [jpeg, moved, moved_askew, brighter, darker, resized]


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (32, 3), (64, 3), (16, 3)])
def test_twenty_copies_and_twenty_near_copies_are_all_found_and_nothing_else(size: int, channels: int) -> None:
    test, others = pictures(60, size, channels, seed=1), pictures(80, size, channels, seed=2)
    near = torch.stack([CHANGES[place % len(CHANGES)](test[20 + place]) for place in range(20)])
    found = known_images(torch.cat([others[:40], test[:20], near, others[40:]]), {"test": test})
    assert found.row_U[40:60].tolist() == list(range(20)) and bool(found.exact_U[40:60].all())
    assert found.row_U[60:80].tolist() == list(range(20, 40)) and not found.exact_U[60:80].any()
    strangers = torch.cat([found.part_U[:40], found.part_U[80:]])
    assert strangers.eq(-1).all() and found.part_U[40:80].eq(0).all()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_of_real_digits_too(change: Callable[[Tensor], Tensor]) -> None:
    """Small grey images, many of them alike; those of one split are no copies of the other's."""
    data = load_digits(config_from_dict(preset("digits")).data, 0)
    mine, others = data.test.images[:100], data.test.images[100:400]
    found = known_images(torch.cat([torch.stack([change(image) for image in mine]), others]), {"test": mine})
    assert int((found.row_U[:100] == torch.arange(100)).sum()) >= 99
    assert int((found.part_U[100:] >= 0).sum()) <= 1


def test_the_first_set_counts_and_rows_are_those_of_the_set() -> None:
    test, train = pictures(5, 32, 3, seed=1), pictures(4, 32, 3, seed=2)
    found = known_images(
        torch.stack([train[3], test[2], jpeg(train[1])]), {"test": test, "train": torch.cat([train, test])}
    )
    assert found.part_U.tolist() == [1, 0, 1] and found.row_U.tolist() == [3, 2, 1]
    assert found.exact_U.tolist() == [True, True, False]


def test_blocks_of_any_size_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    test = pictures(50, 32, 3, seed=1)
    query = torch.cat([torch.stack([moved(image) for image in test[:30]]), pictures(30, 32, 3, seed=3)])
    whole = known_images(query, {"a": test[:20], "b": test[20:]})
    for name, size in (("ROWS", 7), ("SEARCHED", 11), ("PAIRS", 5)):
        monkeypatch.setattr(known, name, size)
    parts = known_images(query, {"a": test[:20], "b": test[20:]})
    assert torch.equal(whole.part_U, parts.part_U) and torch.equal(whole.row_U, parts.row_U)
    assert whole.row_U[:30].tolist() == [*range(20), *range(10)]


@pytest.mark.parametrize("shift", known.SHIFTS)
def test_the_difference_by_numpy(shift: tuple[int, int]) -> None:
    """1 - correlation over the inner pixels that are cut off in neither image, the first moved back."""
    one, other = pictures(6, 16, 1, seed=1), pictures(6, 16, 1, seed=2)
    one[:, :, 4:7, 4:7] = 255
    dy, dx = shift
    found = difference(one, other, dy, dx)
    for place in range(6):
        a, b = one[place, 0].numpy().astype(float), other[place, 0].numpy().astype(float)
        cut, fixed = a[1 - dy : 15 - dy, 1 - dx : 15 - dx], b[1:15, 1:15]
        seen = (cut > 4) & (cut < 251) & (fixed > 4) & (fixed < 251)
        assert float(found[place]) == pytest.approx(1 - np.corrcoef(cut[seen], fixed[seen])[0, 1], abs=1e-4)
    moved_on = shifted(other, dy, dx)
    assert bool((difference(shifted(moved_on, -dy, -dx), other, 0, 0) < 1e-5).all())


def test_images_that_show_nothing_are_copies_only_where_they_are_equal() -> None:
    test = torch.stack([torch.full((1, 32, 32), value, dtype=torch.uint8) for value in (0, 128)])
    query = torch.stack([torch.full((1, 32, 32), value, dtype=torch.uint8) for value in (0, 129, 128)])
    assert known_images(query, {"test": test}).row_U.tolist() == [0, -1, 1]


def test_nothing_is_found_among_nothing() -> None:
    empty = torch.empty(0, 3, 32, 32, dtype=torch.uint8)
    assert len(known_images(empty, {"test": pictures(3, 32, 3, seed=1)}).part_U) == 0


def test_repeats_are_all_but_the_first() -> None:
    a, b = pictures(2, 16, 1, seed=1)
    assert repeats(torch.stack([a, b, a, a, b])).tolist() == [False, False, True, True, True]
