"""Writing a file so that it is never seen half written, with an error that names the file the user asked for."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cgankd.config import ConfigError
from cgankd.data.store.writing import FULL, REFUSED, Unwritten, size_limit, written_whole
from pipelines.files.layout import in_place

SHORT_S = 30.0
"""Work of so many seconds may be lost with the power: bringing it to the disk at once would cost more than it is worth."""
AGAIN = "and run the same command again, which goes on where it was"

OWN_FOLDER = "work in a folder of your own, or get leave to write there"


class DiskError(ConfigError):
    """A file that the disk does not take, in one sentence with the room that it needs."""


@contextmanager
def replacing(path: Path, needed: int = 0, *, synced: bool = True, named: bool = False) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place on success and vanishes on failure.

    `needed` are the bytes of the file where they are known; without `synced` a loss of power may tear it; `named` is one that
    the user named, who can name another.
    Raises DiskError where it cannot be written: the system's own error would name the temporary file.
    """
    if named:
        refuse_special(path)
    elif (text := in_the_way(path)) is not None:
        raise DiskError(text)
    try:
        with written_whole(path, needed=needed, synced=synced) as temporary:
            yield temporary
    except Unwritten as error:
        raise DiskError(disk_sentence(error, named=named)) from error


def in_the_way(path: Path) -> str | None:
    """A sentence where something else lies in the place of a file that this program names; None where nothing does."""
    if path.is_dir():
        return f"{path} is a folder, but a file is written there; move it away {AGAIN}"
    if path.exists() and not path.is_file():
        return f"{path} is a device, pipe or socket, but a file is written there; move it away {AGAIN}"
    return None


def refuse_special(path: Path) -> None:
    """Raise ConfigError where a path that the user named is no place for a file: a folder, or a device, pipe or socket that a
    file would replace."""
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


def disk_sentence(error: OSError, *, named: bool = False) -> str:
    """One sentence: which file, why, the room that it needs and the room that is there, and the cure.

    `named` is a file that the user named, who can name another.
    """
    why = error.strerror or os.strerror(error.errno or errno.EIO)
    if error.filename is None:
        cure = _room(error, Path.cwd()) if error.errno in FULL else "make room or choose another folder"
        return f"the disk of {Path.cwd()} fails ({why}); {cure} {AGAIN}"
    path = in_place(Path(os.fsdecode(error.filename)))
    if error.errno == errno.EISDIR and (path.suffix == ".lock" or isinstance(error, Unwritten)):
        return in_the_way(path) or f"{why}: {path}"
    if not isinstance(error, Unwritten) and error.errno not in (*FULL, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
        return f"{why}: {path}{_leave(error, path)}"  # it may have been read
    unwritten = f"{path} cannot be written ({why})"
    if error.errno in FULL:
        return f"{unwritten}: {_room(error, path)} {AGAIN}"
    if error.errno == errno.EIO:
        return f"{unwritten}; the disk may be failing: look at it {AGAIN}"
    above = next((p for p in (path, *path.parents) if p.exists()), path)
    moved = f"move {above} away, which is a file where a folder is needed"
    if error.errno not in (errno.ENOTDIR, errno.EEXIST) or above.is_dir():
        moved = ""
    if named:
        return f"{unwritten}; name a file in a folder you may write to{moved and f', or {moved}'}"
    return f"{unwritten}; {moved} {AGAIN}" if moved else f"{unwritten}; {OWN_FOLDER}"


def _leave(error: OSError, path: Path) -> str:
    """The cure for a lock that may not be opened, as only this program writes those."""
    return f"; {OWN_FOLDER}" if error.errno in (errno.EACCES, errno.EPERM) and path.suffix == ".lock" else ""


def raised(limit: int) -> str:
    """What to do where the limit of a file's size stands in the way."""
    return f"the limit of a file's size (ulimit -f) is {size_text(limit)}; raise it"


def _room(error: OSError, path: Path) -> str:
    """The room that is needed, the room that is there, and what brings more, in words."""
    needed, written = getattr(error, "needed", 0), getattr(error, "written", 0)
    needs = f"it needs {size_text(needed)}" if needed else f"it needs more than {size_text(written)}" if written else ""
    if error.errno == errno.EFBIG:
        limit = size_limit()
        cure = "the limit of a file's size is lower; raise it" if limit is None else raised(limit)
    elif error.errno == errno.EDQUOT:
        cure = "the quota of this user is used up; make room in it"
    elif (free := free_bytes(path)) is None:
        cure = "make room"
    elif needed and (free >= needed or size_text(free) == size_text(needed)):  # the numbers would contradict the error
        return f"{needs}, and other files need room there too; make room"
    else:
        cure = f"{size_text(free)} are free there; make room"
    return f"{needs}, {cure}" if needs else cure


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
