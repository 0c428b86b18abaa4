"""The heaps in which HDF5 keeps texts of any length, and what points into them, looked at before the library reads them.

A heap is a row of objects, each with its size; the last one is the free room. HDF5's C code goes from one to the next by these
sizes without a doubt, and never ends where the free room has none. An attribute that is such a text holds its length and its
place in a heap, and HDF5 takes as much memory as that length says before it looks there.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

MARK = b"GCOL\x01"
"""How a heap begins: signature and version; then three bytes that are zero, but that HDF5 passes over, and its size."""
HEADER = 16
"""Bytes of the header of a heap, and of that of each object: index, references, 4 zero bytes, size."""
VLEN, FIXED_POINT = 9, 0
"""Classes of types, in the low four bits of a type's first byte."""


def check_heaps(path: Path, texts: Sequence[str] = ()) -> None:
    """Raise RuntimeError, as h5py does for damage, where the objects of a heap do not fill it, or where an attribute among
    `texts`, those that are texts of any length, says that it is longer than the file."""
    stat = path.stat()
    if not _whole(str(path), stat.st_size, stat.st_mtime_ns):
        raise RuntimeError("a heap of texts is damaged")
    if (lost := _astray(str(path), stat.st_size, stat.st_mtime_ns, tuple(texts))) is not None:
        raise RuntimeError(f"the text of {ascii(lost)} is longer than the file, or not in it")


@lru_cache(maxsize=64)
def _astray(path: str, size: int, mtime_ns: int, names: tuple[str, ...]) -> str | None:
    """The first of these attributes whose text would be longer than the file, or which is not found; None where there is none."""
    if not size or not names:
        return None
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for name in names:
            # Old values may lie in the file too: each counts.
            lengths = [int.from_bytes(data[at : at + 4], "little") for at in _values(data, name.encode() + b"\0")]
            if not lengths or max(lengths) > size:
                return name
    return None


def _values(data: mmap.mmap, name: bytes) -> Iterator[int]:
    """Where the values of scalar attributes of this name begin that are of any length: after name, type and space.

    In messages of version 1 each of the three fills whole eights, in later ones it does not.
    """
    at = data.find(name)
    while at >= 0:
        for unit in (8, 1):
            place = at + -(-len(name) // unit) * unit
            if data[place : place + 1] and data[place] & 15 == VLEN:
                below = data[place + 8 : place + 9]
                kind = 8 + (12 if below and below[0] & 15 == FIXED_POINT else 8)
                space = place + -(-kind // unit) * unit
                head = data[space : space + 2]
                if head in (b"\x01\0", b"\x02\0"):  # version, and no dimensions
                    yield space + (8 if head[0] == 1 or unit == 8 else 4)
                    break
        at = data.find(name, at + 1)


@lru_cache(maxsize=64)
def _whole(path: str, size: int, mtime_ns: int) -> bool:
    """Whether all heaps of the file are sound; size and time are there to look again at a file that was changed."""
    if not size:
        return True
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(MARK)
        while start >= 0:
            # The five bytes may be pixels by chance; eight, or five and a size that the file has room for, are not.
            is_heap = data[start + len(MARK) : start + 8] == bytes(3) or _end(data, start) is not None
            if is_heap and not _fills(data, start):
                return False
            start = data.find(MARK, start + 1)
    return True


def _end(data: mmap.mmap, start: int) -> int | None:
    """Where a heap ends by its size; None where that is not in the file."""
    if start + HEADER > len(data):
        return None
    end: int = start + struct.unpack_from("<Q", data, start + 8)[0]
    return end if start + HEADER <= end <= len(data) else None


def _fills(data: mmap.mmap, start: int) -> bool:
    """Whether the sizes of a heap's objects lead from its header to its end; less than a header may be left over."""
    if (end := _end(data, start)) is None:
        return False
    place = start + HEADER
    while end - place >= HEADER:
        index, length = struct.unpack_from("<H6xQ", data, place)
        step = length if index == 0 else HEADER + (length + 7) // 8 * 8  # the free room counts its own header
        if not HEADER <= step <= end - place:
            return False
        place += step
    return True
