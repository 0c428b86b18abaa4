"""Which columns of a list are the image and the label: named by the user, or found by names and contents."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cgankd.config import ConfigError
from cgankd.config.data import COLUMN
from cgankd.data.readers.label_text import COMMA_NUMBER, number, tidy
from cgankd.data.readers.list_paths import Finder, like_image
from cgankd.data.readers.list_text import Table

HEADER = ["path", "label"]
PATHS = (
    "path", "file_name", "filename", "file", "image", "img", "image_path", "img_path", "image_file", "filepath",
    "file_path", "image_name", "img_name", "image_id", "img_id", "photo", "picture", "name", "id",
)  # fmt: skip
"""Names of a column of images, in lower case; the first that a list has is taken where several hold files."""
LABELS = ("label", "labels", "class", "target", "y", "category", "value", "class_name", "classname", "label_name")
"""Names that say: this is the label."""
MEASURES = (
    "age", "angle", "yaw", "weight", "height", "temperature", "score", "rating", "price", "count", "steering",
    "species", "breed", "type",
)  # fmt: skip
"""Names of labels by which a header is known, but which do not win over another column that could be the label."""
SPLITS = ("split", "set", "subset", "partition", "fold", "usage")
TOGETHER = (
    "group", "groups", "patient", "patient_id", "subject", "subject_id", "person", "film", "video", "clip", "sequence",
    "scene", "session", "series", "meter",
)  # fmt: skip
"""Names of columns that may say which images belong together, in lower case."""
OTHERS = (
    *SPLITS, *TOGETHER, "index", "idx", "id", "url", "caption", "text", "md5",
    "sha1", "sha256", "hash", "license", "licence", "source",
)  # fmt: skip
"""Names of columns that are no labels where another column could be one."""
SPLIT_UNUSED = " (splits are made anew; to keep those, sort the images into train/, val/ and test/)"
UNNAMED = re.compile(r"|#|unnamed(: ?\d+)?", re.IGNORECASE)
MOST, SAMPLE = 0.5, 200
"""A column holds files where more than MOST of about SAMPLE cells, evenly taken, are files."""


@dataclass(frozen=True)
class Columns:
    """Names (or numbers from 1) of the columns as the user gave them; None = found, and no groups."""

    path: str | None = None
    label: str | None = None
    groups: str | None = None
    """`data.groups` where it is, or may be, a column; it names one where there is one of this name."""


FOUND = Columns()


@dataclass(frozen=True)
class Layout:
    """Places of the columns, the names of all and how many there are, the lines below the header, and what was guessed."""

    path: int
    label: int
    names: tuple[str, ...]
    width: int
    rows: list[tuple[int, list[str]]]
    said: tuple[str, ...] = ()
    groups: int | None = None


def title(names: Sequence[str], place: int) -> str:
    """A column's name, or its number where it has none."""
    return repr(names[place]) if place < len(names) and names[place] else f"number {place + 1}"


def find_columns(table: Table, root: Path, finder: Finder, wanted: Columns = FOUND) -> Layout:
    """Where the images and the labels stand. Raises ConfigError naming the columns that could be either."""
    names, rows = _header(table, finder, wanted)
    if not rows:
        return Layout(0, 1, names, 2, [])
    width = len(names) or _width(rows)
    column = [[cells[place] if place < len(cells) else "" for _, cells in rows] for place in range(width)]
    path = _path(column, names, root, finder, wanted)
    groups = _groups(names, width, root, wanted)
    if groups is not None and wanted.label is None and names and names[groups].lower() in LABELS:
        raise ConfigError(f"data.groups {wanted.groups!r} is the column of labels in {root}; name another one")
    left = [place for place in range(width) if place not in (path, groups) and any(column[place])]
    label, dropped = _label(column, names, root, wanted, left, path)
    if groups in (path, label):
        kind = "images" if groups == path else "labels"
        raise ConfigError(f"data.groups {wanted.groups!r} is the column of {kind} in {root}; name another one")
    lower = tuple(name.lower() for name in names)
    if width == 2 and lower in ((), tuple(HEADER)) and (path, label) == (0, 1):
        return Layout(path, label, names, width, rows)
    said = [f"columns {title(names, path)} (image) and {title(names, label)} (label)"]
    if groups is not None:
        said = [
            f"columns {title(names, path)} (image), {title(names, label)} (label) and {title(names, groups)} (group)"
        ]
    indices = [place for place in dropped if _is_index(column[place], names, place, path)]
    if indices:
        said.append(f"{len(indices)} index column{'s' if len(indices) > 1 else ''} left out")
    rest = [_unused(names, place) for place in left if place not in (label, *indices)]
    if rest:
        said.append(f"not used: {', '.join(rest)}")
    return Layout(path, label, names, width, rows, tuple(said), groups)


