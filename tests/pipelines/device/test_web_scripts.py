"""The page's scripts against the code of `predict`: prepared pixels to the bit, answers to the letter."""

from __future__ import annotations

import base64
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cgankd.config import ConfigError, to_dict
from cgankd.data.readers.decode import read_image
from cgankd.labels.answers import Margin, make_answer
from cgankd.types import DatasetInfo
from pipelines.device import web
from pipelines.ship.predict import reading_cells
from tests.pipelines.device.node import need_node, run_node
from tests.pipelines.device.pages import info_of

PREPARE = """
  const { prepare } = globalThis.cgankdPrepare;
  return given.map(({ rgba, width, height, rules }) => {
    const data = new Uint8ClampedArray(Buffer.from(rgba, "base64"));
    const read = (left, top, wide, high) => {
      const out = new Uint8ClampedArray(4 * wide * high);
      for (let y = 0; y < high; y++) {
        const begin = 4 * ((top + y) * width + left);
        out.set(data.subarray(begin, begin + 4 * wide), 4 * y * wide);
      }
      return out;
    };
    try { return Buffer.from(prepare({ width, height, read }, rules)).toString("base64"); }
    catch (problem) { return { refused: problem.message }; }
  });
"""
ANSWERS = """
  const { read, cells } = globalThis.cgankdAnswer;
  return given.map(({ values, model }) => cells(read(Float32Array.from(values), model)));
"""
pytestmark = need_node


def picture(rng: np.random.Generator, mode: str, width: int, height: int) -> Image.Image:
    """Noise, which shows every weight of a filter, in one of Pillow's modes."""
    if mode == "P":
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).quantize(16)
        image.info["transparency"] = 3
        return image
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = rng.integers(0, 256, (height, width, bands), dtype=np.uint8)
    if mode in ("LA", "RGBA"):
        pixels[..., -1] = np.where(rng.random((height, width)) < 0.5, 255, pixels[..., -1])
    return (
        Image.fromarray(pixels[..., 0] if bands == 1 else pixels, mode)
        if mode != "L"
        else Image.fromarray(pixels[..., 0])
    )


def rules_of(info: DatasetInfo) -> dict[str, Any]:
    """The rules as the page has them."""
    model = web._model("student.onnx", b"", web.Page("", info, None))
    shown = {"size": info.image_size, "channels": info.channels, "fit": info.fit, "enlarge": info.enlarge}
    return {**model["rules"], **shown}


def both(folder: Path, cases: list[tuple[Image.Image, DatasetInfo]]) -> list[tuple[Any, Any]]:
    """For each picture what `predict` makes of the file and what the page makes of its pixels."""
    given, expected = [], []
    for i, (image, info) in enumerate(cases):
        path = folder / f"{i}.png"
        image.save(path)
        try:
            expected.append(read_image(path, info)[0])
        except ConfigError as problem:
            expected.append(str(problem))
        with Image.open(path) as file:
            pixels = np.array(file.convert("RGBA"))
        rgba = base64.b64encode(pixels.tobytes()).decode()
        given.append({"rgba": rgba, "width": image.width, "height": image.height, "rules": rules_of(info)})
    found = []
    for (_, info), entry in zip(cases, run_node(PREPARE, given), strict=True):
        shape = (info.channels, info.image_size, info.image_size)
        refused = isinstance(entry, dict)
        found.append(entry if refused else np.frombuffer(base64.b64decode(entry), np.uint8).reshape(shape))
    return list(zip(expected, found, strict=True))


def test_prepared_pixels_are_those_of_predict_to_the_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = []
    sizes = [
        (8, 8),
        (16, 16),
        (40, 40),
        (23, 61),
        (61, 23),
        (5, 5),
        (7, 3),
        (8, 30),
        (17, 16),
        (8, 9),
        (20, 32),
        (20, 33),
        (5, 30),
        (4, 7),
    ]
    for mode in ("L", "RGB", "RGBA", "LA", "P"):
        for width, height in sizes:
            for fit in ("crop", "pad", "stretch"):
                channels = int(rng.choice([1, 3]))
                pad = str(rng.choice(["#00ff80", "#808080"])) if rng.random() < 0.5 else None
                info = info_of(fit=fit, enlarge=True, channels=channels, pad_colour=pad, background="#c08010")
                cases.append((picture(rng, mode, width, height), info))
    results = both(tmp_path, cases)
    bad = [
        (image.mode, image.size, info.fit, info.channels, info.pad_colour)
        for (image, info), (expected, found) in zip(cases, results, strict=True)
        if isinstance(found, dict) or not np.array_equal(expected, found)
    ]
    assert len(results) == 210 and bad == []


