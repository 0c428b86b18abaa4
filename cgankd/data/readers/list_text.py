"""A list as text: its encoding, what stands between its cells, and its lines as cells. CSV in all its kinds, JSON lines."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError
from cgankd.data.readers.label_text import tidy
from cgankd.data.readers.walk import is_image as like_image
from cgankd.data.regular import MAX_LIST, parse_json, read_bytes

SEPARATORS = {"\t": "tab", ";": "semicolon", "|": "|", ",": "comma"}
"""What may stand between cells, with its name; of those that fit equally well the first is taken."""
SNIFFED = 4096
"""Bytes by which an encoding is told."""
QUOTES = {"'": "'", "\u2018": "\u2019", "\u201c": "\u201d", "`": "`"}
"""What some programs put around every cell in place of plain quotes."""
MOST_COLUMNS = 1000
"""Columns of a list; every line is filled up to the longest."""
SAMPLE = 200
"""Lines that are looked at to find the separator."""
JSON_SUFFIXES = (".jsonl", ".ndjson")
SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n")
"""How Excel writes down its separator, as a first line."""


@dataclass(frozen=True)
class Table:
    """Numbers of lines with their cells, the names of the columns where the format has them, and what was guessed."""

    rows: list[tuple[int, list[str]]]
    names: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


def read_table(path: Path, setting: str, there: Callable[[str], bool]) -> Table:
    """The lines of a list; `there` tells whether a cell names a file. Raises ConfigError where it is no text."""
    text, said = _decoded(path, setting)
    for parse in (_json_lines, _json_array):
        if (objects := parse(text, path)) is not None:
            if len(objects) == 1 and (table := _from_mapping(objects[0][1], path, said)) is not None:
                return table
            return _from_objects(objects, path, said)
    try:
        table = _cells(text, there, said)
        widest = max((len(cells) for _, cells in table.rows), default=0)
        if widest > MOST_COLUMNS:
            raise ConfigError(f"{path} has a line of {widest} cells, more than the {MOST_COLUMNS} that are read")
        return table
    except csv.Error as problem:
        raise ConfigError(f"{setting} {str(path)!r} is not a CSV file ({problem}); save it as one") from None


def _decoded(path: Path, setting: str) -> tuple[str, list[str]]:
    raw = read_bytes(path, MAX_LIST)
    if raw.startswith(b"PK\x03\x04") or raw.startswith(b"\xd0\xcf\x11\xe0"):
        raise ConfigError(f"{setting} {str(path)!r} is a workbook or archive, not text; save it as CSV")
    said: list[str] = []
    try:
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = raw.decode("utf-16")
            said.append("UTF-16")
        elif unmarked := _unmarked(raw[:SNIFFED]):
            text = raw.decode(unmarked)
            said.append("UTF-16 without its mark")
        else:
            text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        try:
            text = raw.decode("cp1252")
        except UnicodeDecodeError:
            text = "\0"
        said.append(f"Windows letters (cp1252), as byte {problem.start} is no UTF-8")
    if "\0" in text:
        raise ConfigError(f"{setting} {str(path)!r} is not a CSV file in UTF-8; save it as one")
    return text, said


def _unmarked(raw: bytes) -> str:
    """The encoding of UTF-16 without a mark, of whose letters every second byte is zero; empty for anything else."""
    halves = {"utf-16-be": raw[0::2], "utf-16-le": raw[1::2]}
    zeros = {name: half.count(0) for name, half in halves.items()}
    name = max(zeros, key=lambda name: zeros[name])
    return name if 2 * zeros[name] > len(halves[name]) and 4 * sum(zeros.values()) < 5 * zeros[name] else ""


def _json_lines(text: str, path: Path) -> list[tuple[int, dict[str, Any]]] | None:
    """Objects, one a line. None where the first line is no object, so that this is CSV."""
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line, as_written=True)
        except ValueError as problem:
            if not found and (path.suffix.lower() not in JSON_SUFFIXES or line.lstrip()[0] != "{"):
                return None
            raise ConfigError(f"{path}:{number}: this line is no JSON ({problem}); correct or remove it") from None
        if not isinstance(value, dict):
            if not found:
                return None
            raise ConfigError(f"{path}:{number}: this line is no JSON object; correct or remove it")
        found.append((number, value))
    return found or None


def _json_array(text: str, path: Path) -> list[tuple[int, dict[str, Any]]] | None:
    """Objects in one array, numbered from 1; a single object over several lines counts as one."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        values = parse_json(text, as_written=True)
    except ValueError:
        return None
    values = values if isinstance(values, list) else [values]
    if not all(isinstance(value, dict) for value in values):
        return None
    return list(enumerate(values, start=1)) or None


def _from_mapping(value: dict[str, Any], path: Path, said: list[str]) -> Table | None:
    """One object for the whole list: {image: label, ...}, or {column: [cells], ...}. Raises ConfigError for one of several
    tables, such as COCO's; None where it is a line like others."""
    columns = list(value.values())
    if len(value) > 1 and all(isinstance(cells, list) for cells in columns):
        plain = not any(isinstance(cell, dict | list) for cells in columns for cell in cells)
        if plain and len({len(cells) for cells in columns}) == 1:
            rows = [
                (number, list(map(_word, cells))) for number, cells in enumerate(zip(*columns, strict=True), start=1)
            ]
            return Table(rows, tuple(map(tidy, value)), (*said, "JSON, a list a column"))
        raise ConfigError(
            f"{path} has several tables ({', '.join(list(value)[:4])}); write one line of JSON for each image, with its"
            " file_name and label, or a CSV file"
        )
    if sum(like_image(Path(key)) for key in value) > len(value) / 2 and not any(
        isinstance(cell, dict | list) for cell in columns
    ):
        rows = [(number, [tidy(key), _word(cell)]) for number, (key, cell) in enumerate(value.items(), start=1)]
        return Table(rows, ("file_name", "label"), (*said, "JSON, images with their labels"))
    return None


