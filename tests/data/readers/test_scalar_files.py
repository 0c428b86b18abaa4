from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgankd.config import ConfigError
from cgankd.data.dataset import Dataset
from cgankd.data.readers.sources import load
from tests.data.builders import data_config, save_picture

DEFAULTS = {"task": "scalar", "channels": 3, "test_share": 0.2, "val_per_label": None, "num_val": 4}


def read(source: str, root: Path, **changes: object) -> Dataset:
    return load(data_config(**(DEFAULTS | {"source": source, "root": str(root)} | changes)), 0)


def labels(data: Dataset) -> list[float]:
    return sorted(float(y) for split in data.splits().values() for y in split.labels)


def face(age: int, i: int) -> str:
    return f"{age}_{i % 2}_{i % 5}_2017010917{i:010d}.jpg" + (".chip.jpg" if i % 2 else "")


@pytest.fixture()
def faces(tmp_path: Path) -> Path:
    for i in range(40):
        folder = tmp_path / ("part1" if i % 3 else "deep/er")
        save_picture(folder / face(1 + 2 * i, i), i)
    return tmp_path


def test_utkface(faces: Path) -> None:
    for name in ("61_1_20170109142408075.jpg.chip.jpg", "face.jpg", "20_7_0_20170109142408075.jpg"):
        (faces / name).write_bytes(b"not even opened")
    (faces / "README.txt").write_text("not a face")
    data = read("utkface", faces)
    assert labels(data) == [float(age) for age in range(1, 61, 2)]
    assert (data.info.label_min, data.info.label_max, data.info.label_unit) == (1.0, 60.0, "years")
    counts = {"images_found": 40.0, "images_missing": 23_708.0 - 43}
    assert data.notes == counts | {"images_resized": 0.0, "names_malformed": 3.0, "labels_out_of_range": 10.0}
    assert len(data.test) == 6 and len(data.val) == 4
    files = {
        np.asarray(Image.open(p).convert("RGB")).tobytes(): int(p.name.split("_")[0])
        for p in faces.rglob("*_*.jpg")
        if p.stat().st_size > 50
    }
    for split in data.splits().values():
        for image, age in zip(split.images, split.labels, strict=True):
            assert files[image.permute(1, 2, 0).contiguous().numpy().tobytes()] == int(age)


def test_utkface_range_and_nested_training_sets(faces: Path) -> None:
    assert labels(read("utkface", faces, label_max=30, label_min=10)) == [float(age) for age in range(11, 31, 2)]
    wide = read("utkface", faces, label_max=100)
    assert len(labels(wide)) == 40 and wide.info.label_max == 100.0
    small, large = ({x.numpy().tobytes() for x in read("utkface", faces, num_train=n).train.images} for n in (5, 12))
    assert small < large


def test_bad_utkface(faces: Path) -> None:
    with pytest.raises(ConfigError, match=r"no face .* of 90 to 99 years \(0 .jpg files named otherwise, 40 of other"):
        read("utkface", faces, label_min=90, label_max=99)
    with pytest.raises(ConfigError, match="data.test_share must be set"):
        read("utkface", faces, test_share=None)
    with pytest.raises(ConfigError, match="is not a folder"):
        read("utkface", faces / "none")
    broken = faces / "part1" / face(3, 1)
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(ConfigError, match=r"3_1_1_.*jpg cannot be read as an image"):
        read("utkface", faces)
    save_picture(faces / "part2" / face(3, 1), 7)
    with pytest.raises(ConfigError, match=r"part2.* has the name of .*part1.*, so one face may be there twice"):
        read("utkface", faces)
    empty = faces / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match=r"has no face age_gender_race_date.jpg of 1 to 60 years"):
        read("utkface", empty)


@pytest.fixture()
def drive(tmp_path: Path) -> Path:
    lines = []
    for i in range(40):
        save_picture(tmp_path / ("data" if i % 2 else ".") / f"{i}.jpg", i, size=(45, 25))
        date = ",2018-07-01 17:09:44:912" if i % 3 else ""
        lines.append(f"{i}.jpg {5.5 * i - 100:.6f}{date}")
    (tmp_path / "data.txt").write_text("\n".join(lines) + "\n\n")
    return tmp_path


def test_steering_angle(drive: Path) -> None:
    data = read("steering-angle", drive)
    want = [5.5 * i - 100 for i in range(40) if -80 <= 5.5 * i - 100 <= 80]
    assert labels(data) == want
    assert (data.info.label_min, data.info.label_max, data.info.label_unit) == (-80.0, 80.0, "degrees")
    assert data.notes["labels_out_of_range"] == 40 - len(want) and data.notes["images_found"] == 40
    angle = 5.5 * 17 - 100
    with Image.open(drive / "data/17.jpg") as file:
        picture = np.asarray(file.convert("RGB").crop((10, 0, 35, 25)).resize((16, 16), Image.Resampling.BOX))
    found = [split.images[split.labels == angle] for split in data.splits().values()]
    assert np.array_equal(torch.cat(found)[0].permute(1, 2, 0).numpy(), picture)
    assert len(labels(read("steering-angle", drive, label_min=-200, label_max=200))) == 40


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0.jpg", r"data.txt: line 42 is '0.jpg', not a file and an angle"),
        ("0.jpg left,2018", r"data.txt: line 42 is '0.jpg left,2018', not a file"),
        ("0.jpg nan", r"data.txt: line 42 .*not a file and an angle"),
        ("99.jpg 3.5", r"data.txt: line 42 names '99.jpg', which is not in"),
        ("../0.jpg 3.5", r"data.txt: line 42 names '../0.jpg', which is not in"),
        ("0.jpg 3.5", r"data.txt: line 42 names '0.jpg' as line 1 does"),
    ],
)
def test_bad_lines(drive: Path, line: str, words: str) -> None:
    with (drive / "data.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=words):
        read("steering-angle", drive)


def test_bad_drives(drive: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of 40 angles lies in 500 to 600 degrees"):
        read("steering-angle", drive, label_min=500, label_max=600)
    path = drive / "data/17.jpg"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"17.jpg cannot be read as an image"):
        read("steering-angle", drive)
    lines = (drive / "data.txt").read_text().splitlines()
    (drive / "data.txt").write_text("\n".join(lines[:4] + lines[6:]))
    (drive / "notes.md").write_text("no image")
    with pytest.raises(ConfigError, match=r"data.txt has no line for .*4.jpg \(2 without one\); add the line"):
        read("steering-angle", drive)
    (drive / "data.txt").write_text("\n")
    with pytest.raises(ConfigError, match="lists no images"):
        read("steering-angle", drive)
    (drive / "data.txt").unlink()
    with pytest.raises(ConfigError, match=r"data.txt does not exist"):
        read("steering-angle", drive)
