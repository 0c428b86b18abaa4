"""`cgankd init` on images as people bring them: what is refused at once, what is said, and what is written."""

from __future__ import annotations

import csv
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from cgankd.config import ConfigError
from cgankd.data.readers.sources import load
from pipelines.commands.app import app
from pipelines.files.params import load_config, read_params
from pipelines.project import init as module
from pipelines.project.appearing import appearing
from pipelines.project.init import Plan, Wish, init, make_plan, summary
from tests.data.builders import save_picture


def fill(root: Path, *names: str, num: int = 10, size: tuple[int, int] = (20, 20), suffix: str = ".png") -> Path:
    for at, name in enumerate(names):
        for i in range(num):
            save_picture(root / name / f"{i}{suffix}", 100 * at + i, size=size)
    return root


def deep(root: Path, kind: type[Any], low: float, high: float, size: tuple[int, int] = (20, 20)) -> Path:
    """Images of many bits, their values from low to high."""
    for name in ("good", "cracked"):
        for i in range(6):
            values = np.linspace(low, high, size[0] * size[1]).reshape(size[::-1])
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.roll(values, i, 0).astype(kind)).save(root / name / f"{i}.tif")
    return root


@pytest.fixture()
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Projects without git and DVC, which take most of the time."""
    monkeypatch.setattr(module, "make_repository", lambda *args: None)


def made(project: Path, images: Path, **wish: Any) -> tuple[Plan, dict[str, Any]]:
    plan = make_plan(project, images, None, Wish(**wish))
    init(plan, lambda text: None)
    values: dict[str, Any] = read_params(project / "params.yaml")["data"]
    return plan, values


def test_all_files_that_are_no_good_are_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = fill(tmp_path / "in", "ant", "bee", num=20, size=(64, 48), suffix=".jpg")
    for i in range(11):
        path = root / "ant" / f"{i}.jpg"
        path.write_bytes(path.read_bytes()[:-300])
    (root / "bee/gone.png").symlink_to(tmp_path / "nowhere.png")
    save_picture(root / "bee/spacer.gif", 1, size=(1, 1))
    for options in ([], ["--square", "crop"], ["--square", "pad", "--copy"]):
        done = CliRunner().invoke(app, ["init", "p", "--images", "in", *options])
        assert done.exit_code == 2 and "13 of 42 files cannot be used" in done.output and "--skip-broken" in done.output
        assert done.output.count("truncated") == 10 and "and 3 more" in done.output
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    plan = make_plan(tmp_path / "p", root, None, Wish(fit="crop", skip_broken=True))
    lines = "\n".join(summary(plan))
    assert "13 files skipped" in lines and "and 3 more" in lines and "images by class: ant 9, bee 20" in lines


@pytest.mark.usefixtures("bare")
def test_broken_files_are_skipped_by_prepare_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path / "in", "ant", "bee")
    (root / "ant/bad.png").write_bytes(b"bad")
    plan, values = made(tmp_path / "p", root, skip_broken=True)
    assert values["skip_broken"] is True and len(plan.skipped) == 1
    monkeypatch.chdir(tmp_path / "p")
    data = load(load_config(Path("params.yaml")).data, 0)
    assert len(data.train) + len(data.val) + len(data.test) == 20 and data.account.counts["files_skipped"] == 1
    assert any("bad.png cannot be read as an image" in line for line in data.account.lines)
    assert made(tmp_path / "whole", fill(tmp_path / "good", "ant", "bee"), skip_broken=True)[1]["skip_broken"] is False


@pytest.mark.usefixtures("bare")
def test_a_list_with_broken_files_and_lines_is_read_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(24):
        save_picture(tmp_path / f"in/{i}.png", i)
    (tmp_path / "in/7.png").write_bytes(b"bad")
    names = ('6" nail, steel', "x")
    with (tmp_path / "in/list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *([f"{i}.png", names[i % 2]] for i in range(24))])
    with pytest.raises(ConfigError, match="1 of 24 files cannot be used"):
        make_plan(tmp_path / "p", None, tmp_path / "in/list.csv")
    with (tmp_path / "in/list.csv").open("a", newline="") as file:
        csv.writer(file).writerows([["gone.png", "x"], ["3.png", "y"], ["8.png"]])
    with pytest.raises(
        ConfigError, match="(?s)listed before.*: 28.*; and .*gone.png.*; and 1 of 23 files cannot.*7.png"
    ):
        make_plan(tmp_path / "p", None, tmp_path / "in/list.csv")
    plan = make_plan(tmp_path / "p", None, tmp_path / "in/list.csv", Wish(skip_broken=True, task="class"))
    assert len(plan.skipped) == 4 and "4 files or lines skipped" in "\n".join(summary(plan))
    init(plan, lambda text: None)
    monkeypatch.chdir(tmp_path / "p")
    section = load_config(Path("params.yaml")).data
    assert section.skip_broken and not (tmp_path / "p/data").exists()
    data = load(section, 0)
    assert sum(map(len, data.splits().values())) == 22 and data.info.class_names == names
    assert (data.account.counts["lines_skipped"], data.account.counts["files_skipped"]) == (3.0, 1.0)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("whole", [False, True])
def test_labels_that_are_no_numbers_are_skipped_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, whole: bool
) -> None:
    lines = ["path,label"]
    for i in range(60):
        save_picture(tmp_path / f"in/{i}.png", i, size=(20, 20))
        lines.append(f"{i}.png,{'nan' if i == 5 else i % 3 if whole else i / 2}")
    (tmp_path / "in/list.csv").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"list.csv:7: label 'nan' is not a finite number, but 59 of 60"):
        make_plan(tmp_path / "p", None, tmp_path / "in/list.csv")
    init(make_plan(tmp_path / "p", None, tmp_path / "in/list.csv", Wish(skip_broken=True)), lambda text: None)
    monkeypatch.chdir(tmp_path / "p")
    section = load_config(Path("params.yaml")).data
    data = load(section, 0)
    assert sum(map(len, data.splits().values())) == 59 and (section.task == "class") is whole
    assert data.info.class_names == (("0", "1", "2") if whole else ())


def test_numbers_that_are_names(tmp_path: Path) -> None:
    def plan_of(label: Any) -> Plan:
        lines = ["path,label"]
        for i in range(60):
            save_picture(tmp_path / f"in/{i}.png", i, size=(20, 20))
            lines.append(f"{i}.png,{label(i)}")
        (tmp_path / "in/list.csv").write_text("\n".join(lines))
        return make_plan(tmp_path / "p", None, tmp_path / "in/list.csv")

    plan = plan_of(lambda i: f"{1007 * (i % 12):05d}")
    assert not plan.data.scalar and "labels such as '00000' have zeros in front" in plan.data.why
    plan = plan_of(lambda i: ("007", "7", "12", "012")[i % 4])
    assert set(plan.data.labels) == {"7", "12"} and "'007' and '7'" in "\n".join(summary(plan))
    with pytest.raises(ConfigError, match=r"labels such as '0.0 kg' are measured, write them as plain numbers"):
        plan_of(lambda i: f"{i / 2} kg")
    assert "far from all other labels" in "\n".join(summary(plan_of(lambda i: -999 if i % 5 == 0 else i / 2)))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("0 cm", "10 cm", "25 cm"), True),
        (("5%", "10%", "2.5%"), True),
        (("$ 3", "$ 12", "$ 4.50"), True),
        (("2024-01-05", "2024-02-01"), True),
        (("1_10", "1_11", "2_10"), False),
        (("cat 1", "cat 2"), False),
        (("1 a", "1 b", "2 a"), False),
        (("3", "4", "5"), False),
        (("ant", "bee"), False),
    ],
)
def test_classes_that_are_numbers_with_a_unit_are_asked_about(
    tmp_path: Path, labels: tuple[str, ...], said: bool
) -> None:
    plan = make_plan(tmp_path / "p", None, classes(tmp_path / "in", labels))
    assert not plan.data.scalar
    assert ("are taken for names; if they are measured, write them as plain" in "\n".join(summary(plan))) is said


@pytest.mark.parametrize("word", ["nan", "N/A", "None", "NULL", "-"])
def test_a_class_that_stands_for_no_label_is_said(tmp_path: Path, word: str) -> None:
    plan = make_plan(tmp_path / "p", None, classes(tmp_path / "in", ("ant", "bee", word)))
    assert f"WARNING: 20 images are of a class {word!r}, which often stands for no label" in "\n".join(summary(plan))


def test_measured_labels_with_units_are_told_how_to_be_written(tmp_path: Path) -> None:
    listed = classes(tmp_path / "in", [f"{i} cm" for i in range(60)])
    with pytest.raises(ConfigError, match="'0 cm'; write them as plain numbers alone"):
        make_plan(tmp_path / "p", None, listed, Wish(task="scalar"))
    dates = classes(tmp_path / "in", [f"2024-01-{1 + i:02d}" for i in range(28)])
    with pytest.raises(ConfigError, match="labels such as '2024-01-01' are measured, write them"):
        make_plan(tmp_path / "p", None, dates)


def classes(folder: Path, labels: Sequence[str]) -> Path:
    """A list of 60 images whose labels take turns."""
    for i in range(60):
        save_picture(folder / f"{i}.png", i, size=(20, 20))
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *((f"{i}.png", labels[i % len(labels)]) for i in range(60))])
    return folder / "list.csv"


def test_values_that_fill_a_small_part_of_16_bits_are_refused_where_they_cannot_be_stretched(tmp_path: Path) -> None:
    root = deep(tmp_path / "grey", np.uint16, 256, 4000)
    with pytest.raises(ConfigError, match="12 images have more than 8 bits.* and 1 have 8 bits.*nearly black"):
        save_picture(root / "good/plain.png", 1, size=(20, 20), mode="L")
        make_plan(tmp_path / "p", root, None)
    root = tmp_path / "colour"
    for name in ("a", "b"):
        for i in range(6):
            colour_16(root / name / f"{i}.png", np.full((20, 20, 3), 4000) + 8 * i)
    with pytest.raises(
        ConfigError, match="12 images have 16 bits a colour, of which the upper 8 are used, but 12 .*black"
    ):
        make_plan(tmp_path / "p", root, None)
    with_alpha = tmp_path / "alpha"  # the white ground behind them makes no dark image a bright one
    for name in ("a", "b"):
        for i in range(6):
            alpha = np.where(np.arange(20)[:, None, None] < 5, 0, 65535) + np.zeros((20, 20, 1), int)
            colour_16(
                with_alpha / name / f"{i}.png", np.concatenate([np.full((20, 20, 3), 4000) + 8 * i, alpha], axis=2)
            )
    with pytest.raises(ConfigError, match="but 12 of them would be nearly black"):
        make_plan(tmp_path / "p", with_alpha, None)
    colour = np.random.default_rng(0).integers(0, 65536, (20, 20, 3))
    for name in ("a", "b"):
        for i in range(6):
            colour_16(root / name / f"{i}.png", np.roll(colour, i, 0))
    assert "0 becomes black and 65535 white" in "\n".join(summary(make_plan(tmp_path / "p", root, None)))


def colour_16(path: Path, values_HWC: Any) -> None:
    """A PNG of 16 bits a colour, with or without transparency, which Pillow reads but does not write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, channels = values_HWC.shape
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWC)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0),
        b"IDAT": zlib.compress(lines),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.usefixtures("bare")
