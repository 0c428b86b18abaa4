"""Pools of scored fakes and banks at rest in HDF5, in one file or in several."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from cgankd.data.store.files import (
    HEADER_BYTES,
    SLAB_ROWS,
    Attributes,
    column,
    creating,
    get_attributes,
    put,
    put_attributes,
    same_length,
)
from cgankd.data.store.parts import BEFORE, SET, TOTAL, Column, make_way, marks, opening_parts, part_name
from cgankd.data.store.pools import BankWriter as BankWriter
from cgankd.data.store.pools import PartsWriter as PartsWriter
from cgankd.data.store.pools import PoolRows as PoolRows
from cgankd.data.store.pools import pool_writer as pool_writer
from cgankd.data.store.stream import MemoryBudget
from cgankd.data.store.writing import Reserved, sync
from cgankd.types import Bank, Images


def read_pool_scores(path: Path, but: Collection[str] = ()) -> dict[str, Tensor]:
    """Every column of a pool or bank file but the images and those named in `but`."""
    with opening_parts(path) as parts:
        names = [name for name in parts[0][1] if name not in ("images", *but)]
        for part, file in parts:
            columns = [column(part, file, name, "iufb", None) for name in names]
            same_length(part, column(part, file, "images", "u", 4), *columns)
        found = {name: Column(parts, name, "iufb", None) for name in names}
        return {name: values.read(np.arange(len(values))) for name, values in found.items()}


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
    with opening_parts(path) as parts:
        return Column(parts, "images", "u", 4).read(rows.numpy())


def read_pool_stream(path: Path, rows: Tensor, memory: MemoryBudget | None = None) -> Images:
    """As `read_pool_images`, but streamed where the images do not fit in what `memory` has left."""
    with opening_parts(path) as parts:
        return Column(parts, "images", "u", 4).images(rows.numpy(), memory)


def write_bank(
    path: Path,
    pool_path: Path,
    rows: Tensor,
    labels: Tensor,
    attributes: Attributes,
    *,
    rows_per_file: int | None = None,
) -> None:
    """Copy rows [M] of a pool to a bank file, or to files of so many rows, with the labels [M] after M2, slab by slab.

    Datasets: images, asked, labels, ratio, teacher_error, teacher_output, shard, and teacher_spread where the pool has it.
    """
    assert rows.shape == labels.shape, "one label a row"
    with opening_parts(pool_path) as pool:
        if rows_per_file is None:
            make_way(path, for_parts=False)
            _write_bank(path, pool, rows, labels, attributes)
            return
        folder = path.with_name(f".{path.name}.parts")
        shutil.rmtree(folder, ignore_errors=True)
        starts = range(0, max(1, len(rows)), rows_per_file)
        for number, start in enumerate(starts):
            cut = slice(start, start + rows_per_file)
            own = {**attributes, **marks(attributes, start, len(rows))}
            _write_bank(folder / part_name(number, len(starts)), pool, rows[cut], labels[cut], own)
        make_way(path, for_parts=True)
        folder.rename(path)
        sync(path.parent)


def _write_bank(
    path: Path, pool: list[tuple[Path, h5py.File]], rows: Tensor, labels: Tensor, attributes: Attributes
) -> None:
    with creating(path) as (file, room):
        _copy_rows(Column(pool, "images", "u", 4), rows, file, room, "images")
        put(file, room, "labels", labels.numpy())
        more = [name for name in ("teacher_spread",) if name in pool[0][1]]
        for name in ("asked", "ratio", "teacher_error", "teacher_output", "shard", *more):
            _copy_rows(Column(pool, name, "iuf", None), rows, file, room, name)
        put_attributes(file, room, attributes)


def _copy_rows(source: Column, rows: Tensor, file: h5py.File, room: Reserved, name: str) -> None:
    shape = (len(rows), *source.row)
    room.take(math.prod(shape) * source.dtype.itemsize + HEADER_BYTES)
    target = file.create_dataset(name, shape, source.dtype)
    for start in range(0, len(rows), SLAB_ROWS):
        part = rows[start : start + SLAB_ROWS].numpy()
        target[start : start + len(part)] = source.read(part).numpy()


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
    with opening_parts(path) as parts:
        found = get_attributes(*parts[0])
    return {name: value for name, value in found.items() if name not in (BEFORE, TOTAL, SET)}
