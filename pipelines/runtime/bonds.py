"""Processes that end with the one that started them: nothing trains, serves or idles for a parent that is gone.

On Linux the system itself tells a child (PR_SET_PDEATHSIG); a watch on the parent's process id does it everywhere, and where
a shell or DVC stands between.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

LOOK_EVERY_S, GRACE_S = 1.0, 10.0
"""Seconds between two looks at the parent, and from the word to end until the process is ended."""
PR_SET_PDEATHSIG = 1
STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name))
"""Signals by which a user or a system asks a program to end."""


def start_ticks(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty where it is gone, dead or the system does not say."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else fields[18]


def lives(pid: int, ticks: str) -> bool:
    """Whether the process that had this id and start is there; where the system tells no start, whether any has the id."""
    if ticks or Path("/proc/self/stat").exists():
        return ticks != "" and start_ticks(pid) == ticks
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def ask_system(sign: int) -> None:
    """Let the system send this process `sign` when its parent dies; does nothing where it cannot (not Linux)."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(sign), 0, 0, 0)
        except (OSError, AttributeError):  # a C library without it: the watch is left
            return


def end_with(pid: int) -> None:
    """End this process by SIGTERM within seconds after `pid` has died, and at once by SIGKILL if that is not heeded."""
    ticks = start_ticks(pid)
    threading.Thread(target=_watch, args=(pid, ticks), name="end-with-parent", daemon=True).start()


def end_with_parent(parent: int) -> None:
    """End this process with its parent, whose id it was told, as the parent may be gone already."""
    ask_system(signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
    end_with(parent)


def _watch(pid: int, ticks: str) -> None:
    while lives(pid, ticks):
        time.sleep(LOOK_EVERY_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def like_ctrl_c(handler: Callable[[int, FrameType | None], object] | None = None) -> None:
    """Take SIGTERM and the end of the terminal like Ctrl-C, or by another handler, so that progress is kept."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, handler or stop)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup stays nohup
        signal.signal(signal.SIGHUP, handler or stop)


def dvc_process() -> int | None:
    """The DVC that runs this command, perhaps by way of a shell; None where none does or the system does not say.

    DVC sets DVC_STAGE for what it starts, so that the nearest process above without it is DVC itself.
    """
    if "DVC_STAGE" not in os.environ:
        return None
    pid = os.getppid()
    while pid > 1:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        if b"DVC_STAGE=" not in environment:
            return pid
        pid = int(fields[1])
    return None


def run_bonded(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a program until it ends or this one is asked to, and leave nothing of it behind; its exit status, 0 if asked.

    The program and all that it starts are a group of their own, which is ended as a whole; if this process is killed outright,
    the system asks the program to end.
    """
    asked = threading.Event()
    process = subprocess.Popen(
        list(command),
        env=None if environment is None else dict(environment),
        start_new_session=True,
        preexec_fn=(lambda: ask_system(signal.SIGTERM)) if sys.platform == "linux" else None,
    )

    def stop(number: int, frame: FrameType | None) -> None:
        asked.set()

    before = {sign: signal.signal(sign, stop) for sign in STOPS if signal.getsignal(sign) is not signal.SIG_IGN}
    try:
        while process.poll() is None and not asked.wait(0.2):
            pass
    finally:
        _end_group(process)
        for sign, handler in before.items():
            signal.signal(sign, handler)
    return 0 if asked.is_set() else process.returncode


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except (ProcessLookupError, PermissionError):
            break
        until_s = time.monotonic() + GRACE_S / 2
        while time.monotonic() < until_s and _group_lives(process):
            time.sleep(0.05)
    process.wait()


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # so that the program itself is no zombie of the group
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # only zombies are left, which another system says so
        return False
    return True