def test_a_link_to_itself_is_a_file_that_is_no_good(tmp_path: Path) -> None:
    root = fill(tmp_path / "in", "ant", "bee")
    (root / "ant/x.png").symlink_to("x.png")
    with pytest.raises(ConfigError, match="1 of 21 files cannot be used"):
        make_plan(tmp_path / "p", root, None)
    assert len(make_plan(tmp_path / "p", root, None, Wish(skip_broken=True)).data.paths) == 20


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("copying", [False, True])
def test_images_that_are_not_square_need_no_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: str, copying: bool
) -> None:
    """In place or as copies the data set is the same, and keeps the fit for new images."""
    root = fill(tmp_path / "in", "ant", "bee", size=(48, 32))
    _, values = made(tmp_path / "p", root, fit=fit, copying=copying)
    assert values["fit"] == fit and values["root"] == ("data/images" if copying else str(root))
    monkeypatch.chdir(tmp_path / "p")
    data = load(load_config(Path("params.yaml")).data, 0)
    assert data.info.fit == fit and data.info.image_size == 32
    means = sorted(float(image.float().mean()) for split in data.splits().values() for image in split.images)
    monkeypatch.chdir(tmp_path)
    _, _ = made(tmp_path / "other", root, fit=fit, copying=not copying)
    monkeypatch.chdir(tmp_path / "other")
    other = load(load_config(Path("params.yaml")).data, 0)
    assert means == sorted(float(image.float().mean()) for split in other.splits().values() for image in split.images)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [(np.uint16, 256, 4000), (np.int32, 0, 100_000), (np.float32, 0, 1), (np.float32, -1.5, 2), (np.uint16, 0, 65535)],
)
def test_images_of_many_bits_get_one_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Any], low: float, high: float
) -> None:
    root = deep(tmp_path / "in", kind, low, high, (24, 20))
    plan, values = made(tmp_path / "p", root, fit="crop")
    assert values["pixel_range"] == pytest.approx([low, high]) and values["channels"] == 1
    assert any(f"with values from {low:g} to {high:g}: {low:g} becomes black" in line for line in summary(plan))
    monkeypatch.chdir(tmp_path / "p")
    data = load(load_config(Path("params.yaml")).data, 0)
    assert data.info.pixel_range == pytest.approx((low, high)) and data.account.counts["images_deep"] == 12
    assert all(int(image.max()) - int(image.min()) > 200 for image in data.train.images)