def _unused(names: tuple[str, ...], place: int) -> str:
    """A column that is left out, with what it might have been good for."""
    name = names[place] if names else ""
    if name.lower() in SPLITS:
        return title(names, place) + SPLIT_UNUSED
    if name.lower() in TOGETHER:
        return f"{title(names, place)} (if it says which images belong together, add --groups {shlex.quote(name)})"
    return title(names, place)


def _width(rows: list[tuple[int, list[str]]]) -> int:
    """Cells of most lines."""
    widths = Counter(len(cells) for _, cells in rows)
    return max(sorted(widths), key=lambda width: widths[width])


def _header(table: Table, finder: Finder, wanted: Columns) -> tuple[tuple[str, ...], list[tuple[int, list[str]]]]:
    """Names of the columns, none where there is no header, and the lines below it."""
    if table.names or not table.rows:
        return table.names, table.rows
    first, rest = table.rows[0][1], table.rows[1:]
    if not _is_header(first, [cells for _, cells in rest], finder, wanted):
        return (), table.rows
    longer = [cells for _, cells in rest if len(cells) == len(first) + 1]
    if rest and len(longer) == len(rest) and _counts(cells[0] for cells in longer):
        return ("", *first), rest  # as R writes its row numbers, without a name for them
    return tuple(first), rest


def _counts(cells: Iterable[str]) -> bool:
    """Whether cells are 0, 1, 2 ... or 1, 2, 3 ..."""
    own = list(cells)
    return all(cell.isdecimal() for cell in own) and [int(cell) for cell in own] in (
        list(range(len(own))),
        list(range(1, len(own) + 1)),
    )


def _is_header(first: list[str], rest: list[list[str]], finder: Finder, wanted: Columns) -> bool:
    lower = [cell.lower() for cell in first]
    if lower == HEADER:
        return True
    if any(like_image(Path(cell)) or finder.there(cell) for cell in first):
        return False
    words = (wanted.path, wanted.label, wanted.groups and wanted.groups.removeprefix(COLUMN))
    if any(word is not None and tidy(word) in first for word in words):
        return True
    if set(lower) & {*PATHS} and set(lower) & {*LABELS, *MEASURES}:
        return True
    same = [cells for cells in rest if len(cells) == len(first)]
    if not same or any(map(_numeric, first)):
        return False
    measured = any(all(_numeric(cells[place]) for cells in same) for place in range(len(first)))
    return measured or any(_mostly(finder.there, [cells[place] for cells in same]) for place in range(len(first)))


