"""A list as text: its encoding, what stands between its cells, and its lines as cells. CSV in all its kinds, JSON lines."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError
from cgankd.data.readers.label_text import tidy

SEPARATORS = {"\t": "tab", ";": "semicolon", "|": "|", ",": "comma"}
"""What may stand between cells, with its name; of those that fit equally well the first is taken."""
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
            return _from_objects(objects, said)
    try:
        return _cells(text, there, said)
    except csv.Error as problem:
        raise ConfigError(f"{setting} {str(path)!r} is not a CSV file ({problem}); save it as one") from None


def _decoded(path: Path, setting: str) -> tuple[str, list[str]]:
    raw = path.read_bytes()
    if raw.startswith(b"PK\x03\x04") or raw.startswith(b"\xd0\xcf\x11\xe0"):
        raise ConfigError(f"{setting} {str(path)!r} is a workbook or archive, not text; save it as CSV")
    said: list[str] = []
    try:
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = raw.decode("utf-16")
            said.append("UTF-16")
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


def _json_lines(text: str, path: Path) -> list[tuple[int, dict[str, Any]]] | None:
    """Objects, one a line. None where the first line is no object, so that this is CSV."""
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = _json(line)
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
    """Objects in one array, numbered from 1."""
    if not text.lstrip().startswith("["):
        return None
    try:
        values = _json(text)
    except ValueError:
        return None
    if not all(isinstance(value, dict) for value in values):
        return None
    return list(enumerate(values, start=1)) or None


def _json(text: str) -> Any:
    """Numbers stay as they are written."""
    return json.loads(text, parse_float=str, parse_int=str, parse_constant=str)


def _from_objects(objects: list[tuple[int, dict[str, Any]]], said: list[str]) -> Table:
    """A column for each key that holds texts and numbers; lists and objects within are no labels."""
    keys = dict.fromkeys(key for _, value in objects for key in value)
    flat = [key for key in keys if not any(isinstance(value.get(key), dict | list) for _, value in objects)]
    rows = [(number, [_word(value.get(key)) for key in flat]) for number, value in objects]
    nested = [f"{key!r} (no plain values)" for key in keys if key not in flat]
    return Table(rows, tuple(map(tidy, flat)), (*said, "JSON", *(f"not used: {name}" for name in nested)))


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
    return Table(rows, (), tuple(said))


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
