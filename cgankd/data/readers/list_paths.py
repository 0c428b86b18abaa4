"""The image that a cell of a list means, as file systems and programs write names in several ways."""

from __future__ import annotations

import itertools
import os
import re
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cgankd.data.readers.label_text import tidy
from cgankd.data.readers.walk import is_hidden, is_image

HOW = {
    "backslash": "backslashes read as /",
    "letters": "accents composed otherwise than in the file names",
    "case": "capitals otherwise than in the file names",
    "suffix": "suffixes of images found",
    "zeros": "numbers with other leading zeros than the file names",
    "percent": "percent signs read as the characters they stand for",
    "query": "left out what stands behind a ?",
}
"""What may differ between a cell and the file it names, in the words of the line that says so."""
ALL = "all"
PARTED = re.compile(r"[/\\]")
COUNT = re.compile(r"\d+(\.0)?", re.ASCII)
"""A name that is a whole number, also as tables with gaps write it (7.0)."""
FOLDER_SAMPLE = 50
"""Cells by which the folder of the images is found where they are not beside the list."""
MOST_FOLDERS = 1000
"""Folders below the list that are looked into where none of its images is beside it."""


@dataclass(frozen=True)
class Names:
    """The entries of a folder without hidden ones by their names in NFC: whole, without the suffix of an image, in small
    letters, and as a number without leading zeros."""

    letters: dict[str, list[Path]]
    suffix: dict[str, list[Path]]
    case: dict[str, list[Path]]
    zeros: dict[str, list[Path]]


class Finder:
    """Files by the cells of a list, relative to one folder; `used` counts the cells that needed a guess, by kind.

    `without` are folders at the beginning of all cells that are left out of them, "all" leaves the names alone.
    """

    def __init__(self, folder: Path, without: tuple[str, ...] | str = ()) -> None:
        self.folder, self.without = folder, without
        self.used: Counter[str] = Counter()
        self._listed: dict[Path, Names] = {}

    def there(self, cell: str) -> bool:
        """Whether the cell means a file."""
        return self._found(cell)[0] is not None

    def named(self, cell: str) -> bool:
        """Whether the cell is the whole name of a file."""
        path, how = self._found(cell)
        return path is not None and "suffix" not in how

    def find(self, cell: str) -> Path | None:
        """The file that the cell names: the very path, else the only one that differs as `HOW` says, else None."""
        path, how = self._found(cell)
        self.used.update(how if path else ())
        return path

    def several(self, cell: str) -> list[Path]:
        """Images that a cell without suffix could mean, where there is more than one."""
        path = self.folder / shorter(cell, self.without).replace("\\", "/")
        same = self._names(path.parent).suffix.get(tidy(path.name), [])
        return same if len(same) > 1 else []

    def otherwise(self, cell: str) -> Path | None:
        """An image that is called as the cell says but for its suffix."""
        path = self.folder / shorter(cell, self.without).replace("\\", "/")
        return next(iter(self._names(path.parent).suffix.get(tidy(path.stem), [])), None) if like_image(path) else None

    def _found(self, cell: str) -> tuple[Path | None, list[str]]:
        if not cell or "\n" in cell or "\0" in cell:
            return None, []
        found = self._as_written(shorter(cell, self.without))
        if found[0] is None and "%" in cell:
            path, how = self._as_written(shorter(urllib.parse.unquote(cell), self.without))
            found = path, [*how, "percent"]
        if found[0] is None and "?" in cell:
            path, how = self._found(cell.partition("?")[0])
            found = path, [*how, "query"]
        return found

    def _as_written(self, cell: str) -> tuple[Path | None, list[str]]:
        path = self.folder / cell
        if _is(path, folder=False):
            return path, []
        how: list[str] = []
        if "\\" in cell:
            how.append("backslash")
            path = self.folder / cell.replace("\\", "/")
            if _is(path, folder=False):
                return path, how
        start = Path(path.anchor) if path.is_absolute() else Path()
        parts = path.parts[1:] if path.is_absolute() else path.parts
        at = start
        for place, part in enumerate(parts, start=1):
            folder = place < len(parts)
            if _is(at / part, folder=folder):
                at = at / part
                continue
            near, kind = self._near(at, tidy(part), folder=folder)
            if near is None:
                return None, []
            at = near
            how.append(kind)
        return at, how

    def _near(self, parent: Path, name: str, *, folder: bool) -> tuple[Path | None, str]:
        """The only entry of a folder that has nearly this name, and what differs."""
        names = self._names(parent)
        tries = {
            "letters": names.letters.get(name, []),
            "suffix": [] if folder else names.suffix.get(name, []),
            "case": names.case.get(name.casefold(), []),
            "zeros": [] if folder or not COUNT.fullmatch(name) else names.zeros.get(_as_number(name), []),
        }
        for kind, found in tries.items():
            fitting = [path for path in found if _is(path, folder=folder)]
            if fitting:
                return (fitting[0], kind) if len(fitting) == 1 else (None, "")
        return None, ""

    def _names(self, parent: Path) -> Names:
        if parent not in self._listed:
            names = Names(defaultdict(list), defaultdict(list), defaultdict(list), defaultdict(list))
            try:
                entries = sorted(path for path in parent.iterdir() if not is_hidden(path.name))
            except OSError:
                entries = []
            for path in entries:
                names.letters[tidy(path.name)].append(path)
                names.case[tidy(path.name).casefold()].append(path)
                if like_image(path):
                    names.suffix[tidy(path.stem)].append(path)
                    if COUNT.fullmatch(path.stem):
                        names.zeros[_as_number(path.stem)].append(path)
            self._listed[parent] = names
        return self._listed[parent]