def _mostly(test: Callable[[str], bool], cells: list[str]) -> bool:
    taken = cells[:: max(1, len(cells) // SAMPLE)]
    return sum(map(test, taken)) > MOST * len(taken)


def _numeric(cell: str) -> bool:
    return number(cell) is not None or COMMA_NUMBER.fullmatch(cell) is not None


def _named(word: str, names: tuple[str, ...], width: int, root: Path, setting: str) -> int:
    """The column that the user named. Raises ConfigError with the names there are."""
    word = tidy(word)
    for own in (names, tuple(name.lower() for name in names)):
        if own.count(word if own is names else word.lower()) == 1:
            return own.index(word if own is names else word.lower())
    if word.isdecimal() and 1 <= int(word) <= width:
        return int(word) - 1
    there = ", ".join(title(names, place) for place in range(width))
    raise ConfigError(f"{setting} {word!r} is no column of {root}; it has {there}")


def _groups(names: tuple[str, ...], width: int, root: Path, wanted: Columns) -> int | None:
    """The column of groups; None where none is asked for, or the text is a pattern. Raises ConfigError."""
    if wanted.groups is None:
        return None
    word = tidy(wanted.groups.removeprefix(COLUMN))
    if not wanted.groups.startswith(COLUMN) and "(" in word and word not in names:
        return None
    return _named(word, names, width, root, "data.groups")


def _path(column: list[list[str]], names: tuple[str, ...], root: Path, finder: Finder, wanted: Columns) -> int:
    width = len(column)
    if wanted.path is not None:
        return _named(wanted.path, names, width, root, "data.path_column")
    tests: list[Callable[[str], bool]] = [finder.named, finder.there, lambda cell: like_image(Path(cell))]
    known = {name.lower(): place for place, name in reversed(list(enumerate(names)))}
    for test in tests:
        found = [place for place in range(width) if _mostly(test, column[place])]
        if len(found) == 1:
            return found[0]
        best = next((known[name] for name in PATHS if known.get(name) in found), None)
        if best is not None:
            return best
        if found:
            raise ConfigError(
                f"{root} has {len(found)} columns that could be the image: {', '.join(title(names, p) for p in found)};"
                " name one with --path-column (data.path_column)"
            )
    return next((known[name] for name in PATHS if name in known), 0)


def _is_index(cells: list[str], names: tuple[str, ...], place: int, path: int) -> bool:
    """Whether a column only numbers the lines: in order, or whole numbers without a name among names."""
    if not names:
        return place < path and _counts(cells)
    unnamed = UNNAMED.fullmatch(names[place]) is not None
    whole = all(cell.isdecimal() for cell in cells)
    return (unnamed and whole and len(set(cells)) == len(cells)) or (names[place].lower() in OTHERS and _counts(cells))


def _label(
    column: list[list[str]], names: tuple[str, ...], root: Path, wanted: Columns, left: list[int], path: int
) -> tuple[int, list[int]]:
    """The column of labels and those that were passed over. Raises ConfigError where several could be it."""
    if wanted.label is not None:
        label = _named(wanted.label, names, len(column), root, "data.label_column")
        if label == path:
            raise ConfigError(f"data.label_column {wanted.label!r} is the column of images in {root}; name another one")
        return label, [place for place in left if place != label]
    if not left:
        raise ConfigError(
            f"{root} has no column of labels beside the images in column {title(names, path)}; write path,label lines"
        )
    lower = [names[place].lower() if names else "" for place in range(len(column))]
    best = [place for place in left if lower[place] == LABELS[0]]
    best = best or [place for place in left if lower[place] in LABELS]
    sifts: list[Callable[[int], bool]] = [
        lambda place: not _is_index(column[place], names, place, path),
        lambda place: lower[place] not in OTHERS,
        lambda place: len(set(column[place])) > 1,
        lambda place: _numeric(column[place][0]) or len(set(column[place])) < len(column[place]),
    ]
    for sift in sifts:
        left = list(filter(sift, left)) or left
    chosen = best or left
    if len(chosen) > 1:
        listed = ", ".join(f"{title(names, place)} (such as {column[place][0]!r})" for place in chosen)
        comma = ""
        if not names and all(cell.isdecimal() for place in chosen for cell in column[place]):
            comma = (
                "; if they are one number with a decimal comma, put quotes around it or part the columns by semicolons"
            )
        raise ConfigError(
            f"{root} has {len(chosen)} columns that could be the label: {listed}; name one with --label-column"
            f" (data.label_column){comma}"
        )
    return chosen[0], [place for place in range(len(column)) if place not in (path, chosen[0])]
