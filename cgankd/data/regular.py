"""Files that may come from anyone: only regular ones of a bounded size are opened, and JSON is taken apart within bounds.

What a path names may as well be a pipe that never answers, a device that never ends, or a terabyte of nothing.
"""

from __future__ import annotations

import errno
import json
import os
import pickletools
import stat
import zipfile
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from cgankd.config import ConfigError

MAX_RECORD = 2**26
"""Bytes of the largest JSON record that is read (64 MiB)."""
MAX_LIST = 2**28
"""Bytes of the largest list of images that is read (256 MiB)."""
MAX_WEIGHTS = 2**37
"""Bytes of the largest file of weights (128 GiB)."""
MAX_PROGRAM = 2**32
"""Bytes of the largest program (4 GiB), which is read whole."""
UNPACKED = 64
"""How many times its own bytes the members of a program may have: of texts of code alone, which are packed."""
IS_CODE = "is a program and runs with your rights: use those alone whose author you trust"
"""What is said of a program of the user's before it is opened, once for each file."""
HOLLOW, HOLLOW_BYTES = 100, 2**26
"""A file above HOLLOW_BYTES that is more than HOLLOW times as long as what is stored of it is a hole, and not read."""
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
SHOWN = 200


class NotPlain(ConfigError):
    """What lies at a path is no plain file: the path, what is there in words, and the cure for who named it."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{shown(path)} {what}; name a plain file")
        self.path, self.what = path, what


def open_regular(path: Path, most: int = MAX_WEIGHTS) -> BufferedReader:
    """A file open for reading, if it is a regular one of at most so many bytes.

    Raises FileNotFoundError or PermissionError as `open` does, and NotPlain or ConfigError naming the path where it is
    something else.
    """
    try:
        # Opening a pipe would wait for a writer; this does not, and means nothing to a regular file.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, ValueError) as problem:
        _refuse(path, problem)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise NotPlain(path, f"is {kind}, not a file")
    size = found.st_size
    if size > most or _is_hollow(handle, size):
        os.close(handle)
        why = f"more than the {most} that are read" if size > most else "of which next to nothing is stored"
        raise ConfigError(f"{shown(path)} has {size} bytes, {why}; name the right file")
    return os.fdopen(handle, "rb")


def _refuse(path: Path, problem: OSError | ValueError) -> NoReturn:
    """Raise ConfigError for a path that the system will not open."""
    if isinstance(problem, OSError):
        words = {errno.ELOOP: "is a link that leads back to itself", errno.ENXIO: "is a socket, not a file"}
        raise NotPlain(path, words.get(problem.errno or 0, f"cannot be opened ({problem.strerror})")) from None
    raise ConfigError(f"{shown(path)} is no path ({problem}); correct it") from None


def _is_hollow(handle: int, size: int) -> bool:
    """Whether nearly all of a large file is holes, which take no room on disk and much in memory."""
    if size <= HOLLOW_BYTES or not hasattr(os, "SEEK_DATA"):
        return False
    stored = place = 0
    try:
        while stored * HOLLOW < size:
            try:
                start = os.lseek(handle, place, os.SEEK_DATA)
            except OSError as problem:
                return problem.errno == errno.ENXIO  # no more data; else the file system cannot tell
            place = os.lseek(handle, start, os.SEEK_HOLE)
            stored += place - start
        return False
    finally:
        os.lseek(handle, 0, os.SEEK_SET)


def check_folders(path: Path) -> None:
    """Raise ConfigError where a file, or a link to nothing, lies in the place of a folder above the path.

    Without this the path would only seem to be missing.
    """
    for above in path.parents:
        if above.is_dir():
            return
        if os.path.lexists(above):
            kind = "a link to nothing" if above.is_symlink() and not above.exists() else "a file"
            raise ConfigError(
                f"{shown(above)} is {kind}, where a folder is needed; move it away, then give the same command"
            )


def check_regular(path: Path, most: int = MAX_WEIGHTS) -> None:
    """Raise as `open_regular` does, for readers that open a file themselves."""
    open_regular(path, most).close()


def read_bytes(path: Path, most: int) -> bytes:
    """All bytes of a regular file, never more than `most`. Raises as `open_regular` does."""
    with open_regular(path, most) as file:
        data = file.read(most + 1)
    if len(data) > most:  # it grew since
        raise ConfigError(f"{shown(path)} has more than the {most} bytes that are read; name the right file")
    return data


def read_text(path: Path, most: int = MAX_RECORD, errors: str = "strict") -> str:
    """UTF-8 text, its line ends as \\n. Raises as `read_bytes` does, and UnicodeDecodeError."""
    text = read_bytes(path, most).decode("utf-8", errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> Any:
    """What a JSON record holds. Raises as `read_text` and `parse_json` do."""
    return parse_json(read_text(path))


def parse_json(text: str, *, as_written: bool = False) -> Any:
    """JSON as RFC 8259 has it, `as_written` with numbers as their text. Raises json.JSONDecodeError for everything else.

    That is so too for NaN and infinities, which JSON has not, and for what Python cannot take apart: whole numbers of
    thousands of digits, and lists within lists by the thousand.
    """
    more: dict[str, Any] = {"parse_float": str, "parse_int": str} if as_written else {}
    try:
        return json.loads(text, parse_constant=str if as_written else _no_number, **more)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None
    except ValueError as problem:
        raise json.JSONDecodeError(str(problem)[:SHOWN], "", 0) from None


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def shown(path: Path) -> str:
    """A path as a message can show it, its end where it is very long."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if len(text) <= SHOWN else f"…{text[-SHOWN:]}"


def check_program_file(file: BinaryIO, size: int) -> None:
    """Raise where the archive of a program, of so many bytes, is not whole, or makes torch take far more memory than it has.

    Each member is read to its end, which checks its sum. A pickle may say of a text that it has gigabytes, for which torch
    makes room before it looks. Raises ValueError, or what zipfile and zlib raise.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > UNPACKED * size:
            raise ValueError("its members are far larger than it is")
        for member in members:
            with archive.open(member) as part:
                if member.filename.endswith("pkl"):
                    for _ in pickletools.genops(part.read()):
                        pass
                else:
                    while part.read(2**20):
                        pass
