"""The lock of a stage in a work folder: who holds it, how long to wait for it, and how it outlives its process.

It is the system's own lock on an open file (flock), which goes with the last process that holds the file, however that ends:
no lock is left over by a kill, and none is told by the number of a process, which may come again. Worker processes hold it too,
so that those of a killed stage are no second writers beside the next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cgankd.config import ConfigError
from pipelines.locks.leftovers import sweep

WAIT_S, SAY_EVERY_S = 60.0, 15.0
"""How long a second start waits for the first to end, and how often it says so."""
_held: list[FileLock] = []


def take(lock: FileLock, what: str, say: Callable[[str], None]) -> None:
    """Acquire the lock of a folder, waiting up to WAIT_S for the process that has it, which is said.

    Raises ConfigError that names the process and the cure where it goes on, or where it is this process itself.
    """
    path = Path(lock.lock_file)
    folder, begin_s, said_s = path.parents[2], time.monotonic(), float("-inf")  # of artifacts/resume/STAGE.lock
    while True:
        try:
            lock.acquire(timeout=0 if said_s < 0 else 1.0)
            _held.append(lock)
            return
        except Timeout:
            pids, now_s = holders(path), time.monotonic()
        waited_s = now_s - begin_s
        if waited_s >= WAIT_S or pids == [os.getpid()]:
            end = f", or end it by `kill {' '.join(map(str, pids))}`" if pids else ""
            raise ConfigError(
                f"another `cgankd {what}`{named(pids)} is running in {folder}; wait for it{end}, then give the same command"
            )
        if now_s - said_s >= SAY_EVERY_S:
            said_s = now_s
            say(
                f"waiting for another `cgankd {what}`{named(pids)} in this folder to end, {WAIT_S - waited_s:.0f} s at most"
            )


def release(lock: FileLock) -> None:
    """Let the lock go, for all processes that hold it, and delete what workers that were killed left half written."""
    if lock.is_locked:
        with suppress(OSError):  # a full disk, whose error is being told
            clean(Path(lock.lock_file).parents[2], lock)
    if lock in _held:
        _held.remove(lock)
    lock.release()


@contextmanager
def one_at_a_time(path: Path) -> Iterator[bool]:
    """Hold a lock file; gives whether another process had it, which was waited for."""
    lock, waited = FileLock(path), False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        lock.acquire()
        waited = True
    try:
        yield waited
    finally:
        lock.release()


def clean(workdir: Path, mine: FileLock | None = None, *, cache: bool = False) -> None:
    """Delete what killed processes left half written, unless another process is at work in this folder.

    Call it with a lock of the folder held, `mine` or one that was taken by `take`: who begins later begins to write later.
    """
    folder = workdir / "artifacts" / "resume"
    mark = folder / f".swept.{os.getpid()}.tmp"  # one a process: workers that begin together all clean
    with mark.open("wb", buffering=0) as file:  # the time of now by the clock of the folder's file system
        with suppress(OSError):  # on a full disk the time of its making is as good
            file.write(b"now")
        before_ns = os.fstat(file.fileno()).st_mtime_ns
    own = {Path(lock.lock_file) for lock in (*_held, *([mine] if mine else []))}
    if all(path in own or is_free(path) for path in folder.glob("*.lock")):
        sweep(workdir, before_ns, cache=cache)
    mark.unlink(missing_ok=True)


def is_free(path: Path) -> bool:
    """Whether nobody holds a lock at this moment."""
    try:
        with FileLock(path, timeout=0):
            return True
    except Timeout:
        return False


def named(pids: list[int]) -> str:
    """Processes in words; nothing where they are not known, as on another machine."""
    if not pids:
        return ""
    return f" (process {pids[0]})" if len(pids) == 1 else f" (processes {', '.join(map(str, pids))})"


def holders(path: Path) -> list[int]:
    """The processes of this machine that have a file open, as far as the system tells; none on systems without /proc."""
    wanted = str(path.resolve())
    return sorted(int(process.name) for process in Path("/proc").glob("[0-9]*") if wanted in _open_files(process))


def _open_files(process: Path) -> list[str]:
    """What a process has open; nothing where it is gone or another user's."""
    found = []
    with suppress(OSError), os.scandir(process / "fd") as links:
        for link in links:
            with suppress(OSError):  # closed meanwhile
                found.append(os.readlink(link.path))
    return found


class Shared:
    """The locks that this process holds, as an argument for a worker process, which holds them too from then on."""

    def __reduce__(self) -> tuple[Any, ...]:
        files = [lock._context.lock_file_fd for lock in _held]
        return _taken_over, ([reduction.DupFd(file) for file in files if file is not None],)


def _taken_over(files: list[Any]) -> Shared:
    for file in files:
        file.detach()  # stays open until the worker ends
    return Shared()


def free_slot(folder: Path) -> tuple[int, FileLock]:
    """The lowest worker number that no other process in this folder has, and its lock."""
    folder.mkdir(parents=True, exist_ok=True)
    for slot in range(1000):
        lock = FileLock(folder / f"search-{slot}.lock")
        try:
            lock.acquire(timeout=0)
            return slot, lock
        except Timeout:
            continue
    raise ConfigError("a thousand searches run in this folder; stop some")
