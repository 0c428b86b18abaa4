"""HDF5 files as such: written whole or not at all, checked before they are read, rows in any order."""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from cgankd.data.regular import check_regular
from cgankd.data.store.heaps import check_heaps
from cgankd.data.store.writing import Reserved, written_whole

Array = np.ndarray[Any, Any]
Attributes = Mapping[str, str | int | float]

SLAB_ROWS = 2048
"""Most rows copied at a time, so that memory does not grow with the file."""
SLAB_BYTES = 2**25
"""Most bytes read at a time where a single chunk of the file has no more."""
MAX_BYTES = 2**38
"""Largest declared size of one dataset that is read (256 GiB)."""
MAX_PACKED, PACKED_BYTES = 100, 2**26
"""Packed datasets above PACKED_BYTES may unpack to MAX_PACKED times what they take: images pack some 2 to 20 times."""
HEADER_BYTES = 2**12
"""Most bytes that a dataset or attribute of ours takes beside its values."""
RUN_AGAIN = "run the stage that writes it again"
WRITE_AGAIN = "write the file again"
MOST_MEMBERS = 1000
"""Datasets and attributes of a file; ours have about ten of each."""
ATTRIBUTE_BYTES = 2**22
"""Largest attribute that is read; class names are the longest."""
PLAIN_TYPES = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING)
"""Kinds of attributes that are read."""
BROKEN = (OSError, KeyError, RuntimeError, TypeError, OverflowError, UnicodeError, MemoryError)
"""What h5py raises for files that are not as they say."""
PLAIN_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)


@contextlib.contextmanager
def creating(path: Path) -> Iterator[tuple[h5py.File, Reserved]]:
    """A new file under a temporary name, renamed to `path` when the block ends well and removed when it does not.

    Take room before each write: HDF5 ends the process where a write of its own fails. Raises Unwritten.
    """
    with written_whole(path, path.with_name(f"{path.name}.tmp")) as temporary:
        temporary.touch()  # a name that cannot be written is refused by the system itself, which says why
        room = Reserved(temporary, path)
        room.take(0)
        with h5py.File(temporary, "w") as file:
            room.take(0)
            yield file, room
        room.give_back()


def put(file: h5py.File, room: Reserved, name: str, values: Array) -> None:
    """A new dataset of these values. Raises Unwritten where there is no room for it."""
    room.take(values.nbytes + HEADER_BYTES)
    file[name] = values


@contextlib.contextmanager
def opening(path: Path, *, names: Sequence[str] | None = None, cure: str = RUN_AGAIN) -> Iterator[h5py.File]:
    """A checked file open for reading; `names` limits the checks to what will be read of a file not our own.

    Raises ValueError naming the file and the cure where it is missing, broken or unsafe.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; {cure}")
    check_regular(path)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path, "r"))
            check_file(path, file, names, cure=cure)
        except BROKEN as problem:
            raise ValueError(f"{path} is no whole HDF5 file ({str(problem)[:200]}); {cure}") from None
        try:
            yield file
        except (OSError, RuntimeError, LookupError, TypeError, ValueError) as problem:
            if not _of_h5py(problem):
                raise
            raise ValueError(f"{path} cannot be read ({str(problem)[:200]}); {cure}") from None


def _of_h5py(problem: Exception) -> bool:
    """Whether h5py raised it about a file that it has open, and none of the code around it."""
    if isinstance(problem, OSError) and problem.filename is not None:
        return False  # about another file
    *_, (frame, _) = traceback.walk_tb(problem.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] == "h5py" or frame.f_code.co_filename.startswith(
        "h5py"
    )


def check_file(path: Path, file: h5py.File, names: Sequence[str] | None = None, *, cure: str = RUN_AGAIN) -> None:
    """Raise ValueError on anything a file of ours never has: links, outside storage, objects, impossible sizes."""
    if len(file) > MOST_MEMBERS:
        raise ValueError(f"{path} has {len(file)} members, more than any file of this package; {cure}")
    for name in file if names is None else [name for name in names if name in file]:
        where = f"{path}: dataset {name!r}"
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{where} is a link to somewhere else, which is not followed")
        item = file[name]
        if not isinstance(item, h5py.Dataset):
            raise ValueError(f"{where} is a group or type, where only plain datasets are expected")
        if item.is_virtual or item.external:
            raise ValueError(f"{where} keeps its values in another file, which is not read")
        try:
            kind = item.dtype
        except ValueError as problem:  # a number of a size that numpy has not
            raise RuntimeError(str(problem)) from None
        if kind.kind not in "iufb" or item.shape is None:
            raise ValueError(f"{where} has type {kind} and shape {item.shape}; only arrays of numbers are read")
        filters = item.id.get_create_plist()
        if any(filters.get_filter(i)[0] not in PLAIN_FILTERS for i in range(filters.get_nfilters())):
            raise ValueError(f"{where} is packed by a filter that is not read; only gzip is")
        _check_size(where, item, path.stat().st_size, packed=filters.get_nfilters() > 0, cure=cure)


def _check_size(where: str, item: h5py.Dataset, file_bytes: int, *, packed: bool, cure: str) -> None:
    """Raise ValueError unless what the dataset claims to hold is there: parts never written would be read as zeros."""
    declared, stored = math.prod(item.shape) * item.dtype.itemsize, item.id.get_storage_size()
    most = max(PACKED_BYTES, MAX_PACKED * stored) if packed else stored
    if declared > min(most, MAX_BYTES) or stored > file_bytes:
        raise ValueError(
            f"{where} claims {declared} bytes in a file of {file_bytes}, which holds {stored} bytes of it; {cure}"
        )
    if packed:
        chunks = math.prod(-(-size // chunk) for size, chunk in zip(item.shape, item.chunks, strict=True))
        if item.id.get_num_chunks() != chunks:
            raise ValueError(f"{where} has only {item.id.get_num_chunks()} of its {chunks} chunks; {cure}")


def column(
    path: Path, file: h5py.File, name: str, kinds: str, ndim: int | None, *, cure: str = RUN_AGAIN
) -> h5py.Dataset:
    """A dataset of the file. Raises ValueError where it is missing or not of the kinds and dimensions given."""
    if name not in file:
        raise ValueError(f"{path}: dataset {name!r} is missing; {cure}")
    item = file[name]
    if item.dtype.kind not in kinds or ndim not in (None, item.ndim) or (kinds == "u" and item.dtype != np.uint8):
        raise ValueError(f"{path}: dataset {name!r} has an unexpected type {item.dtype} or shape {item.shape}")
    return item


def same_length(path: Path, *items: h5py.Dataset) -> None:
    """Raise ValueError unless all datasets have the rows of the first."""
    for item in items:
        if item.ndim == 0 or len(item) != len(items[0]):
            found = f"{item.name[1:]!r} has shape {item.shape}, but {items[0].name[1:]!r} has {len(items[0])} rows"
            raise ValueError(f"{path}: dataset {found}")


def read_rows(images: h5py.Dataset, rows: Array) -> Tensor:
    """Rows in the order asked. Raises ValueError where packed bytes are broken."""
    return torch.from_numpy(_rows(images, rows))


def _rows(item: h5py.Dataset, rows: Array) -> Array:
    """In this machine's order of bytes, whatever that of the file."""
    out = np.empty((len(rows), *item.shape[1:]), item.dtype.newbyteorder("="))
    for places, part in slabs(item, rows):
        out[places] = part
    return out