def _from_objects(objects: list[tuple[int, dict[str, Any]]], path: Path, said: list[str]) -> Table:
    """A column for each key that holds texts and numbers; lists and objects within are no labels."""
    objects = [(number, _flat(value)) for number, value in objects]
    keys = dict.fromkeys(key for _, value in objects for key in value)
    if len(keys) > MOST_COLUMNS:  # a table of all keys by all objects is far larger than the file
        raise ConfigError(f"{path} has {len(keys)} different keys, more than the {MOST_COLUMNS} columns that are read")
    flat = [key for key in keys if not any(isinstance(value.get(key), dict | list) for _, value in objects)]
    rows = [(number, [_word(value.get(key)) for key in flat]) for number, value in objects]
    nested = [f"{key!r} (no plain values)" for key in keys if key not in flat]
    return Table(rows, tuple(map(tidy, flat)), (*said, "JSON", *(f"not used: {name}" for name in nested)))


def _flat(value: dict[str, Any]) -> dict[str, Any]:
    """An object with those within it as keys of their own, such as image.path."""
    flat: dict[str, Any] = {}
    for key, cell in value.items():
        flat |= {f"{key}.{inner}": own for inner, own in cell.items()} if isinstance(cell, dict) else {key: cell}
    return flat


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    return tidy(str(value))


def _cells(text: str, there: Callable[[str], bool], said: list[str]) -> Table:
    first = SEPARATOR_LINE.match(text)
    start = 0
    if first:
        separator, start, text = first[1], 1, text[first.end() :]
    else:
        separator = _separator(text, there)
    if separator != ",":
        said = [*said, f"separator {SEPARATORS.get(separator, 'blank' if separator.isspace() else separator)}"]
    rows = [(start + number, cells) for number, cells in _split(text, separator)]
    rows, quoted = _unquoted(rows)
    rows, titles, comments = _without_remarks(rows, there)
    said = [*said, *quoted]
    said += [f"{titles} lines of a title left out"] if titles else []
    said += [f"{comments} comment lines left out"] if comments else []
    return Table(rows, (), tuple(said))


Rows = list[tuple[int, list[str]]]


def _unquoted(rows: Rows) -> tuple[Rows, list[str]]:
    """Cells without other quotes than the usual ones, where all cells of most lines have them."""

    def inner(cell: str) -> str | None:
        return cell[1:-1] if len(cell) > 1 and QUOTES.get(cell[0]) == cell[-1] else None

    around = sum(inner(cells[0]) is not None for _, cells in rows)
    if 2 * around <= len(rows):
        return rows, []
    return [(number, [tidy(inner(cell) or cell) for cell in cells]) for number, cells in rows], ["other quotes"]


def _without_remarks(rows: Rows, there: Callable[[str], bool]) -> tuple[Rows, int, int]:
    """The lines without titles above them (one cell alone) and comments (a # that begins no name of a file), and how many
    there were of each."""
    width = max(Counter(len(cells) for _, cells in rows).items(), key=lambda item: (item[1], item[0]))[0] if rows else 0
    kept = [row for row in rows if not _remark(row[1], width, there)]
    comments = len(rows) - len(kept)
    titles = 0
    while width > 1 and len(kept) > titles and len([cell for cell in kept[titles][1] if cell]) == 1:
        if any(map(there, kept[titles][1])) or any(like_image(Path(cell)) for cell in kept[titles][1]):
            break
        titles += 1
    return kept[titles:], titles, comments


def _remark(cells: list[str], width: int, there: Callable[[str], bool]) -> bool:
    if not cells[0].startswith("#") or cells[0] == "#" or there(cells[0]) or like_image(Path(cells[0])):
        return False
    return len(cells) < width or not any(cells[1:])


def _split(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Lines that are not empty, with their numbers; a blank stands before the last word of a line alone."""
    if separator == " ":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield number, [tidy(cell) for cell in line.strip().rsplit(maxsplit=1)]
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    for cells in reader:
        cells = [tidy(cell) for cell in cells]
        if any(cells):
            yield reader.line_num, cells


def _separator(text: str, there: Callable[[str], bool]) -> str:
    """The one with which most lines have a cell that is a file, then the one with which lines are most alike."""
    sample = "\n".join(text.splitlines()[:SAMPLE])
    best, highest = ",", (0.0, 0.0)
    for separator in (*SEPARATORS, " "):
        rows = [cells for _, cells in _split(sample, separator)]
        widths = Counter(map(len, rows))
        width, count = widths.most_common(1)[0] if rows else (0, 0)
        if width < 2:
            continue
        found = sum(any(map(there, cells)) for cells in rows) / len(rows)
        if (separator == " " and found < 0.5) or (found, count / len(rows)) <= highest:
            continue
        best, highest = separator, (found, count / len(rows))
    return best
