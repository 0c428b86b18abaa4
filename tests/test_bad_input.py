"""What a user can get wrong at the command line: one sentence, exit code 2, nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipelines.cli import app
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
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_bad_data_ends_in_one_sentence(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, make, words = CASES[case]
    scalar = source == "csv"
    values: dict[str, Any] = tiny("chairs" if scalar else "digits")
    splits = {"train_per_label": None, "num_train": None, "test_share": 0.2, "num_test": None, "channels": 1}
    splits |= {"num_val": 3, "val_per_label": None} if scalar else {"num_val": None, "val_per_label": 3}
    splits |= {} if scalar else {"train_per_label": 5}
    values["data"] |= splits | {"source": source, "root": str(make(tmp_path)), "image_size": 16}
    values["tracking"]["mlflow"] = False
    write_params(tmp_path, values)
    kept = tmp_path / "artifacts" / "dataset.h5"
    kept.parent.mkdir()
    kept.write_bytes(b"of an earlier run")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["prepare"])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr
    assert kept.read_bytes() == b"of an earlier run"
