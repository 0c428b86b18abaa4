"""Images that stay in their HDF5 file: read on demand, with the same numbers as a tensor of them would give."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from cgankd.data.store.files import Array, column, opening, read_rows
from cgankd.types import Images

SLAB_BYTES = 2**20
"""Bytes of neighbouring rows that are read and kept together."""
CACHE_BYTES = 2**26
"""Most bytes of slabs that one set of images keeps."""
DENSE = 8
"""A slab is read as a whole where at least one in this many of its rows is asked for; else its rows one by one."""


class MemoryBudget:
    """Bytes that images at rest may still take in this process: what does not fit in the rest is streamed."""

    def __init__(self, num_bytes: float) -> None:
        self.left = num_bytes

    def take(self, num_bytes: int) -> bool:
        """Reserve bytes and return True, or return False and reserve none where fewer are left."""
        if num_bytes > self.left:
            return False
        self.left -= num_bytes
        return True


class StreamedImages:
    """Rows of the dataset `images` of an HDF5 file as if they were one uint8 tensor [N, C, H, W] (types.Images).

    Indexed by a row number, a slice, a mask [N] or row numbers [B]; gives what a tensor would. The file is opened at
    the first access in each process, so an object may be sent to workers or inherited by them; reads go through the file
    in ascending order, and at most `cache_bytes` of it (CACHE_BYTES) are kept. The file must not change meanwhile.
    """

    dtype = torch.uint8
    ndim = 4

    def __init__(self, path: Path, rows: Array | Tensor, cache_bytes: int | None = None) -> None:
        self.path, self.cache_bytes = path, cache_bytes
        self._rows: Array = np.asarray(rows, dtype=np.int64)
        with opening(path) as file:
            images = column(path, file, "images", "u", 4)
            self._shape: tuple[int, ...] = images.shape[1:]
            num_rows = len(images)
        assert self._rows.size == 0 or (self._rows.min() >= 0 and self._rows.max() < num_rows), "rows lie in the file"
        self._close()

    @property
    def shape(self) -> torch.Size:
        """[N, C, H, W]."""
        return torch.Size((len(self._rows), *self._shape))

    @property
    def slab_rows(self) -> int:
        """Rows of the file that are kept together."""
        return max(1, SLAB_BYTES // max(1, int(np.prod(self._shape))))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, rows: Tensor | slice | int, /) -> Tensor:
        """uint8 images of the rows asked for, in that order. Raises IndexError where there is no such row."""
        if isinstance(rows, int):
            return self._read(self._checked(np.asarray([rows])))[0]
        if isinstance(rows, slice):
            return self._read(self._rows[rows])
        if rows.dtype == torch.bool:
            if rows.shape != (len(self),):
                raise IndexError(f"a mask of shape {tuple(rows.shape)} does not fit {len(self)} images")
            return self._read(self._rows[rows.cpu().numpy()])
        images = self._read(self._checked(rows.cpu().numpy().reshape(-1)))
        return images.reshape(*rows.shape, *self._shape)

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file and the slabs, which belong to one process."""
        return {"path": self.path, "cache_bytes": self.cache_bytes, "_rows": self._rows, "_shape": self._shape}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._close()

    def _close(self) -> None:
        self._stack, self._process = ExitStack(), 0
        self._images: h5py.Dataset | None = None
        self._bytes: Array | None = None
        self._slabs: OrderedDict[int, Array] = OrderedDict()
        self._places: dict[int, int | None] = {}

    def _checked(self, rows: Array) -> Array:
        """Row numbers of the file; negative ones count from the end."""
        if rows.size and (rows.min() < -len(self) or rows.max() >= len(self)):
            raise IndexError(f"row numbers {rows.min()} to {rows.max()} do not lie in {len(self)} images")
        return self._rows[rows]

    def _file(self) -> h5py.Dataset:
        """The dataset, opened in this process: HDF5 handles do not survive a fork."""
        if self._images is None or self._process != os.getpid():
            self._close()
            file = self._stack.enter_context(opening(self.path))
            self._images, self._process = column(self.path, file, "images", "u", 4), os.getpid()
            self._bytes = None if file.userblock_size else np.memmap(self.path, np.uint8, "r")
        return self._images

    def _read(self, rows: Array) -> Tensor:
        """Rows [B] of the file, slab by slab in ascending order."""
        out = np.empty((len(rows), *self._shape), np.uint8)
        images = self._file()
        order = np.argsort(rows, kind="stable")
        slab_of_row = rows[order] // self.slab_rows
        borders = np.flatnonzero(np.diff(slab_of_row)) + 1
        for places in np.split(order, borders) if len(rows) else []:
            number = int(rows[places[0]]) // self.slab_rows
            slab = self._slab(images, number, len(places))
            if slab is not None:
                out[places] = slab[rows[places] - number * self.slab_rows]
                continue
            for place in places:
                out[place] = self._row(images, int(rows[place]))
        return torch.from_numpy(out)

    def _row(self, images: h5py.Dataset, row: int) -> Array:
        """One row, straight from its bytes in the file where they lie there as they are: HDF5 takes ten times as long."""
        chunk = images.chunks[0] if images.chunks else len(images)
        first = row // chunk
        if first not in self._places:
            self._places[first] = _place(images, first * chunk)
        place = self._places[first]
        if place is None or self._bytes is None:
            found: Array = images[row]
            return found
        size = int(np.prod(self._shape))
        start = place + (row - first * chunk) * size
        return self._bytes[start : start + size].reshape(self._shape)

    def _slab(self, images: h5py.Dataset, number: int, wanted: int) -> Array | None:
        """A slab from the cache or the file; None where too few of its rows are wanted to read it."""
        if number in self._slabs:
            self._slabs.move_to_end(number)
            return self._slabs[number]
        first = number * self.slab_rows
        last = min(first + self.slab_rows, len(images))
        if wanted * DENSE < last - first:
            return None
        slab: Array = images[first:last]
        self._slabs[number] = slab
        while len(self._slabs) > 1 and sum(kept.nbytes for kept in self._slabs.values()) > (
            self.cache_bytes or CACHE_BYTES
        ):
            self._slabs.popitem(last=False)
        return slab


def _place(images: h5py.Dataset, row: int) -> int | None:
    """The byte of the file where the chunk that begins with a row starts; None where its bytes are no plain rows."""
    if images.chunks is None:
        found: int | None = images.id.get_offset()
        return found
    if images.id.get_create_plist().get_nfilters() or images.chunks[1:] != images.shape[1:]:
        return None
    found = images.id.get_chunk_info_by_coord((row, 0, 0, 0)).byte_offset
    return found


def rows_or_stream(path: Path, images: h5py.Dataset, rows: Array, memory: MemoryBudget | None) -> Images:
    """These rows of uint8 images as a tensor, or where they do not fit in what `memory` has left, streamed."""
    if memory is None or memory.take(len(rows) * math.prod(images.shape[1:])):
        return read_rows(images, rows)
    return StreamedImages(path, rows)
