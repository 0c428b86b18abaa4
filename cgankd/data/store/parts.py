"""A pool or bank in several files, read as one: a folder of the file's name with 00000-of-00004.h5 and so on, in row order.

Each part has all columns for its rows, all attributes, and three more: the number of rows before it, of rows in all, and a
digest that only the parts of one writing share. So a part that is missing, cut off or of another pool is seen, and named.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from cgankd.data.store.files import RUN_AGAIN, Array, Attributes, column, get_attributes, opening, read_rows
from cgankd.data.store.stream import CACHE_BYTES, MemoryBudget, StreamedImages
from cgankd.types import Images

NAME = re.compile(r"(\d{5})-of-(\d{5})\.h5")
BEFORE, TOTAL, SET = "part.rows_before", "part.rows_in_all", "part.set"
"""Attributes of a part beside those of the whole."""


def part_name(number: int, count: int) -> str:
    """The name of a part."""
    return f"{number:05d}-of-{count:05d}.h5"


def marks(attributes: Attributes, before: int, total: int) -> dict[str, str | int | float]:
    """What a part has beside the attributes of the whole."""
    text = json.dumps([sorted(attributes.items()), total])
    return {BEFORE: before, TOTAL: total, SET: hashlib.sha256(text.encode()).hexdigest()}


def part_paths(path: Path) -> list[Path]:
    """The file itself, or the parts in a folder. Raises ValueError naming a part that is not there."""
    if not path.is_dir():
        return [path]
    found = sorted(path.iterdir())
    named = [NAME.fullmatch(part.name) for part in found]
    if not found or None in named:
        stray = next((part.name for part, name in zip(found, named, strict=True) if name is None), None)
        what = "holds no files" if stray is None else f"holds {stray}, which is no part of it"
        raise ValueError(f"{path} is a folder and {what}; {RUN_AGAIN}")
    counts = sorted({int(name[2]) for name in named if name is not None})
    there = {part.name for part in found}
    if len(counts) > 1:
        raise ValueError(f"{path} holds parts of a set of {counts[0]} and of one of {counts[1]}; {RUN_AGAIN}")
    if lacking := [name for name in (part_name(i, counts[0]) for i in range(counts[0])) if name not in there]:
        raise ValueError(f"{path} lacks {lacking[0]}; {RUN_AGAIN}")
    if len(found) > counts[0]:
        raise ValueError(f"{path} holds {found[-1].name}, which is no part of it; {RUN_AGAIN}")
    return found


@contextmanager
def opening_parts(path: Path) -> Iterator[list[tuple[Path, h5py.File]]]:
    """The checked file, or all checked parts, open for reading. Raises ValueError where one is not of the set."""
    paths = part_paths(path)
    with ExitStack() as stack:
        parts = [(part, stack.enter_context(opening(part))) for part in paths]
        if path.is_dir():
            _check_set(parts)
        yield parts


def _check_set(parts: list[tuple[Path, h5py.File]]) -> None:
    before, first = 0, get_attributes(*parts[0])
    for path, file in parts:
        found = get_attributes(path, file)
        if found.get(SET) is None or found.get(SET) != first.get(SET) or found.get(BEFORE) != before:
            raise ValueError(f"{path} is a part of another file than {parts[0][0].name}; {RUN_AGAIN}")
        before += len(column(path, file, "images", "u", 4))
    if first.get(TOTAL) != before:
        raise ValueError(f"{parts[0][0].parent} has {before} rows of {first.get(TOTAL)}; {RUN_AGAIN}")


class Column:
    """A dataset in one file or over all parts."""

    def __init__(self, parts: list[tuple[Path, h5py.File]], name: str, kinds: str, ndim: int | None) -> None:
        self.items = [column(path, file, name, kinds, ndim) for path, file in parts]
        self.paths = [path for path, _ in parts]
        if odd := next((i for i in self.items if (i.shape[1:], i.dtype) != (self.row, self.dtype)), None):
            raise ValueError(f"{odd.file.filename}: dataset {name!r} is not as in the other parts; {RUN_AGAIN}")
        self.edges = np.cumsum([0, *map(len, self.items)])

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of a row."""
        shape: tuple[int, ...] = self.items[0].shape[1:]
        return shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type at rest."""
        found: np.dtype[np.generic] = self.items[0].dtype
        return found

    def __len__(self) -> int:
        return int(self.edges[-1])

    def read(self, rows: Array) -> Tensor:
        """Rows in the order asked."""
        if len(self.items) == 1:
            return read_rows(self.items[0], rows)
        out = np.empty((len(rows), *self.row), self.dtype)
        for places, number, inner in by_part(self.edges, rows):
            out[places] = read_rows(self.items[number], inner).numpy()
        return torch.from_numpy(out)

    def images(self, rows: Array, memory: MemoryBudget | None) -> Images:
        """Rows of uint8 images as a tensor, or streamed where they do not fit in what `memory` has left."""
        if memory is None or memory.take(len(rows) * int(np.prod(self.row))):
            return self.read(rows)
        if len(self.items) == 1:
            return StreamedImages(self.paths[0], rows)
        share = CACHE_BYTES // len(self.paths)
        every = [StreamedImages(path, np.arange(len(i)), share) for path, i in zip(self.paths, self.items, strict=True)]
        return StreamedParts(every, rows)


def by_part(edges: Array, rows: Array) -> Iterator[tuple[Array, int, Array]]:
    """Places among the rows asked for, the part that they lie in, and their rows there, a part at a time."""
    number = np.searchsorted(edges, rows, side="right") - 1
    for part in np.unique(number):
        places = np.flatnonzero(number == part)
        yield places, int(part), rows[places] - edges[part]


class StreamedParts:
    """Rows of the images of several files as if they were one uint8 tensor [N, C, H, W] (types.Images)."""

    dtype = torch.uint8
    ndim = 4

    def __init__(self, parts: list[StreamedImages], rows: Array | Tensor) -> None:
        self.parts, self._rows = parts, np.asarray(rows, dtype=np.int64)
        self._edges = np.cumsum([0, *map(len, parts)])
        fits = self._rows.size == 0 or (self._rows.min() >= 0 and self._rows.max() < self._edges[-1])
        assert fits, "rows lie in the files"

    @property
    def shape(self) -> torch.Size:
        """[N, C, H, W]."""
        return torch.Size((len(self._rows), *self.parts[0].shape[1:]))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[torch.tensor([row])][0] for row in range(len(self)))

    def __getitem__(self, rows: Tensor | slice | int, /) -> Tensor:
        """uint8 images of the rows asked for, in that order. Raises IndexError where there is no such row."""
        if isinstance(rows, int):
            return self[torch.tensor([rows])][0]
        if isinstance(rows, slice):
            return self._read(self._rows[rows])
        if rows.dtype == torch.bool and rows.shape != (len(self),):
            raise IndexError(f"a mask of shape {tuple(rows.shape)} does not fit {len(self)} images")
        chosen = rows.cpu().numpy()
        images = self._read(self._rows[chosen].reshape(-1))
        return images if rows.dtype == torch.bool else images.reshape(*rows.shape, *self.shape[1:])

    def _read(self, rows: Array) -> Tensor:
        out = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8)
        for places, number, inner in by_part(self._edges, rows):
            out[torch.from_numpy(places)] = self.parts[number][torch.from_numpy(inner)]
        return out


def make_way(path: Path, *, for_parts: bool) -> None:
    """Delete what an earlier writing left under this name in the other form, or in other parts."""
    if path.is_dir():
        shutil.rmtree(path)
    elif for_parts:
        path.unlink(missing_ok=True)
