"""What is done some rows at a time is what is done at once, by numpy and Pillow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from cgankd.data.readers import strips


@pytest.fixture(params=[1, 7, 60, 10**6], autouse=True)
def few_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP_PIXELS", request.param)


def some(shape: tuple[int, ...], high: int = 256, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, high, shape)


def test_strips_are_all_rows_once() -> None:
    for width, height in ((1, 1), (3, 11), (100, 2)):
        rows = [row for top, bottom in strips.strips(width, height) for row in range(top, bottom)]
        assert rows == list(range(height))


def test_a_ground_shines_through_as_pillow_has_it() -> None:
    image = Image.fromarray(some((11, 5, 4)).astype(np.uint8), "RGBA")
    whole = Image.alpha_composite(Image.new("RGBA", image.size, "#204060"), image).convert("RGB")
    assert (np.asarray(strips.laid_on(image, "#204060")) == np.asarray(whole)).all()


def test_the_ink_and_the_range_of_what_is_seen() -> None:
    pixels = some((11, 5, 4)).astype(np.uint8)
    pixels[:, :, 3] = np.where(some((11, 5), 3, 1) == 0, 0, pixels[:, :, 3])
    seen = pixels[pixels[:, :, 3] > 0][:, :3]
    assert strips.ink_and_range(Image.fromarray(pixels)) == (None, (seen.min(), seen.max()))
    pixels[:, :, :3] = [9, 8, 7]
    pixels[0, 0] = [1, 2, 3, 0]  # not seen
    assert strips.ink_and_range(Image.fromarray(pixels)) == ((9, 8, 7), (7, 9))
    pixels[:, :, 3] = 0
    assert strips.ink_and_range(Image.fromarray(pixels)) == (None, None)


def test_grey_is_seen_at_every_place() -> None:
    pixels = np.repeat(some((11, 5, 1)), 3, axis=2).astype(np.uint8)
    assert strips.is_grey(Image.fromarray(pixels))
    for row in (0, 6, 10):
        other = pixels.copy()
        other[row, 2, 1] ^= 1
        assert not strips.is_grey(Image.fromarray(other))
    assert strips.ends(Image.fromarray(pixels)) == (pixels.min(), pixels.max())
    assert strips.ends(Image.fromarray(pixels[:, :, 0])) == (pixels.min(), pixels.max())


@pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.int32, np.float32])
def test_values_of_many_bits(dtype: Any) -> None:
    values = some((11, 5), 60000).astype(dtype)
    entry = int(values[4, 3])
    levels, alpha = strips.to_levels(values, 100.0, 50000.0, entry)
    wide = values.astype(np.float64)
    assert (levels == np.clip(np.rint((wide - 100.0) * (255.0 / 49900.0)), 0, 255)).all()
    assert (alpha == np.where(wide == entry, 0, 255)).all() and (strips.to_levels(values, 0, 1, None)[1] == 255).all()
    rest = wide[wide != entry]
    assert strips.range_beside(values, entry) == (rest.min(), rest.max(), True)
    assert strips.range_beside(values, None) == (wide.min(), wide.max(), False)
    assert strips.range_beside(np.full_like(values, entry), entry) == (entry, entry, False), "nothing would be left"
    assert strips.all_finite(values)


def test_values_that_are_no_numbers_are_seen_at_every_place() -> None:
    for row in (0, 5, 10):
        values = np.zeros((11, 5), np.float32)
        values[row, 4] = np.nan
        assert not strips.all_finite(values)