def test_large_pictures_go_through_in_bands(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cases = [
        (picture(rng, "RGB", *size), info_of(fit=fit)) for size in ((300, 530), (70, 600)) for fit in ("pad", "stretch")
    ]
    for expected, found in both(tmp_path, cases):
        assert np.array_equal(expected, found)


def test_order_of_an_older_library_is_kept_where_the_page_was_made_with_one(tmp_path: Path) -> None:
    image = picture(np.random.default_rng(6), "L", 23, 61)
    box = Image.Resampling.BOX
    rgba = base64.b64encode(np.array(image.convert("RGBA")).tobytes()).decode()
    rules = rules_of(info_of(channels=1, fit="stretch"))
    for tall_first, between in ((False, (8, 61)), (True, (23, 8))):
        given = [{"rgba": rgba, "width": 23, "height": 61, "rules": rules | {"tallFirst": tall_first}}]
        found = base64.b64decode(run_node(PREPARE, given)[0])
        assert found == image.resize(between, box).resize((8, 8), box).tobytes()


def test_mean_of_an_edge_that_lies_between_two_levels_is_rounded_to_the_even_one(tmp_path: Path) -> None:
    cases = []
    for low in (10, 11):
        pixels = np.full((8, 12), low, np.uint8)
        pixels[:, 6:] += 1
        cases.append((Image.fromarray(pixels), info_of(channels=1, fit="pad", image_size=12)))
    for expected, found in both(tmp_path, cases):
        assert np.array_equal(expected, found)


def test_what_predict_refuses_the_page_refuses(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    refused = [
        (picture(rng, "RGB", 12, 9), info_of(), "choose crop, pad or stretch"),
        (picture(rng, "RGB", 7, 7), info_of(), "allow enlarging"),
        (picture(rng, "RGB", 30, 5), info_of(fit="crop"), "allow enlarging"),
        (picture(rng, "RGB", 30, 5), info_of(fit="stretch"), "allow enlarging"),
    ]
    for (expected, found), (_, _, words) in zip(both(tmp_path, [case[:2] for case in refused]), refused, strict=True):
        assert isinstance(expected, str) and words in found["refused"]
    ((expected, found),) = both(tmp_path, [(picture(rng, "RGB", 30, 5), info_of(fit="pad"))])
    assert np.array_equal(expected, found)


def test_pictures_too_large_for_predict_are_refused_before_they_are_read() -> None:
    script = """
      const read = () => { throw new Error("read"); };
      return [[10000, 7000, "crop"], [8193, 10, "pad"]].map(([width, height, fit]) => {
        try { globalThis.cgankdPrepare.prepare({ width, height, read }, { ...given, fit }); }
        catch (problem) { return problem.message; }
      });
    """
    pixels, padded = run_node(script, rules_of(info_of()))
    assert "70 megapixels" in pixels and "8192 px at most" in padded


def test_pictures_of_many_bits_are_known_by_their_head(tmp_path: Path) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(tmp_path / "deep.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    heads = [list((tmp_path / name).read_bytes()[:32]) for name in ("deep.png", "plain.png", "photo.jpg")]
    script = "return given.map((head) => globalThis.cgankdPrepare.isDeep(Uint8Array.from(head)));"
    assert run_node(script, heads) == [True, False, False]


def said(answers: torch.Tensor, info: DatasetInfo, margin: Margin | None) -> list[tuple[str, str, str]]:
    """What the table of `predict` shows."""
    rows = []
    for reading in make_answer(info).read(answers, margin):
        label, confidence, region = reading_cells(reading)
        rows.append(
            (
                label,
                confidence,
                (region or "none fits") + (f" (over {reading.seam:g})" if reading.seam is not None else ""),
            )
        )
    return rows


def test_class_answers_are_those_of_predict() -> None:
    info = info_of()
    answers = torch.softmax(3 * torch.randn(60, 3, generator=torch.Generator().manual_seed(4)), dim=1)
    ties = torch.tensor([[0.03125, 0.5, 0.46875], [0.96875, 0.03125, 0.0]])
    check([(torch.cat([answers, ties]), info, margin_of(width)) for width in (None, 0.0, 0.3, 0.8, 1.0)])


def test_scalar_answers_are_those_of_predict() -> None:
    cases = []
    for low, high, period in [(0, 100, None), (0, 360, 360), (-180, 180, 360), (20, 200, 360), (-1e-7, 1e7, None)]:
        info = info_of("scalar", label_min=float(low), label_max=float(high), label_period=period)
        drawn = low + (high - low) * torch.rand(60, 1, generator=torch.Generator().manual_seed(5))
        ends = torch.tensor([[low], [high], [0.0], [1e-5], [123456.7], [999999.5], [100000.5]]).clamp(low, high)
        cases += [(torch.cat([drawn, ends]), info, margin_of(width)) for width in (None, 3.25, 40.0, 250.0)]
    check(cases)


def margin_of(width: float | None) -> Margin | None:
    return None if width is None else Margin(0.9, width, 40)


def check(cases: list[tuple[torch.Tensor, DatasetInfo, Margin | None]]) -> None:
    """Hold the page's words for answers against those of `predict`."""
    given: list[Any] = []
    expected: list[tuple[str, str, str]] = []
    for answers, info, margin in cases:
        model = {"info": {"label_period": None} | to_dict(info), "margin": None if margin is None else asdict(margin)}
        given += [{"values": row, "model": model} for row in answers.tolist()]
        expected += said(answers, info, margin)
    found = [(row["label"], row["confidence"], row["region"]) for row in run_node(ANSWERS, given)]
    assert len(found) > 300 and found == expected
