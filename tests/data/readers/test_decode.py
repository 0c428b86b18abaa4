"""What becomes of one image file: bits, transparency, fit, size, and files that are no good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cgankd.config import ConfigError
from cgankd.data.readers.decode import MAX_PIXELS, copy_image, deep, look_at, read_image
from tests.data.builders import data_config, save_picture

RNG = np.random.default_rng(3)
Array = np.ndarray[Any, Any]


def rules(**changes: Any) -> Any:
    return data_config(source="image-folder", **changes)


def saved(path: Path, values: Array, **how: Any) -> Path:
    Image.fromarray(values).save(path, **how)
    return path


def camera(side: int = 16) -> Array:
    """A picture of 12 bits."""
    return RNG.integers(256, 4096, (side, side)).astype(np.uint16)


def test_16_bits_are_brought_to_8_by_the_range_of_the_type_or_by_one_of_the_settings(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for suffix in ("png", "tif", "pgm"):
        pixels, notes = read_image(saved(tmp_path / f"a.{suffix}", values), rules())
        assert np.array_equal(pixels[0], np.rint(values / 257).astype(np.uint8)), suffix
        assert notes == {"images_deep"}
    twelve = camera()
    pixels, _ = read_image(saved(tmp_path / "b.png", twelve), rules(pixel_range=(256.0, 4095.0)))
    assert np.abs(pixels[0] - (twelve - 256.0) * 255 / 3839).max() <= 0.5
    # Values outside of the range, which a new image may have, are its ends.
    pixels, _ = read_image(saved(tmp_path / "b.png", twelve), rules(pixel_range=(1000.0, 2000.0)))
    assert (pixels[0][twelve <= 1000] == 0).all() and (pixels[0][twelve >= 2000] == 255).all()


def test_a_transparent_value_of_16_bits_is_laid_on_the_background(tmp_path: Path) -> None:
    values = camera()
    values[:4] = 7
    path = saved(tmp_path / "a.png", values, transparency=7)
    pixels, notes = read_image(path, rules(pixel_range=(256.0, 4095.0), background="#404040"))
    assert "images_transparent" in notes and (pixels[0, :4] == 64).all()
    assert np.abs(pixels[0, 4:] - (values[4:] - 256.0) * 255 / 3839).max() <= 0.5
    assert look_at(path).low >= 256


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_other_kinds_need_a_range(tmp_path: Path, kind: type[Any]) -> None:
    values = (RNG.random((16, 16)) * 1000 - 500).astype(kind)
    path = saved(tmp_path / "a.tif", values)
    with pytest.raises(ConfigError, match=r"a\.tif has more than 8 bits a channel .* set data.pixel_range"):
        read_image(path, rules())
    pixels, _ = read_image(path, rules(pixel_range=(-500.0, 500.0), channels=3))
    assert np.abs(pixels[0] - (values + 500.0) * 0.255).max() <= 0.5 and np.array_equal(pixels[0], pixels[2])


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", np.full((16, 16), np.nan, np.float32))
    for look in (lambda: read_image(path, rules(pixel_range=(0.0, 1.0))), lambda: look_at(path)):
        with pytest.raises(ConfigError, match="no finite numbers"):
            look()


def test_colour_of_16_bits_is_told(tmp_path: Path) -> None:
    import struct
    import zlib

    values = RNG.integers(0, 65536, (16, 16, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    pixels, notes = read_image(tmp_path / "a.png", rules(channels=3))
    assert notes == {"images_deep"}
    assert np.array_equal(pixels, (values // 256).astype(np.uint8).transpose(2, 0, 1))


def shape(mode: str, ground: tuple[int, ...]) -> tuple[Image.Image, Array]:
    """A square cut out, over a ground of any colour that must not be seen; and where it is."""
    image = Image.new("RGB", (16, 16), ground[:3])
    mask = Image.new("L", (16, 16), 0)
    ImageDraw.Draw(image).rectangle([4, 4, 11, 11], fill=(200, 30, 60))
    ImageDraw.Draw(mask).rectangle([4, 4, 11, 11], fill=255)
    inside = np.asarray(mask) == 255
    if mode == "P":
        indexed = image.quantize(4)
        indexed.info["transparency"] = int(np.asarray(indexed)[0, 0])
        return indexed, inside
    if mode == "LA":
        image = image.convert("L")
    image.putalpha(mask)
    return image, inside


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_lies_under_transparent_parts_is_not_seen(tmp_path: Path, mode: str, channels: int) -> None:
    found = []
    for ground in ((0, 255, 0), (0, 0, 0), (9, 9, 99)):
        image, inside = shape(mode, ground)
        image.save(tmp_path / "a.png")
        pixels, notes = read_image(tmp_path / "a.png", rules(channels=channels))
        assert notes == {"images_transparent"} and (pixels[:, ~inside] == 255).all()
        found.append(pixels[:, inside])
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    pixels, _ = read_image(tmp_path / "a.png", rules(channels=3, background="#102030"))
    assert (pixels[:, 0, 0] == (0x10, 0x20, 0x30)).all()


def test_drawings_in_alpha_alone_are_seen(tmp_path: Path) -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    ImageDraw.Draw(image).line([0, 0, 15, 15], fill=(0, 0, 0, 255))
    image.save(tmp_path / "a.png")
    pixels, _ = read_image(tmp_path / "a.png", rules())
    assert np.array_equal(pixels[0] == 0, np.eye(16, dtype=bool)) and pixels.max() == 255
    white = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    ImageDraw.Draw(white).line([0, 0, 15, 15], fill=(255, 255, 255, 255))
    white.save(tmp_path / "b.png")
    assert look_at(tmp_path / "b.png").ink == (255, 255, 255) and look_at(tmp_path / "a.png").ink == (0, 0, 0)
    image, _ = shape("RGBA", (0, 0, 0))
    image.putpixel((5, 5), (1, 2, 3, 255))
    image.save(tmp_path / "c.png")
    assert look_at(tmp_path / "c.png").ink is None
    Image.new("RGBA", (16, 16), (9, 9, 9, 0)).save(tmp_path / "d.png")
    assert look_at(tmp_path / "d.png").notes == {"images_transparent", "images_blank"}


def test_an_alpha_channel_that_hides_nothing_changes_nothing(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", 1)
    with Image.open(tmp_path / "a.png") as file:
        image = file.copy()
    plain, _ = read_image(tmp_path / "a.png", rules(channels=3, background="#000000"))
    image.putalpha(255)
    image.save(tmp_path / "b.png")
    layered, notes = read_image(tmp_path / "b.png", rules(channels=3, background="#000000"))
    assert np.array_equal(plain, layered) and not notes


def bars(path: Path, turned: bool = False) -> Path:
    """32 x 16, white in the middle; or the same stored on its side, with the tag that says so."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 8:24] = 255
    image = Image.fromarray(pixels)
    if not turned:
        image.save(path)
        return path
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    return path