def shorter(cell: str, without: tuple[str, ...] | str) -> str:
    """A cell without the folders at its beginning, or without any."""
    if not without:
        return cell
    parts = PARTED.split(cell)
    if without == ALL:
        return parts[-1]
    return "/".join(parts[len(without) :]) if tuple(parts[: len(without)]) == without else cell


def moved(top: Path, cells: Sequence[str]) -> Finder | None:
    """What finds images whose paths are those of another machine or place (/home/bob/..., C:\\..., https://..., ../...): as few
    folders as will do are left out at the beginning of all cells, at last all where names alone tell images apart.
    """
    parts = [PARTED.split(cell) for cell in cells]
    shared = tuple(same[0] for same in itertools.takewhile(lambda own: len(set(own)) == 1, zip(*parts)))  # noqa: B905
    shared = shared[: min((len(own) for own in parts), default=1) - 1]
    tries: list[tuple[str, ...] | str] = [shared[:count] for count in range(1, len(shared) + 1)]
    if any(len(own) > 1 for own in parts) and len({own[-1] for own in parts}) == len(set(cells)):
        tries.append(ALL)
    sample = cells[:: max(1, len(cells) // FOLDER_SAMPLE)]
    for without in tries:
        short = [shorter(cell, without) for cell in sample]
        finder = Finder(top)
        if 2 * sum(map(finder.there, short)) > len(short):
            return Finder(top, without)
        if (folder := sub_folder(top, short)) is not None:
            return Finder(folder, without)
    return None


def _as_number(text: str) -> str:
    return text.partition(".")[0].lstrip("0") or "0"


def sub_folder(top: Path, cells: Sequence[str]) -> Path | None:
    """The only folder below `top` in which more than half of the cells mean files, and more than in any other."""
    best: list[Path] = []
    most = len(cells) / 2
    for number, (name, inner, _) in enumerate(os.walk(top)):
        inner[:] = sorted(own for own in inner if not is_hidden(own))
        if number >= MOST_FOLDERS:
            break
        finder = Finder(Path(name))
        count = sum(map(finder.there, cells)) if Path(name) != top else 0
        if count > most:
            best, most = [], count
        if count == most and count > len(cells) / 2:
            best.append(Path(name))
    return best[0] if len(best) == 1 else None


def like_image(path: Path) -> bool:
    """Whether a name ends as that of an image."""
    return is_image(path)


def _is(path: Path, *, folder: bool) -> bool:
    try:
        return path.is_dir() if folder else path.is_file()
    except OSError:  # a name that is too long
        return False