def slabs(images: h5py.Dataset, rows: Array) -> Iterator[tuple[Array, Array]]:
    """Places among the rows asked for and what the file has there, by going through the file once.

    Whole slabs are read, since HDF5 picks single rows slowly. Raises ValueError where packed bytes are broken.
    """
    assert rows.size == 0 or (rows.min() >= 0 and rows.max() < len(images)), "row numbers lie in the file"
    slab_of_row = rows // slab_rows(images)
    order = np.argsort(slab_of_row, kind="stable")
    borders = np.flatnonzero(np.diff(slab_of_row[order])) + 1
    for places in np.split(order, borders) if len(rows) else []:
        first, last = int(rows[places].min()), int(rows[places].max())
        try:
            part: Array = images[first : last + 1][rows[places] - first]
        except BROKEN as problem:
            where = f"{images.file.filename}: dataset {images.name[1:]!r}"
            raise ValueError(f"{where} cannot be read ({str(problem)[:200]}); {WRITE_AGAIN}") from None
        yield places, part


def slab_rows(images: h5py.Dataset) -> int:
    """Rows that are read at a time: whole chunks, as a packed one is unpacked whole for each of its rows."""
    row_bytes: int = math.prod(images.shape[1:]) * images.dtype.itemsize
    chunk: int = images.chunks[0] if images.chunks else 1
    return max(1, min(SLAB_ROWS, SLAB_BYTES // max(1, row_bytes)) // chunk) * chunk


def all_rows(item: h5py.Dataset) -> Array:
    """A whole dataset. Raises ValueError where packed bytes are broken."""
    return _rows(item, np.arange(len(item)))


def put_attributes(file: h5py.File, room: Reserved, attributes: Attributes) -> None:
    for name in sorted(attributes):
        room.take(len(name) + len(str(attributes[name]).encode()) + HEADER_BYTES)
        file.attrs[name] = attributes[name]


def get_attributes(path: Path, file: h5py.File, cure: str = WRITE_AGAIN) -> dict[str, str | int | float]:
    """The attributes of a file. Raises ValueError on what none of ours is: arrays, references, the very large, no UTF-8."""
    try:
        names = list(file.attrs)
        if len(names) > MOST_MEMBERS:
            raise ValueError(f"{path} has more or larger attributes than any file of this package; {cure}")
        texts = []
        for name in names:
            attribute = file.attrs.get_id(name)
            kind = attribute.get_type()
            if attribute.get_storage_size() > ATTRIBUTE_BYTES:
                raise ValueError(f"{path} has more or larger attributes than any file of this package; {cure}")
            # Asked before the value is read: HDF5 itself crashes on damaged lists of any length. h5py gives names that are no
            # UTF-8 as bytes.
            of_ours = isinstance(name, str) and kind.get_class() in PLAIN_TYPES
            if not of_ours or attribute.get_space().get_simple_extent_ndims():
                raise ValueError(f"{path}: attribute {ascii(name)} is no number or UTF-8 text; {cure}")
            texts += [name] if isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str() else []
        check_heaps(path, texts)
        found = {name: _value(file, name) for name in names}
    except BROKEN as problem:
        raise ValueError(f"{path}: an attribute cannot be read ({str(problem)[:200]}); {cure}") from None
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in found.items()}
    for name, value in plain.items():
        if not isinstance(value, str | int | float) or not _is_text(name) or not _is_text(value):
            raise ValueError(f"{path}: attribute {ascii(name)} is no number or UTF-8 text; {cure}")
    return plain


def _value(file: h5py.File, name: str) -> Any:
    """An attribute. Raises what BROKEN has."""
    try:
        return file.attrs[name]
    except ValueError as problem:  # a number of a size that numpy has not
        raise RuntimeError(str(problem)) from None


def _is_text(value: object) -> bool:
    """Whether a text can be printed; HDF5 gives bytes that are no UTF-8 as halves of letters."""
    return not isinstance(value, str) or value.encode(errors="replace").decode() == value
