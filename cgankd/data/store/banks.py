"""Pools of scored fakes and banks at rest in HDF5."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import torch
from torch import Tensor

from cgankd.data.store.files import (
    HEADER_BYTES,
    SLAB_ROWS,
    Array,
    Attributes,
    all_rows,
    column,
    creating,
    get_attributes,
    opening,
    put,
    put_attributes,
    read_rows,
    same_length,
)
from cgankd.data.store.stream import MemoryBudget, rows_or_stream
from cgankd.data.store.writing import Reserved
from cgankd.types import Bank, Images

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


def read_pool_scores(path: Path, but: Collection[str] = ()) -> dict[str, Tensor]:
    """Every column of a pool or bank file but the images and those named in `but`."""
    with opening(path) as file:
        names = [name for name in file if name not in ("images", *but)]
        columns = [column(path, file, name, "iufb", None) for name in names]
        same_length(path, column(path, file, "images", "u", 4), *columns)
        return {name: torch.from_numpy(all_rows(values)) for name, values in zip(names, columns, strict=True)}


def of_fakes(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns of a pool for its plain draws alone, whose rows come first: fakes of later rounds and unlabelled images lie
    behind them where there are some."""
    if "round" in scores:
        num = int((scores["round"] == 1).sum())
    elif "source" in scores:
        num = int((scores["source"] == 0).sum())
    else:
        return dict(scores)
    beside = ("source", "unlabelled_", "round", "in_hard_")
    return {name: column[:num] for name, column in scores.items() if not name.startswith(beside)}


def read_pool_images(path: Path, rows: Tensor) -> Tensor:
    """Images [R, C, H, W] at row numbers [R] of a pool or bank file, in the order asked."""
    with opening(path) as file:
        return read_rows(column(path, file, "images", "u", 4), rows.numpy())


def read_pool_stream(path: Path, rows: Tensor, memory: MemoryBudget | None = None) -> Images:
    """As `read_pool_images`, but streamed where the images do not fit in what `memory` has left."""
    with opening(path) as file:
        return rows_or_stream(path, column(path, file, "images", "u", 4), rows.numpy(), memory)


def write_bank(path: Path, pool_path: Path, rows: Tensor, labels: Tensor, attributes: Attributes) -> None:
    """Copy rows [M] of a pool to a bank file with the labels [M] after M2, slab by slab.

    Datasets: images, asked, labels, ratio, teacher_error, teacher_output, shard, and teacher_spread where the pool has it.
    """
    assert rows.shape == labels.shape, "one label a row"
    with opening(pool_path) as pool, creating(path) as (file, room):
        _copy_rows(column(pool_path, pool, "images", "u", 4), rows, file, room, "images")
        put(file, room, "labels", labels.numpy())
        more = [name for name in ("teacher_spread",) if name in pool]
        for name in ("asked", "ratio", "teacher_error", "teacher_output", "shard", *more):
            _copy_rows(column(pool_path, pool, name, "iuf", None), rows, file, room, name)
        put_attributes(file, room, attributes)


def _copy_rows(source: h5py.Dataset, rows: Tensor, file: h5py.File, room: Reserved, name: str) -> None:
    shape = (len(rows), *source.shape[1:])
    room.take(math.prod(shape) * source.dtype.itemsize + HEADER_BYTES)
    target = file.create_dataset(name, shape, source.dtype)
    for start in range(0, len(rows), SLAB_ROWS):
        part = rows[start : start + SLAB_ROWS].numpy()
        target[start : start + len(part)] = read_rows(source, part).numpy()


def read_bank(path: Path) -> Bank:
    """A bank file as a whole."""
    columns = read_pool_scores(path)
    fields = ("asked", "labels", "ratio", "teacher_error", "teacher_output")
    missing = set(fields) - set(columns)
    if missing:
        raise ValueError(f"{path}: dataset {', '.join(sorted(missing))} is missing, so this is no bank file of cgankd")
    images = read_pool_images(path, torch.arange(len(columns["labels"])))
    return Bank(images, *(columns[name] for name in fields))


def read_attributes(path: Path) -> dict[str, str | int | float]:
    """The attributes of any of these files."""
    with opening(path) as file:
        return get_attributes(path, file)


def _growing(file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any) -> None:
    rows = _chunk_rows(shape) if shape else 4096
    file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(rows, *shape))


def _chunk_rows(shape: tuple[int, ...]) -> int:
    """Rows of a chunk: about a quarter of a megabyte."""
    return max(1, min(1024, 2**18 // max(1, math.prod(shape))))