@pytest.mark.parametrize("turned", [False, True])
def test_images_become_square_as_the_settings_say(tmp_path: Path, turned: bool) -> None:
    path = bars(tmp_path / "a.png", turned)
    with pytest.raises(ConfigError, match=r"a\.png is 32x16, but images must be square"):
        read_image(path, rules())
    crop, notes = read_image(path, rules(fit="crop"))
    assert (crop == 255).all() and notes == {"images_resized", "images_fitted", "images_blank"}
    pad, _ = read_image(path, rules(fit="pad"))
    assert (pad[0, :4] == 85).all() and (pad[0, 4:12, 4:12] == 255).all() and (pad[0, 4:12, :4] == 0).all()
    own, _ = read_image(path, rules(fit="pad", pad_colour="#ff0000", channels=3))
    assert (own[:, 0, 0] == (255, 0, 0)).all() and np.array_equal(own[1, 4:12], pad[0, 4:12])
    stretched, _ = read_image(path, rules(fit="stretch"))
    assert (stretched[0, :, 4:12] == 255).all() and (stretched[0, :, :4] == 0).all()


def test_small_images_are_enlarged_on_request_alone(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", 1, size=(12, 40))
    for fit in ("crop", "stretch"):
        with pytest.raises(ConfigError, match=r"a\.png is 12x40, smaller than data.image_size 16"):
            read_image(tmp_path / "a.png", rules(fit=fit))
        assert "images_enlarged" in read_image(tmp_path / "a.png", rules(fit=fit, enlarge=True))[1]
    assert "images_enlarged" not in read_image(tmp_path / "a.png", rules(fit="pad"))[1]  # its square is 40 x 40


def test_a_very_long_image_is_padded_without_a_very_large_square(tmp_path: Path) -> None:
    Image.new("L", (100_000, 50), 90).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", rules(fit="pad"))[0] == 90).all()


@pytest.mark.parametrize("side", [8200, 10000, 14000])
def test_an_image_of_too_many_pixels_is_named_with_the_limit(tmp_path: Path, side: int) -> None:
    Image.new("1", (side, side)).save(tmp_path / "a.png")
    words = f"a.png has {side**2 / 1e6:.0f} megapixels, more than the 67 that are read; make it smaller"
    assert side**2 > MAX_PIXELS
    for read in (lambda: read_image(tmp_path / "a.png", rules()), lambda: look_at(tmp_path / "a.png")):
        with pytest.raises(ConfigError, match=words):
            read()


def test_copies_are_read_as_they_are(tmp_path: Path) -> None:
    own = rules(fit="pad", pixel_range=(256.0, 4095.0))
    saved(tmp_path / "a.tif", camera(20)[:18])
    copy_image(tmp_path / "a.tif", tmp_path / "new/a.png", own)
    pixels, notes = read_image(tmp_path / "new/a.png", own)
    assert np.array_equal(pixels, read_image(tmp_path / "a.tif", own)[0]) and not notes


def test_only_files_of_more_than_8_bits_are_deep(tmp_path: Path) -> None:
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK"):
        Image.new(mode, (16, 16)).save(tmp_path / "a.tif")
        with Image.open(tmp_path / "a.tif") as file:
            assert deep(file) == "", mode


def test_the_first_of_several_pictures_is_used_and_that_is_noted(tmp_path: Path) -> None:
    pictures = [Image.new("L", (16, 16), level) for level in (10, 200)]
    for suffix in ("gif", "tif"):
        pictures[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=pictures[1:])
        pixels, notes = read_image(tmp_path / f"a.{suffix}", rules())
        assert (pixels == 10).all() and "images_several" in notes
