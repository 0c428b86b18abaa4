"""The sources `utkface` (ages in file names) and `steering-angle` (angles in data.txt): image files with a scalar label."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Dataset
from cgankd.data.readers.group_splits import scalar_rows
from cgankd.data.readers.groups import Grouping, inside_paths, path_groups
from cgankd.data.readers.image_folder import LabelledFiles, middle_squares, read_rows
from cgankd.data.readers.walk import is_hidden, is_image, walk
from cgankd.data.regular import MAX_LIST, read_text
from cgankd.data.store.room import Room, in_memory
from cgankd.data.turns import brought
from cgankd.types import LogFn, silent

FACE_NAME = re.compile(r"(\d{1,3})_[01]_[0-4]_\d{8,}(\.jpg)?(\.chip)?\.jpe?g", re.IGNORECASE)
"""age_gender_race_date.jpg, also as the aligned faces are called, age_gender_race_date.jpg.chip.jpg."""
NUM_FACES = 23_708
"""Files of the aligned and cropped archive, those with a malformed name included."""
AGES = (1.0, 60.0)
ANGLES = (-80.0, 80.0)
Entry = tuple[Path, float]


def load_utkface(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """Faces age_gender_race_date*.jpg anywhere under the root (Zhang et al. 2017), label the age in years.

    Ages outside data.label_min..label_max (null = 1..60, as in arXiv 2104.03164) are left out. There is no test part:
    `test_share` of the faces is set aside, evenly over the ages. Checks: the notes count the faces, those the public
    archive has more (a part of the set will do) and files whose name has another form; no file name twice, for the
    archives of UTKFace overlap. Raises ConfigError where nothing is left or an image cannot be used.
    """
    entries, malformed = _faces(Path(cfg.root))
    cfg, kept, outside = _in_range(cfg, entries, AGES)
    if not kept:
        raise ConfigError(
            f"data.root {cfg.root!r} has no face age_gender_race_date.jpg of {cfg.label_min:g} to {cfg.label_max:g}"
            f" years ({malformed} .jpg files named otherwise, {outside} of other ages); check data.root, data.label_min"
            " and data.label_max"
        )
    missing = max(0, NUM_FACES - len(entries) - malformed)
    notes = {"images_found": float(len(entries)), "images_missing": float(missing)}
    notes |= {"names_malformed": float(malformed), "labels_out_of_range": float(outside)}
    paths, label_N = _columns(kept)
    rows, account = scalar_rows(label_N, cfg, seed, _groups(paths, cfg))
    files = LabelledFiles(paths, label_N, label_unit="years", notes=notes, account=account)
    return read_rows(files, rows, cfg, log, room)


def load_steering_angle(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """Frames of a drive (Chen 2016): data.txt with lines `file.jpg angle[,date]`, the files beside it or in data/.

    Angles in degrees outside data.label_min..label_max (null = -80..80, the range of arXiv 2011.07466) are left out. The
    middle square of a frame is brought to data.image_size. There is no test part: `test_share` of the frames is set
    aside, evenly over the angles. Check: every line has this form, names a file that is there, and none twice; every
    image has a line. Raises ConfigError with the line at fault.
    """
    entries = _frames(Path(cfg.root))
    cfg, kept, outside = _in_range(cfg, entries, ANGLES)
    if not kept:
        raise ConfigError(
            f"data.root {cfg.root!r}: none of {len(entries)} angles lies in {cfg.label_min:g} to {cfg.label_max:g}"
            " degrees; widen data.label_min and data.label_max"
        )
    notes = {"images_found": float(len(entries)), "labels_out_of_range": float(outside)}
    paths, label_N = _columns(kept)
    rows, account = scalar_rows(label_N, cfg, seed, _groups(paths, cfg))
    files = LabelledFiles(paths, label_N, label_unit="degrees", notes=notes, account=account)
    return read_rows(files, rows, middle_squares(cfg), log, room)


def _in_range(cfg: DataConfig, entries: list[Entry], usual: tuple[float, float]) -> tuple[DataConfig, list[Entry], int]:
    """The settings with the label range filled in, the entries within it and how many are not."""
    low = usual[0] if cfg.label_min is None else cfg.label_min
    high = usual[1] if cfg.label_max is None else cfg.label_max
    cfg = replace(cfg, label_min=low, label_max=high)
    if cfg.label_period is not None:
        label_N = brought(torch.tensor([label for _, label in entries]), low, cfg.label_period)
        entries = [(path, label) for (path, _), label in zip(entries, label_N.tolist(), strict=True)]
    kept = [entry for entry in entries if low <= entry[1] <= high]
    return cfg, kept, len(entries) - len(kept)


def _columns(entries: list[Entry]) -> tuple[list[Path], Tensor]:
    """Paths and labels [N]."""
    return [path for path, _ in entries], torch.tensor([label for _, label in entries], dtype=torch.float32)


def _groups(paths: list[Path], cfg: DataConfig) -> Grouping | None:
    """Which images belong together, by their path below the root; None where `data.groups` is null. Raises ConfigError."""
    if cfg.groups is None:
        return None
    names = inside_paths(paths, Path(cfg.root))
    return path_groups(names, cfg.groups)


def _faces(root: Path) -> tuple[list[Entry], int]:
    """Faces with their age in the order of their paths, and how many .jpg files have another name."""
    if not root.is_dir():
        raise ConfigError(f"data.root {str(root)!r} is not a folder; name the one with the faces of UTKFace")
    entries: list[Entry] = []
    malformed = 0
    seen: dict[str, Path] = {}
    for path in walk(root).images:
        if path.suffix.lower() not in (".jpg", ".jpeg"):
            continue
        match = FACE_NAME.fullmatch(path.name)
        if match is None:
            malformed += 1
            continue
        # The archive in parts and the aligned one hold the same faces; one of them could train and test.
        before = seen.setdefault(path.name, path)
        if before != path:
            raise ConfigError(
                f"{path} has the name of {before}, so one face may be there twice; keep one of the folders"
            )
        entries.append((path, float(match[1])))
    return entries, malformed


def _frames(root: Path) -> list[Entry]:
    listing = root / "data.txt"
    if not listing.is_file():
        raise ConfigError(f"{listing} does not exist; data.root must be a folder with data.txt and its images")
    folders = [folder for folder in (root, root / "data") if folder.is_dir()]
    files = (path for folder in reversed(folders) for path in folder.iterdir() if not is_hidden(path.name))
    there = {path.name: path for path in files if path.is_file()}
    entries: list[Entry] = []
    seen: dict[str, int] = {}
    for place, line in enumerate(read_text(listing, MAX_LIST, "replace").splitlines(), start=1):
        if not line.strip():
            continue
        name, angle = _frame(line, f"{listing}: line {place}")
        if name not in there:
            raise ConfigError(
                f"{listing}: line {place} names {name!r}, which is not in {root}; add it or remove the line"
            )
        if name in seen:
            raise ConfigError(f"{listing}: line {place} names {name!r} as line {seen[name]} does; keep one of them")
        seen[name] = place
        entries.append((there[name], angle))
    if not entries:
        raise ConfigError(f"{listing} lists no images; add lines file.jpg angle")
    left = sorted(str(path) for name, path in there.items() if name not in seen and is_image(path))
    if left:
        raise ConfigError(
            f"{listing} has no line for {left[0]} ({len(left)} without one); add the line or remove the image"
        )
    return entries


def _frame(line: str, where: str) -> tuple[str, float]:
    cells = line.split(maxsplit=1)
    try:
        angle = float(cells[1].split(",")[0])
    except (IndexError, ValueError):
        angle = math.nan
    if not math.isfinite(angle):
        raise ConfigError(f"{where} is {line.strip()!r}, not a file and an angle in degrees; correct or remove it")
    return cells[0], angle