def test_bits_that_no_rule_covers_are_refused_and_mixed_ones_said(tmp_path: Path) -> None:
    mixed = deep(tmp_path / "mixed", np.uint16, 0, 60000)
    save_picture(mixed / "good/x.png", 1, size=(20, 20), mode="L")
    plan = make_plan(tmp_path / "p", mixed, None)
    assert plan.rules.pixel_range is None
    assert any("0 becomes black and 65535 white, as 1 others have 8 bits" in line for line in summary(plan))
    floats = deep(tmp_path / "floats", np.float32, 0, 1)
    save_picture(floats / "good/x.png", 1, size=(20, 20), mode="L")
    with pytest.raises(ConfigError, match="no one rule brings them together"):
        make_plan(tmp_path / "p", floats, None)
    wild = deep(tmp_path / "wild", np.float32, 0, 1)
    values = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    values[3, 3] = -9999
    Image.fromarray(values).save(wild / "good/nodata.tif")
    with pytest.raises(ConfigError, match=r"levels would be left in 12 of them.*correct .*nodata\.tif"):
        make_plan(tmp_path / "p", wild, None)


def drawings(root: Path, level: int) -> Path:
    for name in ("line", "dot"):
        for i in range(6):
            image = Image.new("RGBA", (16, 16), (level, level, level, 0))
            ImageDraw.Draw(image).line([0, i, 15, i], fill=(level, level, level, 255))
            (root / name).mkdir(parents=True, exist_ok=True)
            image.save(root / name / f"{i}.png")
    return root


