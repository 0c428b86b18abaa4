"""A file that is written whole or not at all, and brought to the disk; what a full disk says, whoever wrote to it."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system says where there is no more room: of the disk, of the user, of one file."""
REFUSED = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EIO),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTEMPTY),
)
"""What it says where a file cannot be written for another reason."""
NUMBER = re.compile(r"(?:errno = |os error |\[Errno )(\d+)")
"""How HDF5 and safetensors quote the number of an error."""
WROTE = re.compile(
    r"inline_container|PytorchStreamWriter|iostream|file write failed|Can't decrement id|unable to (?:extend|flush)"
)
"""Words of torch and HDF5 for a write that failed, which do not say why."""
MARGIN = 2**16
"""Bytes of an HDF5 file beside its values: headers, and the trees that find its chunks."""
KEEP_SIZE = 1


class Unwritten(OSError):
    """A file that could not be written: the system's number and words, and the path that was asked for."""

    written = 0
    """Bytes that there was room for."""
    needed = 0
    """Bytes that it takes; 0 where that is not known."""


@contextmanager
def written_whole(path: Path, temporary: Path | None = None, needed: int = 0, *, synced: bool = True) -> Iterator[Path]:
    """A temporary name beside `path`, which takes its place when the block ends well and vanishes when it does not.

    The bytes are on the disk before the file has its name, and the name when this returns; without `synced` that is left to
    the system, for what is seen to be torn and made again. `needed` are the bytes that it takes, where known.
    Raises Unwritten where nothing can be written there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp") if temporary is None else temporary
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_limit(path, needed)
        yield temporary
        if synced:
            sync(temporary)
        os.replace(temporary, path)
        if synced:
            sync(path.parent)
    except Exception as error:
        problem = unwritten(error, path, temporary, needed)
        if problem is None or problem is error:
            raise
        raise problem from error
    finally:
        # Where the folder is not there or read-only there is nothing to remove, and asking fails once more.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; systems that cannot are left to themselves."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(place)


def sync_all(folder: Path) -> None:
    """Bring all files of a folder and their names to the disk; cheaper after many were written than one by one."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            sync(path)
    sync(folder)


def unwritten(error: Exception, path: Path, temporary: Path, needed: int = 0) -> Unwritten | None:
    """The error as one of writing `path`, whichever library met it; None where it is of something else."""
    if isinstance(error, Unwritten):
        return error if error.filename == str(path) else None
    number = reason(error, path, temporary)
    if number is None:
        return None
    found = Unwritten(number, os.strerror(number), str(path))
    found.needed = needed
    with suppress(OSError):
        found.written = temporary.stat().st_size
    return found


def reason(error: Exception, path: Path, temporary: Path) -> int | None:
    """The system's number of a write that failed; None where the error is of something else, as of a file that is read."""
    own = {str(temporary), str(path), *map(str, path.parents)}
    name = getattr(error, "filename", None)
    if isinstance(error, OSError) and name is not None and str(name) not in own:
        return None
    if isinstance(error, OSError) and error.errno in (*FULL, *REFUSED, errno.ENOENT):
        return error.errno
    text = str(error)
    foreign = type(error).__module__.split(".")[0] in ("safetensors",)
    if not (foreign or isinstance(error, OSError | RuntimeError)):
        return None
    if found := NUMBER.search(text):
        return int(found[1])
    return why_not(temporary) if WROTE.search(text) else None


def why_not(path: Path) -> int:
    """The number of what stands in the way of writing more to a file, by trying to."""
    limit = size_limit()
    try:
        if limit is not None and path.exists() and path.stat().st_size >= limit:
            return errno.EFBIG
        with path.open("ab") as file:
            file.write(bytes(MARGIN))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno or errno.EIO
    return errno.EIO


def size_limit() -> int | None:
    """Bytes that a file may have by a limit of this process (ulimit -f); None without one."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def check_limit(path: Path, size: int) -> None:
    """Raise Unwritten where a file of this size is above what the system lets this process write (ulimit -f)."""
    limit = size_limit()
    if limit is not None and size > limit:
        found = Unwritten(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        found.needed, found.written = size, limit
        raise found


class Reserved:
    """Room of a file that is taken before it is written: HDF5 crashes where a write of its own fails."""

    def __init__(self, path: Path, shown: Path) -> None:
        self.path, self.shown, self.size = path, shown, 0

    def take(self, num_bytes: int) -> None:
        """Take room for so many more bytes. Raises Unwritten where there is none."""
        size = self.size + num_bytes
        check_limit(self.shown, size + MARGIN)
        try:
            allocate(self.path, size + MARGIN)
        except OSError as error:
            found = Unwritten(error.errno, os.strerror(error.errno or errno.EIO), str(self.shown))
            found.needed, found.written = size + MARGIN, self.size
            raise found from error
        self.size = size

    def give_back(self) -> None:
        """Give back what the finished file does not fill."""
        with suppress(OSError):
            os.truncate(self.path, self.path.stat().st_size)


def allocate(path: Path, size: int) -> None:
    """Take room on the disk for the first `size` bytes of a file, which does not grow by that. Raises OSError."""
    place = os.open(path, os.O_RDWR)
    try:
        call = _fallocate()
        if call is not None:
            while call(place, KEEP_SIZE, 0, size) != 0:
                number = ctypes.get_errno()
                if number in (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV):
                    break
                if number != errno.EINTR:
                    raise OSError(number, os.strerror(number), str(path))
            else:
                return
        _try_beside(path, size - os.fstat(place).st_size)
    finally:
        os.close(place)


def _fallocate() -> Callable[[int, int, int, int], int] | None:
    """Linux's own call, which Python has only in the form that lets the file grow."""
    if not sys.platform.startswith("linux"):
        return None
    call: Any = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        call.restype = ctypes.c_int
    return call  # type: ignore[no-any-return]


def _try_beside(path: Path, size: int) -> None:
    """Where room cannot be kept: take it once in another file, and give it back."""
    if size <= 0:
        return
    probe = path.with_name(f"{path.name}.room")
    try:
        with probe.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    finally:
        probe.unlink(missing_ok=True)
