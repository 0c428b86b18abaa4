"""The source `csv`: a list of image paths with their labels, numbers or class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Account, Dataset
from cgankd.data.readers.group_splits import class_rows, scalar_rows
from cgankd.data.readers.groups import Grouping, by_cells, column_of, inside_paths, path_groups
from cgankd.data.readers.image_folder import LabelledFiles, read_rows
from cgankd.data.readers.label_text import check_digits, class_names, label_number, wild, with_points
from cgankd.data.readers.list_columns import FOUND, Columns, Layout, find_columns
from cgankd.data.readers.list_paths import HOW, Finder, sub_folder
from cgankd.data.readers.list_text import read_table
from cgankd.data.store.room import Room, in_memory
from cgankd.types import LogFn, silent

NAMED = 10
"""Missing images that one message names."""
SAMPLE = 50
"""Cells by which the folder of the images is found where they are not beside the list."""


class Entry(NamedTuple):
    """A line of a list: its image, the text of its label, "file:line", and what its column of groups says."""

    path: Path
    label: str
    where: str
    group: str = ""


@dataclass(frozen=True)
class Listed:
    """The lines whose image is there, those whose image is not, and in words what had to be guessed.

    `has_groups` tells whether a column of groups was named.
    """

    entries: list[Entry]
    missing: list[Entry]
    said: list[str]
    has_groups: bool = False


def list_groups(found: Listed, groups: str | None, root: Path) -> Grouping | None:
    """Which images of a list belong together, by `data.groups`; None where it is null. Raises ConfigError."""
    if groups is None:
        return None
    paths = [entry.path for entry in found.entries]
    if found.has_groups:
        return by_cells([entry.group for entry in found.entries], groups, paths)
    return path_groups(inside_paths(paths, root.parent), groups)


def load_csv_classes(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """Lines `path,class name`; classes are the sorted names, splits are stratified by class.

    Raises ConfigError with the file and line at fault.
    """
    found = _lines(cfg)
    labels, said = class_names([entry.label for entry in found.entries])
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise ConfigError(f"data.root {cfg.root!r} names {len(names)} class; there must be at least two")
    number = {name: place for place, name in enumerate(names)}
    label_N = torch.tensor([number[text] for text in labels])
    rows, account = class_rows(label_N, None, names, cfg, seed, list_groups(found, cfg.groups, Path(cfg.root)))
    files = LabelledFiles([entry.path for entry in found.entries], label_N, class_names=names, account=account)
    return _saying(read_rows(files, rows, cfg, log, room), [*found.said, *said])


def load_csv_scalars(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """Lines `path,number`; splits are spread evenly over the sorted labels.

    Raises ConfigError with the file and line at fault.
    """
    found = _lines(cfg)
    values = [label_number(entry.label, entry.where) for entry in found.entries]
    blurred = check_digits([entry.label for entry in found.entries], cfg.root)
    label_N = torch.tensor(values, dtype=torch.float32)
    rows, account = scalar_rows(label_N, cfg, seed, list_groups(found, cfg.groups, Path(cfg.root)))
    files = LabelledFiles([entry.path for entry in found.entries], label_N, account=account)
    said = [*found.said, *blurred, *wild_labels(found.entries, values)]
    return _saying(read_rows(files, rows, cfg, log, room), said)


def _lines(cfg: DataConfig) -> Listed:
    return read_list(cfg.root, columns=Columns(cfg.path_column, cfg.label_column, column_of(cfg.groups)))


def _saying(data: Dataset, lines: list[str]) -> Dataset:
    return replace(data, account=Account(data.account.counts, (*lines, *data.account.lines)))


def wild_labels(entries: Sequence[Entry], values: Sequence[float]) -> list[str]:
    """A line that names labels far from all others, with the range of those; nothing where there are none."""
    far, low, high = wild(values)
    if not far:
        return []
    named = "; ".join(
        f"{entries[place].where} has {values[place]:.9g} for {entries[place].path.name}" for place in far[:NAMED]
    )
    more = f"; and {len(far) - NAMED} more" if len(far) > NAMED else ""
    return [
        f"WARNING: far from all other labels, which run from {low:.9g} to {high:.9g}: {named}{more};"
        " correct or remove what is wrong"
    ]


def read_list(text: str, setting: str = "data.root", columns: Columns = FOUND, *, skip_missing: bool = False) -> Listed:
    """All lines of a list in the order they stand in; empty ones are skipped.

    Separator, header, columns and the way paths are written are found, see docs/data.md. Raises ConfigError on a missing
    file, a line without path or label, an image listed twice, and unless `skip_missing` on images that are not there.
    """
    root = Path(text)
    if not root.is_file():
        raise ConfigError(f"{setting} {text!r} is not a file; name a CSV file with the lines path,label")
    finder = Finder(root.parent)
    layout, said = _layout(root, setting, finder, columns)
    cells = [own[layout.path] for _, own in layout.rows if layout.path < len(own)]
    if cells and not any(map(finder.there, cells)):
        folder = sub_folder(root.parent, cells[:: max(1, len(cells) // SAMPLE)])
        if folder is not None:
            finder = Finder(folder)
            layout, said = _layout(root, setting, finder, columns)
            said.append(f"images in {folder.relative_to(root.parent).as_posix()}/")
    if not layout.rows:
        raise ConfigError(f"{setting} {text!r} lists no images; add lines path,label")
    entries, missing = _entries(root, layout, finder)
    if missing and not skip_missing:
        raise ConfigError(_missing(root, missing, len(layout.rows), finder))
    points = with_points([entry.label for entry in entries], str(root))
    if points is not None:
        said.append("decimal commas")
        entries = [entry._replace(label=label) for entry, label in zip(entries, points, strict=True)]
    said += [*(f"{HOW[kind]} ({count})" for kind, count in sorted(finder.used.items()))]
    return Listed(entries, missing, [f"list: {'; '.join(said)}"] if said else [], layout.groups is not None)


def _layout(root: Path, setting: str, finder: Finder, columns: Columns) -> tuple[Layout, list[str]]:
    table = read_table(root, setting, finder.there)
    layout = find_columns(table, root, finder, columns)
    return layout, [*table.said, *layout.said]


def _entries(root: Path, layout: Layout, finder: Finder) -> tuple[list[Entry], list[Entry]]:
    """Lines whose image is there, and those whose image is not, its path as it was expected.

    Raises ConfigError with the first line that has no image and label, or an image again, and how many more there are.
    """
    entries: list[Entry] = []
    missing: list[Entry] = []
    wrong: list[str] = []
    seen: dict[Path, str] = {}
    for line, cells in layout.rows:
        where = f"{root}:{line}"
        fault = _fault(cells, layout)
        if fault:
            wrong.append(f"{where}: {fault}")
            continue
        cell, label = cells[layout.path], cells[layout.label]
        group = cells[layout.groups] if layout.groups is not None and layout.groups < len(cells) else ""
        path = finder.find(cell)
        if path is None:
            missing.append(Entry(finder.folder / cell, label, where, group))
            continue
        before = seen.setdefault(path.resolve(), where)
        if before != where:
            wrong.append(f"{where}: {cell!r} is listed before, at {before}; keep one of the lines")
            continue
        entries.append(Entry(path, label, where, group))
    if wrong:
        raise ConfigError(wrong[0] + (f" ({len(wrong) - 1} more lines are wrong)" if len(wrong) > 1 else ""))
    return entries, missing


def _fault(cells: list[str], layout: Layout) -> str:
    """What is wrong with the cells of a line, nothing where it has a path and a label."""
    names = ",".join(layout.names) or ",".join(["path", "label", *["..."] * (layout.width > 2)])
    expected = f"expected {names} but found {','.join(cells)!r}"
    if any(cells[layout.width :]):
        return f"{expected}; put quotes around commas in a path or label"
    if len(cells) <= max(layout.path, layout.label) or not (cells[layout.path] and cells[layout.label]):
        return f"{expected}; write what is missing or remove the line"
    if "\n" in cells[layout.path] + cells[layout.label]:
        return "a cell runs over several lines; close its quotes, or double those within it"
    return ""


def _missing(root: Path, missing: list[Entry], num: int, finder: Finder) -> str:
    """What to say of images that are not there: one, or the first ten of many."""
    first = missing[0]
    several = finder.several(
        str(first.path.relative_to(finder.folder)) if first.path.is_relative_to(finder.folder) else ""
    )
    if several:
        names = " or ".join(path.name for path in several)
        return f"{first.where}: {first.path.name!r} may be {names}; write the suffix"
    if len(missing) == 1:
        return f"{first.where}: image {str(first.path)!r} does not exist; paths are relative to the CSV file"
    named = ", ".join(f"{entry.path.name} (line {entry.where.rpartition(':')[2]})" for entry in missing[:NAMED])
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return (
        f"{root}: {len(missing)} of {num} images do not exist: {named}{more}; paths are relative to the CSV file,"
        f" the first is looked for at {str(first.path)!r}"
    )