@pytest.mark.usefixtures("bare")
def test_drawings_that_show_nothing_on_the_background_are_refused(tmp_path: Path) -> None:
    plan, values = made(tmp_path / "p", drawings(tmp_path / "black", 0))
    assert values["background"] == "#ffffff" and any("12 of 12 images have transparent" in t for t in summary(plan))
    white = drawings(tmp_path / "white", 255)
    with pytest.raises(ConfigError, match="12 of 12 images have transparent parts and show nothing on #ffffff"):
        make_plan(tmp_path / "q", white, None)
    with pytest.raises(ConfigError, match="show nothing on #000000, such as .*; add --background .* such as '#ffffff'"):
        make_plan(tmp_path / "q", tmp_path / "black", None, Wish(background="#000000"))
    with pytest.raises(ConfigError, match="show nothing on #fdfdfd"):
        make_plan(tmp_path / "q", white, None, Wish(background="#fdfdfd"))
    values = made(tmp_path / "q", white, background="#102030")[1]
    assert values["background"] == "#102030" and values["channels"] == 3
    assert made(tmp_path / "s", white, background="#000000")[1]["channels"] == 1
    with pytest.raises(ConfigError, match="--background must be a colour"):
        make_plan(tmp_path / "r", white, None, Wish(background="black"))


