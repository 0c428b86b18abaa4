"""Writers of pools of scored fakes, in one HDF5 file or in several, in memory that does not grow with them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import torch
from torch import Tensor

from cgankd.data.store.files import Array, Attributes, creating, put, put_attributes, read_rows
from cgankd.data.store.parts import by_part, make_way, marks, part_name
from cgankd.data.store.writing import sync

CHUNK_PLACE = 256
"""Most bytes that the place of a chunk takes in the tree of a dataset."""
MOST_COLUMNS, COLUMN_BYTES = 12, 2**14
"""Columns that a pool begins with, and most bytes that an empty one takes."""


@dataclass(frozen=True)
class PoolRows:
    """B rows of a pool, a column each.

    images uint8 [B, C, H, W]; asked and predicted [B] labels in raw units; ratio, teacher_error, uniform float32 [B];
    teacher_output float16 [B, O]; shard int32 [B], the number of the block within its label group; teacher_spread float32 [B],
    how far the members of the teacher disagree, None where it has none.
    """

    images: Tensor | Array
    asked: Tensor | Array
    predicted: Tensor | Array
    ratio: Tensor | Array
    teacher_error: Tensor | Array
    teacher_output: Tensor | Array
    uniform: Tensor | Array
    shard: Tensor | Array
    teacher_spread: Tensor | Array | None = None

    def __post_init__(self) -> None:
        assert len({len(values) for values in self.columns().values()}) == 1, "all columns have one length"

    def columns(self) -> dict[str, Tensor | Array]:
        """The columns that are there, by name."""
        return {name: values for name, values in vars(self).items() if values is not None}

    def __len__(self) -> int:
        return len(self.asked)


class BankWriter:
    """Appends scored fakes chunk by chunk to a pool file, in memory that does not grow with it.

    Its columns are those of `PoolRows`. The file gets its name on `close`; leaving the context without `close` (an error, a
    kill) leaves no file under that name.
    """

    def __init__(
        self,
        path: Path,
        image_shape: tuple[int, ...],
        num_outputs: int,
        label_dtype: torch.dtype,
        *,
        spread: bool = False,
    ) -> None:
        self.path = path
        self._context = creating(path)
        with ExitStack() as stack:
            self._file, self._room = stack.enter_context(self._context)
            self._room.take(MOST_COLUMNS * COLUMN_BYTES)
            self._allocated: dict[str, int] = {}
            label = torch.empty(0, dtype=label_dtype).numpy().dtype
            _growing(self._file, "images", tuple(image_shape), np.uint8)
            _growing(self._file, "teacher_output", (num_outputs,), np.float16)
            for name in ("asked", "predicted"):
                _growing(self._file, name, (), label)
            for name in ("ratio", "teacher_error", "uniform", *(["teacher_spread"] if spread else [])):
                _growing(self._file, name, (), np.float32)
            _growing(self._file, "shard", (), np.int32)
            stack.pop_all()  # from here on the file is ended by `close` or `__exit__`
        self._rows = 0
        self._open = True

    def __len__(self) -> int:
        return self._rows

    def append(self, rows: PoolRows) -> None:
        """Add B rows to every column."""
        assert self._open, "append after close"
        end = self._rows + len(rows)
        self._room.take(sum(self._growth(name, end) for name in rows.columns()))
        for name, values in rows.columns().items():
            target = self._file[name]
            assert values.shape[1:] == target.shape[1:], f"{name} rows have shape {target.shape[1:]}"
            target.resize(end, axis=0)
            target[self._rows : end] = values.numpy() if isinstance(values, Tensor) else values
        self._rows = end

    def _growth(self, name: str, end: int) -> int:
        """Bytes that a column of `end` rows takes beyond what is kept for it: whole chunks, and their places in a tree."""
        target = self._file[name]
        chunk_rows = target.chunks[0]
        had, wants = self._allocated.get(name, 0), -(-end // chunk_rows)
        self._allocated[name] = wants
        return int(wants - had) * int(chunk_rows * math.prod(target.shape[1:]) * target.dtype.itemsize + CHUNK_PLACE)

    def read(self, name: str, rows: Tensor) -> Tensor:
        """Rows [R] of a column as they were appended, in the order asked."""
        return read_rows(self._file[name], rows.numpy())

    def set_columns(self, columns: Mapping[str, Tensor | Array]) -> None:
        """Add whole columns [M] once all rows are in, such as the boolean `in_raw`."""
        for name, values in columns.items():
            assert values.shape == (self._rows,), f"column {name} has one value a row"
            put(self._file, self._room, name, values.numpy() if isinstance(values, Tensor) else values)

    def close(self, attributes: Attributes) -> None:
        """Write the attributes and give the file its final name."""
        put_attributes(self._file, self._room, attributes)
        self._open = False
        make_way(self.path, for_parts=False)
        self._context.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._open:
            self._open = False
            left = error or RuntimeError(f"{self.path} was left without close, so it is not kept")
            self._context.__exit__(type(left), left, trace)
            if error is None:
                raise left


class PartsWriter(BankWriter):
    """As `BankWriter`, but a folder of files with at most `rows_per_file` rows each, which are read as one."""

    def __init__(self, path: Path, rows_per_file: int, make: Callable[[Path], BankWriter]) -> None:
        self.path, self.rows_per_file, self._make = path, rows_per_file, make
        self._folder = path.with_name(f".{path.name}.parts")
        shutil.rmtree(self._folder, ignore_errors=True)  # of a killed run
        self._files: list[BankWriter] = []
        self._add_file()
        self._open = True

    def __len__(self) -> int:
        return sum(map(len, self._files))

    def append(self, rows: PoolRows) -> None:
        """Add B rows to every column, to another file where one is full."""
        start = 0
        while start < len(rows):
            if len(self._files[-1]) == self.rows_per_file:
                self._add_file()
            end = min(len(rows), start + self.rows_per_file - len(self._files[-1]))
            self._files[-1].append(PoolRows(**{name: values[start:end] for name, values in rows.columns().items()}))
            start = end

    def read(self, name: str, rows: Tensor) -> Tensor:
        """Rows [R] of a column as they were appended, in the order asked."""
        edges, asked = np.cumsum([0, *map(len, self._files)]), rows.numpy()
        out = self._files[0].read(name, rows[:0]).new_empty(0)
        for places, number, inner in by_part(edges, asked):
            found = self._files[number].read(name, torch.from_numpy(inner))
            out = found.new_empty((len(asked), *found.shape[1:])) if len(out) == 0 else out
            out[torch.from_numpy(places)] = found
        return out if len(asked) else self._files[0].read(name, rows)

    def set_columns(self, columns: Mapping[str, Tensor | Array]) -> None:
        """Add whole columns [M] once all rows are in."""
        start = 0
        for file in self._files:
            file.set_columns({name: values[start : start + len(file)] for name, values in columns.items()})
            start += len(file)

    def close(self, attributes: Attributes) -> None:
        """Write the attributes to every part and give the folder its final name."""
        total, before = len(self), 0
        self._open = False
        for number, file in enumerate(self._files):
            file.close({**attributes, **marks(attributes, before, total)})
            file.path.rename(file.path.with_name(part_name(number, len(self._files))))
            before += len(file)
        sync(self._folder)
        make_way(self.path, for_parts=True)
        self._folder.rename(self.path)
        sync(self.path.parent)

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._open:
            return
        self._open = False
        left = error or RuntimeError(f"{self.path} was left without close, so it is not kept")
        for file in self._files:
            with suppress(type(left)):
                file.__exit__(type(left), left, trace)
        shutil.rmtree(self._folder, ignore_errors=True)
        if error is None:
            raise left

    def _add_file(self) -> None:
        self._files.append(self._make(self._folder / f"{len(self._files):05d}.h5"))


def pool_writer(
    path: Path,
    image_shape: tuple[int, ...],
    num_outputs: int,
    label_dtype: torch.dtype,
    *,
    spread: bool = False,
    rows_per_file: int | None = None,
) -> BankWriter:
    """A writer of a pool in one file, or in files of so many rows."""

    def make(to: Path) -> BankWriter:
        return BankWriter(to, image_shape, num_outputs, label_dtype, spread=spread)

    return make(path) if rows_per_file is None else PartsWriter(path, rows_per_file, make)


def _growing(file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any) -> None:
    rows = _chunk_rows(shape) if shape else 4096
    file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(rows, *shape))


def _chunk_rows(shape: tuple[int, ...]) -> int:
    """Rows of a chunk: about a quarter of a megabyte."""
    return max(1, min(1024, 2**18 // max(1, math.prod(shape))))
