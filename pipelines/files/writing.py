"""Writing a file so that it is never seen half written, with an error that names the file the user asked for."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cgankd.config import ConfigError
from cgankd.data.store.writing import FULL, REFUSED, Unwritten, written_whole
from pipelines.files.layout import in_place

SHORT_S = 30.0
"""Work of so many seconds may be lost with the power: bringing it to the disk at once would cost more than it is worth."""
AGAIN = "and run the same command again, which goes on where it was"


class DiskError(ConfigError):
    """A file that the disk does not take, in one sentence with the room that it needs."""


@contextmanager
def replacing(path: Path, needed: int = 0, *, synced: bool = True) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place on success and vanishes on failure.

    `needed` are the bytes of the file where they are known; without `synced` a loss of power may tear it.
    Raises DiskError where it cannot be written: the system's own error would name the temporary file.
    """
    refuse_special(path)
    try:
        with written_whole(path, needed=needed, synced=synced) as temporary:
            yield temporary
    except Unwritten as error:
        raise DiskError(disk_sentence(error)) from error


def refuse_special(path: Path) -> None:
    """Raise ConfigError where a path is no place for a file: a folder, or a device, pipe or socket that a file would replace."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file in it, such as {path / 'NAME'}")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is a device, pipe or socket, which a file would replace; name a file")


def file_meant(path: Path) -> Path:
    """The file that a path which the user named means: where it is a link, the file at its end, so that the link stays.

    Raises ConfigError as `refuse_special` does, and on links in a circle.
    """
    refuse_special(path)
    try:
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{path} is a link that leads nowhere ({error}); name a file") from error


def of_disk(error: BaseException) -> bool:
    """Whether an error of the system says that something cannot be written or is not what it must be."""
    return isinstance(error, DiskError) or (isinstance(error, OSError) and error.errno in (*FULL, *REFUSED))


def disk_sentence(error: OSError) -> str:
    """One sentence: which file, why, the room that it needs and the room that is there, and the cure."""
    why = error.strerror or os.strerror(error.errno or errno.EIO)
    if error.filename is None:
        return f"the disk of {Path.cwd()} fails ({why}); make room or choose another folder, {AGAIN}"
    path = in_place(Path(os.fsdecode(error.filename)))
    if not isinstance(error, Unwritten) and error.errno not in (*FULL, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
        return f"{why}: {path}"  # it may have been read
    if error.errno in FULL:
        return f"{path} cannot be written ({why}): {_room(error, path)}; make room {AGAIN}"
    if error.errno == errno.EIO:
        return f"{path} cannot be written ({why}); the disk may be failing: look at it, {AGAIN}"
    sentence = f"{path} cannot be written ({why}); name a file in a folder you may write to"
    above = next((p for p in (path, *path.parents) if p.exists()), path)
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and not above.is_dir():
        return f"{sentence}, or move {above} away, which is a file where a folder is needed"
    return sentence


def _room(error: OSError, path: Path) -> str:
    """The room that is needed and the room that is there, in words."""
    needed, written = getattr(error, "needed", 0), getattr(error, "written", 0)
    parts = []
    if needed or written:
        parts.append(f"it needs {size_text(needed)}" if needed else f"it needs more than {size_text(written)}")
    if error.errno == errno.EFBIG:
        parts.append("the limit of a file's size (ulimit -f) is lower")
    elif error.errno == errno.EDQUOT:
        parts.append("the quota of this user is used up")
    elif (free := free_bytes(path)) is not None:
        parts.append(f"{size_text(free)} are free there")
    return ", ".join(parts)


def free_bytes(path: Path) -> int | None:
    """Bytes that this user may still write at a path; None where nothing tells."""
    place = next((p for p in (path, *path.parents) if p.exists()), None)
    if place is None:
        return None
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def size_text(num_bytes: float) -> str:
    """ "3.4 GB", "12 kB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{max(1, round(num_bytes / 1e3))} kB"