@pytest.mark.usefixtures("bare")
def test_smaller_images_are_enlarged_on_request_and_said(tmp_path: Path) -> None:
    root = fill(tmp_path / "in", "ant", "bee", size=(40, 40))
    save_picture(root / "ant/small.png", 1, size=(12, 12))
    with pytest.raises(ConfigError, match=r"small.png is 12x12, smaller than 16 \(--enlarge"):
        make_plan(tmp_path / "p", root, None)
    plan, values = made(tmp_path / "p", root, enlarge=True)
    assert values["enlarge"] is True and values["image_size"] == 32
    assert any("1 of 21 images are smaller than 32 and are enlarged" in line for line in summary(plan))
    all_small = fill(tmp_path / "small", "ant", "bee", size=(12, 12))
    with pytest.raises(ConfigError, match="12 pixels high or wide, less than 16; remove it, or add --enlarge"):
        make_plan(tmp_path / "q", all_small, None)


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_a_project_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool, deep: bool
) -> None:
    target = tmp_path / "out" / "sub" / "p" if deep else tmp_path / "p"
    root = fill(tmp_path / "in", "ant", "bee")
    if exists:
        target.mkdir(parents=True)

    def fails(folder: Path, *others: object) -> None:
        assert (folder / "params.yaml").exists() and not list(target.glob("*.yaml"))
        raise ConfigError("git is full")

    monkeypatch.setattr(module, "make_repository", fails)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="git is full"):
        init(make_plan(target, root, None), lambda text: None)
    assert sorted(tmp_path.rglob("*")) == before
    said: list[str] = []
    monkeypatch.setattr(module, "make_repository", lambda folder, data, message, say: say(f"{folder} is there"))
    init(make_plan(target, root, None), said.append)
    assert said == [f"{target} is there"]
    assert {"params.yaml", "dvc.yaml", "README.md"} <= {path.name for path in target.iterdir()}
    assert not list(target.parent.glob(".p-*")) and load_config(target / "params.yaml").tracking.preset == "p"


def test_a_new_folder_has_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with appearing(tmp_path / "new") as place:
        (place / "a").write_text("a")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_all_that_blocks_is_told_at_once(tmp_path: Path) -> None:
    """An empty class folder, too few images of a class, images that are not square, and a file that is no image."""
    root = tmp_path / "in"
    for name, count in (("ant", 8), ("bee", 8), ("cat", 2)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            side = (40, 32) if number == 3 else (32, 32)
            Image.new("RGB", side, (10 * number, 90, 90)).save(root / name / f"{number}.png")
    (root / "dog").mkdir()
    (root / "ant" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ConfigError) as caught:
        make_plan(tmp_path / "p", root, None)
    said = str(caught.value)
    assert "dog has no images" in said and "class 'cat'" in said and "2 of 19 images are not square" in said
    assert "1 of 19 files cannot be used" in said and "broken.png" in said


def test_lines_and_files_that_are_no_good_are_told_at_once(tmp_path: Path) -> None:
    lines = ["path,label"]
    for number in range(50):
        Image.new("RGB", (48 if number == 9 else 32, 32), (5 * number, 90, 90)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'odd' if number == 7 else number + 0.5}")
    (tmp_path / "3.png").write_bytes(b"no image")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        make_plan(tmp_path / "p", None, tmp_path / "list.csv")
    said = str(caught.value)
    assert (
        "'odd' is not a finite number" in said and "not square" in said and "3.png" in said and "--skip-broken" in said
    )
