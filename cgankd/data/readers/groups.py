"""Which images belong together (`data.groups`): by their folder, a column of the list, or a part of their path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import torch
from torch import Tensor

from cgankd.config import ConfigError
from cgankd.config.data import COLUMN, FOLDER, PATTERN, group_pattern
from cgankd.data.readers.label_text import number, plain, tidy

FEW = 3
"""Images and groups that a sentence names."""
MOST_LISTED = 5


@dataclass(frozen=True)
class Grouping:
    """The number of the group [N] of each image, the names of the groups by number, and how they were found, in words.

    Numbers follow the sorted names, so that they do not depend on the order of the images.
    """

    number_N: Tensor
    names: tuple[str, ...]
    how: str
    lines: tuple[str, ...] = ()

    def take(self, rows: Tensor) -> Grouping:
        """The groups of some of the images, numbered anew."""
        kept, number_R = torch.unique(self.number_N[rows], return_inverse=True)
        return Grouping(number_R, tuple(self.names[place] for place in kept.tolist()), self.how, self.lines)


def column_of(groups: str | None) -> str | None:
    """The text of `data.groups` where it names, or may name, a column of a list."""
    return None if groups is None or groups == FOLDER or groups.startswith(PATTERN) else groups


def inside_paths(paths: Sequence[Path], root: Path) -> list[str]:
    """Paths as `data.groups` sees them: below a folder, with /, accents composed."""
    return [tidy((path.relative_to(root) if path.is_relative_to(root) else path).as_posix()) for path in paths]


def path_groups(names: Sequence[str], groups: str) -> Grouping:
    """Groups by paths as `inside_paths` gives them: by their folder or a pattern. Raises ConfigError."""
    if groups == FOLDER:
        return by_folder([name.rpartition("/")[0] for name in names], names)
    return by_pattern(names, groups)


def by_cells(cells: Sequence[str], groups: str, paths: Sequence[Path]) -> Grouping:
    """Groups by the cells of a column; an image whose cell is empty is a group of its own. Raises ConfigError where all
    cells are alike.
    """
    if all(number(cell) is not None for cell in cells if cell):
        texts = [f"{Decimal(plain(cell)).normalize():f}" if cell else "" for cell in cells]
    else:
        texts = list(cells)
    lone = [row for row, text in enumerate(texts) if not text]
    lines = []
    if lone:
        named = ", ".join(paths[row].name for row in lone[:FEW]) + (", ..." if len(lone) > FEW else "")
        lines = [f"WARNING: {len(lone)} images have no group in the list ({named}); each is taken for one of its own"]
    word = groups.removeprefix(COLUMN)
    return _numbered(
        [(text, "") if text else ("", str(row)) for row, text in enumerate(texts)], f"column {word!r}", lines
    )


def by_folder(folders: Sequence[str], names: Sequence[str]) -> Grouping:
    """Groups by the sub-folder that an image lies in; one outside of any ("" or ".") is a group of its own.

    Raises ConfigError where no image, or all of them, lie in one.
    """
    lone = [row for row, folder in enumerate(folders) if folder in ("", ".")]
    if len(lone) == len(folders):
        raise ConfigError(
            f"data.groups is {FOLDER}, but no image lies in a sub-folder of its own, such as {names[0]!r}; make one for each"
            " group, or use a column of a list or a regular expression on the path"
        )
    lines = []
    if lone:
        named = ", ".join(names[row] for row in lone[:FEW]) + (", ..." if len(lone) > FEW else "")
        lines = [f"{len(lone)} images lie in no sub-folder ({named}) and are each taken for a group of their own"]
    keys = [("", str(row)) if folder in ("", ".") else (folder, "") for row, folder in enumerate(folders)]
    return _numbered(keys, "folders", lines)


def by_pattern(names: Sequence[str], groups: str) -> Grouping:
    """Groups by what the brackets of a regular expression match in the path (joined where there are several); a path without
    a match is a group of its own.

    Raises ConfigError where fewer than half of the paths have a match, or all the same one.
    """
    pattern = group_pattern(groups)
    found = [pattern.search(name) for name in names]
    texts = ["/".join(part for part in match.groups() if part) if match else "" for match in found]
    lone = [row for row, text in enumerate(texts) if not text]
    lines = []
    if lone:
        named = ", ".join(repr(names[row]) for row in lone[:FEW]) + (", ..." if len(lone) > FEW else "")
        if 2 * len(lone) > len(names):
            some = f"{len(names) - len(lone)} of {len(names)} paths alone and not"
            what = "no path, such as" if len(lone) == len(names) else some
            raise ConfigError(
                f"data.groups: the pattern {pattern.pattern!r} matches {what} {named}; it is searched for in paths below"
                " the folder of the images"
            )
        lines = [
            f"WARNING: the pattern matches not {len(lone)} of {len(names)} paths ({named}); each is taken for a group of its own"
        ]
    return _numbered(
        [(text, "" if text else str(row)) for row, text in enumerate(texts)], f"pattern {pattern.pattern!r}", lines
    )


def _numbered(keys: Sequence[tuple[str, str]], how: str, lines: Sequence[str]) -> Grouping:
    """Numbers by the sorted keys. Raises ConfigError where there is one group alone."""
    order = sorted(set(keys))
    if len(order) == 1:
        raise ConfigError(
            f"data.groups ({how}) puts all {len(keys)} images into one group, {order[0][0]!r}, which cannot be divided into"
            " training, validation and test; name what tells groups apart, or set it to null"
        )
    place = {key: number for number, key in enumerate(order)}
    number_N = torch.tensor([place[key] for key in keys])
    said = list(lines)
    if len(order) == len(keys):
        said.append(f"WARNING: each image is a group of its own by {how}, so that grouping changes nothing")
    return Grouping(number_N, tuple(text or f"image {own}" for text, own in order), how, tuple(said))
