"""Data sets, pools of fakes and banks at rest in HDF5; the only file that knows h5py.

A file under its final name is complete: it is written under a temporary name, synced and renamed. Equal content gives
equal bytes. Reading checks a file first, since it may come from somewhere else: no links, no storage outside the file,
no objects, no sizes that the file cannot hold.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import torch
from torch import Tensor

from cgankd.data.dataset import Dataset
from cgankd.types import Bank, DatasetInfo, Split

Array = np.ndarray[Any, Any]
Attributes = Mapping[str, str | int | float]

SPLITS = ("train", "val", "test")
SLAB_ROWS = 2048
"""Rows copied at a time, so that memory does not grow with the file."""
MAX_BYTES = 2**38
"""Largest declared size of one dataset that is read (256 GiB)."""
PLAIN_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)


def write_dataset(path: Path, dataset: Dataset) -> None:
    """Write a data set: `images`, `labels`, `split` (0 train, 1 val, 2 test) and its info as attributes."""
    info, splits = dataset.info, list(dataset.splits().values())
    with _creating(path) as file:
        shape = (sum(map(len, splits)), *splits[0].images.shape[1:])
        images = file.create_dataset("images", shape, np.uint8)
        start = 0
        for split in splits:
            images[start : start + len(split)] = split.images.numpy()
            start += len(split)
        file["labels"] = torch.cat([split.labels for split in splits]).numpy()
        file["split"] = np.repeat(np.arange(len(splits), dtype=np.uint8), [len(split) for split in splits])
        attributes: dict[str, str | int | float] = {
            "task": info.kind,
            "source": info.source,
            "label_unit": info.label_unit,
            "pixel_mean": json.dumps(info.pixel_mean),
            "pixel_std": json.dumps(info.pixel_std),
            "notes": json.dumps(dict(dataset.notes)),
        }
        if info.class_names:
            attributes |= {"num_classes": len(info.class_names), "class_names": json.dumps(info.class_names)}
        else:
            attributes |= {"label_min": info.label_min, "label_max": info.label_max}
        _put_attributes(file, attributes)


def read_info(path: Path) -> DatasetInfo:
    """What a data set file says of itself. Raises ValueError where it is not a data set file."""
    with _opening(path) as file:
        shape = _column(path, file, "images", "u", 4).shape
        values = _get_attributes(file)
    try:
        return DatasetInfo(
            kind=str(values["task"]),
            source=str(values["source"]),
            label_unit=str(values["label_unit"]),
            channels=shape[1],
            image_size=shape[2],
            pixel_mean=tuple(map(float, json.loads(str(values["pixel_mean"])))),
            pixel_std=tuple(map(float, json.loads(str(values["pixel_std"])))),
            class_names=tuple(map(str, json.loads(str(values.get("class_names", "[]"))))),
            label_min=float(values.get("label_min", 0.0)),
            label_max=float(values.get("label_max", 1.0)),
        )
    except KeyError as problem:
        raise ValueError(f"{path}: attribute {problem} is missing, so this is no data set file of cgankd") from None
    except (ValueError, TypeError) as problem:
        raise ValueError(f"{path}: an attribute cannot be read ({problem}); write the file again") from None


def read_split(path: Path, name: str) -> Split:
    """The "train", "val" or "test" rows of a data set file, and only those."""
    with _opening(path) as file:
        images = _column(path, file, "images", "u", 4)
        labels = _column(path, file, "labels", "if", 1)
        split = _column(path, file, "split", "u", 1)
        _same_length(path, images, labels, split)
        rows = np.flatnonzero(split[...] == SPLITS.index(name))
        return Split(_read_rows(images, rows), torch.from_numpy(labels[...][rows]))


COLUMNS = ("images", "asked", "predicted", "ratio", "teacher_error", "teacher_output", "uniform", "shard")
"""Columns of a pool, in the order of `BankWriter.append`."""


class BankWriter:
    """Appends scored fakes chunk by chunk to a pool file, in memory that does not grow with it.

    Columns: images uint8 [M, C, H, W]; asked and predicted [M] labels in raw units; teacher_output float16 [M, O];
    ratio, teacher_error, uniform float32 [M]; shard int32 [M]. The file gets its name on `close`; leaving the context
    without `close` (an error, a kill) leaves no file under that name.
    """

    def __init__(self, path: Path, image_shape: tuple[int, ...], num_outputs: int, label_dtype: torch.dtype) -> None:
        self.path = path
        self._context = _creating(path)
        self._file = self._context.__enter__()
        label = torch.empty(0, dtype=label_dtype).numpy().dtype
        _growing(self._file, "images", tuple(image_shape), np.uint8)
        _growing(self._file, "teacher_output", (num_outputs,), np.float16)
        for name in ("asked", "predicted"):
            _growing(self._file, name, (), label)
        for name in ("ratio", "teacher_error", "uniform"):
            _growing(self._file, name, (), np.float32)
        _growing(self._file, "shard", (), np.int32)
        self._rows = 0
        self._open = True

    def __len__(self) -> int:
        return self._rows

    def append(
        self,
        images: Tensor | Array,
        asked: Tensor | Array,
        predicted: Tensor | Array,
        ratio: Tensor | Array,
        teacher_error: Tensor | Array,
        teacher_output: Tensor | Array,
        uniform: Tensor | Array,
        shard: Tensor | Array,
    ) -> None:
        """Add B rows to every column."""
        given = (images, asked, predicted, ratio, teacher_error, teacher_output, uniform, shard)
        assert self._open, "append after close"
        assert len({len(values) for values in given}) == 1, "all columns of a chunk have one length"
        end = self._rows + len(images)
        for name, values in zip(COLUMNS, given, strict=True):
            target = self._file[name]
            assert values.shape[1:] == target.shape[1:], f"{name} rows have shape {target.shape[1:]}"
            target.resize(end, axis=0)
            target[self._rows : end] = values.numpy() if isinstance(values, Tensor) else values
        self._rows = end

    def set_columns(self, columns: Mapping[str, Tensor | Array]) -> None:
        """Add whole columns [M] once all rows are in, such as the boolean `in_raw`."""
        for name, values in columns.items():
            assert values.shape == (self._rows,), f"column {name} has one value a row"
            self._file[name] = values.numpy() if isinstance(values, Tensor) else values

    def close(self, attributes: Attributes) -> None:
        """Write the attributes and give the file its final name."""
        _put_attributes(self._file, attributes)
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


def read_pool_scores(path: Path) -> dict[str, Tensor]:
    """Every column of a pool or bank file but the images."""
    with _opening(path) as file:
        names = [name for name in file if name != "images"]
        columns = [_column(path, file, name, "iufb", None) for name in names]
        _same_length(path, _column(path, file, "images", "u", 4), *columns)
        return {name: torch.from_numpy(values[...]) for name, values in zip(names, columns, strict=True)}


def read_pool_images(path: Path, rows: Tensor) -> Tensor:
    """Images [R, C, H, W] at row numbers [R] of a pool or bank file, in the order asked."""
    with _opening(path) as file:
        return _read_rows(_column(path, file, "images", "u", 4), rows.numpy())


def write_bank(path: Path, pool_path: Path, rows: Tensor, labels: Tensor, attributes: Attributes) -> None:
    """Copy rows [M] of a pool to a bank file with the labels [M] after M2, slab by slab.

    Datasets: images, asked, labels, ratio, teacher_error, teacher_output, shard.
    """
    assert rows.shape == labels.shape, "one label a row"
    with _opening(pool_path) as pool, _creating(path) as file:
        images = _column(pool_path, pool, "images", "u", 4)
        shape = (len(rows), *images.shape[1:])
        target = file.create_dataset("images", shape, np.uint8)
        for start in range(0, len(rows), SLAB_ROWS):
            part = rows[start : start + SLAB_ROWS].numpy()
            target[start : start + len(part)] = _read_rows(images, part).numpy()
        file["labels"] = labels.numpy()
        for name in ("asked", "ratio", "teacher_error", "teacher_output", "shard"):
            file[name] = _column(pool_path, pool, name, "iuf", None)[...][rows.numpy()]
        _put_attributes(file, attributes)


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
    with _opening(path) as file:
        return _get_attributes(file)


@contextlib.contextmanager
def _creating(path: Path) -> Iterator[h5py.File]:
    """A new file under a temporary name, renamed to `path` when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            yield file
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _opening(path: Path) -> Iterator[h5py.File]:
    """A checked file open for reading. Raises ValueError naming the file where it is missing, broken or unsafe."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; run the stage that writes it")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path, "r"))
            _check_file(path, file)
        except (OSError, KeyError, RuntimeError) as problem:
            raise ValueError(f"{path} is no whole HDF5 file ({problem}); run the stage that writes it again") from None
        yield file


def _check_file(path: Path, file: h5py.File, max_bytes: int = MAX_BYTES) -> None:
    """Raise ValueError on anything a file of ours never has: links, outside storage, objects, impossible sizes."""
    file_bytes = path.stat().st_size
    for name in file:
        where = f"{path}: dataset {name!r}"
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{where} is a link to somewhere else, which is not followed")
        item = file[name]
        if not isinstance(item, h5py.Dataset):
            raise ValueError(f"{where} is a group or type, where only plain datasets are expected")
        if item.is_virtual or item.external:
            raise ValueError(f"{where} keeps its values in another file, which is not read")
        if item.dtype.kind not in "iufb" or item.shape is None:
            raise ValueError(f"{where} has type {item.dtype} and shape {item.shape}; only arrays of numbers are read")
        filters = item.id.get_create_plist()
        if any(filters.get_filter(i)[0] not in PLAIN_FILTERS for i in range(filters.get_nfilters())):
            raise ValueError(f"{where} is packed by a filter that is not read; only gzip is")
        declared = math.prod(item.shape) * item.dtype.itemsize
        if declared > max_bytes or declared > 1000 * file_bytes:
            raise ValueError(f"{where} claims {declared} bytes in a file of {file_bytes}, so the file is broken")


def _column(path: Path, file: h5py.File, name: str, kinds: str, ndim: int | None) -> h5py.Dataset:
    """A dataset of the file. Raises ValueError where it is missing or not of the kinds and dimensions given."""
    if name not in file:
        raise ValueError(f"{path}: dataset {name!r} is missing; run the stage that writes the file again")
    item = file[name]
    if item.dtype.kind not in kinds or ndim not in (None, item.ndim) or (kinds == "u" and item.dtype != np.uint8):
        raise ValueError(f"{path}: dataset {name!r} has an unexpected type {item.dtype} or shape {item.shape}")
    return item


def _same_length(path: Path, *items: h5py.Dataset) -> None:
    for item in items:
        if item.ndim == 0 or len(item) != len(items[0]):
            found = f"{item.name[1:]!r} has shape {item.shape}, but {items[0].name[1:]!r} has {len(items[0])} rows"
            raise ValueError(f"{path}: dataset {found}")


def _read_rows(images: h5py.Dataset, rows: Array) -> Tensor:
    """Rows in the order asked; whole slabs are read, since HDF5 picks single rows slowly."""
    assert rows.size == 0 or (rows.min() >= 0 and rows.max() < len(images)), "row numbers lie in the file"
    out = np.empty((len(rows), *images.shape[1:]), np.uint8)
    slab_of_row = rows // SLAB_ROWS
    order = np.argsort(slab_of_row, kind="stable")
    borders = np.flatnonzero(np.diff(slab_of_row[order])) + 1
    for places in np.split(order, borders) if len(rows) else []:
        first, last = int(rows[places].min()), int(rows[places].max())
        out[places] = images[first : last + 1][rows[places] - first]
    return torch.from_numpy(out)


def _growing(file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any) -> None:
    rows = _chunk_rows(shape) if shape else 4096
    file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(rows, *shape))


def _chunk_rows(shape: tuple[int, ...]) -> int:
    """Rows of a chunk: about a quarter of a megabyte."""
    return max(1, min(1024, 2**18 // max(1, math.prod(shape))))


def _put_attributes(file: h5py.File, attributes: Attributes) -> None:
    for name in sorted(attributes):
        file.attrs[name] = attributes[name]


def _get_attributes(file: h5py.File) -> dict[str, str | int | float]:
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in file.attrs.items()}
