"""The lines of a list of images: found, checked and put in words, whatever they will be used for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cgankd.config import ConfigError
from cgankd.config.settings import LONGEST_VALUE, shortened
from cgankd.data.readers.label_text import same_class, with_points
from cgankd.data.readers.list_columns import FOUND, Columns, Layout, find_columns
from cgankd.data.readers.list_paths import ALL, FOLDER_SAMPLE, HOW, Finder, moved, shorter, sub_folder
from cgankd.data.readers.list_text import read_table

NAMED = 10
"""Missing images, and wrong lines, that one message names."""


class Entry(NamedTuple):
    """A line of a list: its image, the text of its label, "file:line", and what its column of groups says."""

    path: Path
    label: str
    where: str
    group: str = ""


@dataclass(frozen=True)
class Listed:
    """The lines that can be used, those whose image is not there, and in words what had to be guessed.

    `wrong` has the other lines that cannot be used, each with its reason; `problem` says all that is wrong in a sentence.
    `has_groups` tells whether a column of groups was named.
    """

    entries: list[Entry]
    missing: list[Entry]
    said: list[str]
    wrong: list[str]
    problem: str = ""
    has_groups: bool = False

    def skipped(self) -> list[str]:
        """What `data.skip_broken` leaves out, line by line."""
        return [*self.wrong, *(f"{entry.where}: {entry.path} does not exist" for entry in self.missing)]


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
    lines = [f"list: {'; '.join(said)}"] if said else []
    return Listed(entries, missing, lines, wrong, problem, layout.groups is not None)


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
        group = cells[layout.groups] if layout.groups is not None and layout.groups < len(cells) else ""
        path = finder.find(cell)
        if path is None:
            missing.append(Entry(finder.folder / shorter(cell, finder.without), label, where, group))
            continue
        entry, place = Entry(path, label, where, group), os.path.realpath(path)
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
    expected = f"expected {names} but found {shortened(','.join(cells), LONGEST_VALUE)!r}"
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
