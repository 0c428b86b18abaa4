"""The heaps in which HDF5 keeps texts of any length, looked at before the library reads them.

A heap is a row of objects, each with its size; the last one is the free room. HDF5's C code goes from one to the next by these
sizes without a doubt, and never ends where the free room has none.
"""

from __future__ import annotations

import mmap
import struct
from functools import lru_cache
from pathlib import Path

MARK = b"GCOL\x01\x00\x00\x00"
"""How a heap begins: signature, version, three bytes that are zero; then its size."""
HEADER = 16
"""Bytes of the header of a heap, and of that of each object: index, references, 4 zero bytes, size."""


def check_heaps(path: Path) -> None:
    """Raise RuntimeError, as h5py does for damage, where the objects of a heap do not fill it."""
    stat = path.stat()
    if not _whole(str(path), stat.st_size, stat.st_mtime_ns):
        raise RuntimeError("a heap of texts is damaged")


@lru_cache(maxsize=64)
def _whole(path: str, size: int, mtime_ns: int) -> bool:
    """Whether all heaps of the file are sound; size and time are there to look again at a file that was changed."""
    if not size:
        return True
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(MARK)
        while start >= 0:
            if not _fills(data, start):
                return False
            start = data.find(MARK, start + 1)
    return True


def _fills(data: mmap.mmap, start: int) -> bool:
    """Whether the sizes of a heap's objects lead from its header to its end; less than a header may be left over."""
    if start + HEADER > len(data):
        return False
    end = start + struct.unpack_from("<Q", data, start + 8)[0]
    place = start + HEADER
    if not place <= end <= len(data):
        return False
    while end - place >= HEADER:
        index, length = struct.unpack_from("<H6xQ", data, place)
        step = length if index == 0 else HEADER + (length + 7) // 8 * 8  # the free room counts its own header
        if not HEADER <= step <= end - place:
            return False
        place += step
    return True
