"""The source `csv`: a list of image paths with their labels, numbers or class names."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Dataset
from cgankd.data.readers.image_folder import LabelledFiles, read_rows
from cgankd.data.readers.splits import required_test_share, split_classes, split_scalars
from cgankd.data.store.room import Room, in_memory
from cgankd.types import LogFn, silent

HEADER = ["path", "label"]
MAX_LABEL = 3e38
"""Labels are float32 at rest; larger ones would become infinite."""


def load_csv_classes(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """Lines `path,class name`; classes are the sorted names, splits are stratified by class.

    Raises ConfigError with the file and line at fault.
    """
    entries = read_list(cfg.root)
    names = tuple(sorted({text for _, text, _ in entries}))
    if len(names) < 2:
        raise ConfigError(f"data.root {cfg.root!r} names {len(names)} class; there must be at least two")
    label_N = torch.tensor([names.index(text) for _, text, _ in entries])
    rows = split_classes(label_N, names, cfg, seed, test_share=required_test_share(cfg))
    files = LabelledFiles([path for path, _, _ in entries], label_N, class_names=names)
    return read_rows(files, rows, cfg, log, room)


def load_csv_scalars(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """Lines `path,number`; splits are spread evenly over the sorted labels.

    Raises ConfigError with the file and line at fault.
    """
    entries = read_list(cfg.root)
    label_N = torch.tensor([label_number(text, where) for _, text, where in entries], dtype=torch.float32)
    rows = split_scalars(label_N, cfg, seed)
    return read_rows(LabelledFiles([path for path, _, _ in entries], label_N), rows, cfg, log, room)


def read_list(text: str, setting: str = "data.root") -> list[tuple[Path, str, str]]:
    """Path, label text and "file:line" of each entry; a first line `path,label` is a header, empty lines are skipped.

    Raises ConfigError on a missing file, a line that is not a path and a label, a missing image or one listed twice.
    """
    root = Path(text)
    if not root.is_file():
        raise ConfigError(f"{setting} {text!r} is not a file; name a CSV file with the lines path,label")
    entries: list[tuple[Path, str, str]] = []
    seen: dict[Path, str] = {}
    try:
        with root.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for cells in reader:
                cells = [cell.strip() for cell in cells]
                if not any(cells) or (not entries and [cell.lower() for cell in cells] == HEADER):
                    continue
                entry = _entry(cells, root, f"{root}:{reader.line_num}")
                before = seen.setdefault(entry[0].resolve(), entry[2])
                if before != entry[2]:
                    raise ConfigError(f"{entry[2]}: {cells[0]!r} is listed before, at {before}; keep one of the lines")
                entries.append(entry)
    except (UnicodeDecodeError, csv.Error) as problem:
        raise ConfigError(f"{setting} {text!r} is not a CSV file in UTF-8 ({problem}); save it as one") from None
    if not entries:
        raise ConfigError(f"{setting} {text!r} lists no images; add lines path,label")
    return entries


def _entry(cells: list[str], root: Path, where: str) -> tuple[Path, str, str]:
    if len(cells) != 2 or not all(cells):
        raise ConfigError(
            f"{where}: expected path,label but found {','.join(cells)!r}; put quotes around commas in a path"
        )
    path = root.parent / cells[0]
    if not path.is_file():
        raise ConfigError(f"{where}: image {str(path)!r} does not exist; paths are relative to the CSV file")
    return path, cells[1], where


def label_number(text: str, where: str) -> float:
    """A finite label. Raises ConfigError naming the place."""
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{where}: label {text!r} is not a number; for class names set data.task to class") from None
    if not abs(value) <= MAX_LABEL:  # NaN fails every comparison.
        raise ConfigError(f"{where}: label {text!r} is not a finite number; correct or remove the line")
    return value
