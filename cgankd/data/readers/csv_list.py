"""The source `csv`: a list of image paths with their labels, numbers or class names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from cgankd.config import ConfigError, DataConfig
from cgankd.data.dataset import Account, Dataset
from cgankd.data.readers.image_folder import LabelledFiles, joined, read_rows, without_broken
from cgankd.data.readers.label_text import (
    check_digits,
    class_names,
    label_number,
    number,
    same_class,
    wild,
    with_points,
)
from cgankd.data.readers.list_columns import FOUND, Columns, Layout, find_columns
from cgankd.data.readers.list_paths import ALL, FOLDER_SAMPLE, HOW, Finder, moved, shorter, sub_folder
from cgankd.data.readers.list_text import read_table
from cgankd.data.readers.splits import required_test_share, split_classes, split_scalars
from cgankd.data.store.room import Room, in_memory
from cgankd.types import LogFn, silent

NAMED = 10
"""Missing images, and wrong lines, that one message names."""


class Entry(NamedTuple):
    """A line of a list: its image, the text of its label, and "file:line"."""

    path: Path
    label: str
    where: str


@dataclass(frozen=True)
class Listed:
    """The lines that can be used, those whose image is not there, and in words what had to be guessed.

    `wrong` has the other lines that cannot be used, each with its reason; `problem` says all that is wrong in a sentence.
    """

    entries: list[Entry]
    missing: list[Entry]
    said: list[str]
    wrong: list[str]
    problem: str = ""

    def skipped(self) -> list[str]:
        """What `data.skip_broken` leaves out, line by line."""
        return [*self.wrong, *(f"{entry.where}: {entry.path} does not exist" for entry in self.missing)]


def load_csv_classes(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """Lines `path,class name`; classes are the sorted names, splits are stratified by class.

    Raises ConfigError with the file and line at fault.
    """
    found, skipped = _kept(cfg)
    labels, said = class_names([entry.label for entry in found.entries])
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise ConfigError(f"data.root {cfg.root!r} names {len(names)} class; there must be at least two")
    number = {name: place for place, name in enumerate(names)}
    label_N = torch.tensor([number[text] for text in labels])
    rows = split_classes(label_N, names, cfg, seed, test_share=required_test_share(cfg))
    files = LabelledFiles([entry.path for entry in found.entries], label_N, class_names=names, account=skipped)
    return _saying(read_rows(files, rows, cfg, log, room), [*found.said, *said])


def load_csv_scalars(
    cfg: DataConfig, seed: int, *, log: LogFn = silent, cache: Path | None = None, room: Room = in_memory
) -> Dataset:
    """Lines `path,number`; splits are spread evenly over the sorted labels.

    Raises ConfigError with the file and line at fault.
    """
    found, skipped = _kept(cfg)
    values = [label_number(entry.label, entry.where) for entry in found.entries]
    blurred = check_digits([entry.label for entry in found.entries], cfg.root)
    label_N = torch.tensor(values, dtype=torch.float32)
    rows = split_scalars(label_N, cfg, seed)
    files = LabelledFiles([entry.path for entry in found.entries], label_N, account=skipped)
    said = [*found.said, *blurred, *wild_labels(found.entries, values)]
    return _saying(read_rows(files, rows, cfg, log, room), said)


def _kept(cfg: DataConfig) -> tuple[Listed, Account]:
    """The lines to use, all of them unless `data.skip_broken`, and what to say of the others."""
    found = read_list(cfg.root, columns=Columns(cfg.path_column, cfg.label_column), skip_broken=cfg.skip_broken)
    if not cfg.skip_broken:
        return found, Account()
    wrong = found.skipped()
    if cfg.task == "scalar":
        wrong += [f"{entry.where}: {entry.label!r} is no finite number" for entry in unmeasured(found.entries)]
        found = replace(found, entries=[entry for entry in found.entries if number(entry.label) is not None])
    rows, broken = without_broken([entry.path for entry in found.entries], cfg)
    said = [f"{len(wrong)} lines skipped (data.skip_broken)", *wrong[:NAMED]] if wrong else []
    lines = Account({"lines_skipped": float(len(wrong))}, tuple(said))
    return replace(found, entries=[found.entries[row] for row in rows]), joined(lines, broken)


def unmeasured(entries: Sequence[Entry]) -> list[Entry]:
    """Lines whose label is no finite number."""
    return [entry for entry in entries if number(entry.label) is None]


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


def read_list(text: str, setting: str = "data.root", columns: Columns = FOUND, *, skip_broken: bool = False) -> Listed:
    """All lines of a list in the order they stand in; empty ones are skipped.

    Separator, header, columns and the way paths are written are found, see docs/data.md. A line that repeats another one is
    left out. Raises ConfigError on a missing file, and unless `skip_broken` on lines without path or label, images with
    two labels and images that are not there, all at once.
    """
    root = Path(text)
    if not root.is_file():
        raise ConfigError(f"{setting} {text!r} is not a file; name a CSV file with the lines path,label")
    finder = Finder(root.parent)
    layout, said = _layout(root, setting, finder, columns)
    cells = [own[layout.path] for _, own in layout.rows if layout.path < len(own)]
    if cells and not any(map(finder.there, cells)):
        other = _elsewhere(root.parent, cells)
        if other is not None:
            finder = other
            layout, said = _layout(root, setting, finder, columns)
            said += _said_of(finder, root.parent)
    if not layout.rows:
        raise ConfigError(f"{setting} {text!r} lists no images; add lines path,label")
    entries, missing, wrong, again = _entries(root, layout, finder)
    problem = _problem(root, missing, wrong, layout, finder)
    if problem and not (skip_broken and entries):
        raise ConfigError(problem)
    if again:
        said.append(f"{again} lines that repeat another one left out")
    points = with_points([entry.label for entry in entries], str(root))
    if points is not None:
        said.append("decimal commas")
        entries = [entry._replace(label=label) for entry, label in zip(entries, points, strict=True)]
    said += [*(f"{HOW[kind]} ({count})" for kind, count in sorted(finder.used.items()))]
    return Listed(entries, missing, [f"list: {'; '.join(said)}"] if said else [], wrong, problem)


def _elsewhere(top: Path, cells: list[str]) -> Finder | None:
    """Where the images are if none is found from the folder of the list."""
    folder = sub_folder(top, cells[:: max(1, len(cells) // FOLDER_SAMPLE)])
    return Finder(folder) if folder is not None else moved(top, cells)


def _said_of(finder: Finder, top: Path) -> list[str]:
    """Where the images were found, in words."""
    said = []
    if finder.without:
        all_of_them = finder.without == ALL
        said.append(
            "folders left out of the paths" if all_of_them else f"{'/'.join(finder.without)}/ left out of the paths"
        )
    if finder.folder != top:
        said.append(f"images in {finder.folder.relative_to(top).as_posix()}/")
    return said


def _layout(root: Path, setting: str, finder: Finder, columns: Columns) -> tuple[Layout, list[str]]:
    table = read_table(root, setting, finder.there)
    layout = find_columns(table, root, finder, columns)
    return layout, [*table.said, *layout.said]


def _entries(root: Path, layout: Layout, finder: Finder) -> tuple[list[Entry], list[Entry], list[str], int]:
    """Lines that can be used, those whose image is not there (its path as it was expected), why others cannot be used, and
    how many repeat another one."""
    entries: dict[str, Entry] = {}
    missing: list[Entry] = []
    wrong: list[str] = []
    doubtful: set[str] = set()
    again = 0
    for line, cells in layout.rows:
        where = f"{root}:{line}"
        if fault := _fault(cells, layout):
            wrong.append(f"{where}: {fault}")
            continue
        cell, label = cells[layout.path], cells[layout.label]
        path = finder.find(cell)
        if path is None:
            missing.append(Entry(finder.folder / shorter(cell, finder.without), label, where))
            continue
        entry, place = Entry(path, label, where), os.path.realpath(path)
        before = entries.setdefault(place, entry)
        if before is entry:
            continue
        if same_class(label, [before.label]) is not None:
            again += 1
            continue
        doubtful.add(place)
        wrong.append(
            f"{where}: {cell!r} is listed before, at {before.where}, as {before.label!r} and here as {label!r}; keep one of"
            " the lines"
        )
    return [entry for place, entry in entries.items() if place not in doubtful], missing, wrong, again


def _problem(root: Path, missing: list[Entry], wrong: list[str], layout: Layout, finder: Finder) -> str:
    """All that is wrong with the lines of a list, in a sentence; empty where nothing is."""
    said = wrong[:1]
    if len(wrong) > 1:
        lines = ", ".join(fault.removeprefix(f"{root}:").partition(":")[0] for fault in wrong[1:NAMED])
        more = ", ..." if len(wrong) > NAMED else ""
        said = [f"{wrong[0]} ({len(wrong) - 1} more lines are wrong: {lines}{more})"]
    if missing:
        said.append(_missing(root, missing, len(layout.rows), finder))
    return "; and ".join(said)


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
    cell = str(first.path.relative_to(finder.folder)) if first.path.is_relative_to(finder.folder) else ""
    several = finder.several(cell)
    if several:
        names = " or ".join(path.name for path in several)
        return f"{first.where}: {first.path.name!r} may be {names}; write the suffix"
    other = finder.otherwise(cell)
    hint = f"; there is {other.name} in that folder, so correct the suffixes" if other else ""
    if len(missing) == 1:
        return f"{first.where}: image {str(first.path)!r} does not exist; paths are relative to the CSV file{hint}"
    named = ", ".join(f"{entry.path.name} (line {entry.where.rpartition(':')[2]})" for entry in missing[:NAMED])
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return (
        f"{root}: {len(missing)} of {num} images do not exist: {named}{more}; paths are relative to the CSV file,"
        f" the first is looked for at {str(first.path)!r}{hint}"
    )
