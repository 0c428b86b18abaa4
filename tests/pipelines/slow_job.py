"""Jobs for worker processes in tests: one notes that it began and waits for a file, one fails so often and in such a way."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace


@dataclass(frozen=True)
class SlowJob:
    folder: Path
    number: int

    @property
    def arm(self) -> SimpleNamespace:
        return SimpleNamespace(uses_pool=False)

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(student=SimpleNamespace(net="convnet", width=4))

    def need_bytes(self) -> float:
        return 1.0

    def finished(self) -> bool:
        return False


def wait_for_release(job: SlowJob) -> list[str]:
    (job.folder / f"began-{job.number}").write_text(str(os.getpid()))
    while not (job.folder / "release").exists():
        time.sleep(0.02)
    (job.folder / f"ended-{job.number}").touch()
    return []


@dataclass(frozen=True)
class FailingJob:
    folder: Path
    number: int
    how: str
    times: int


def do_or_fail(job: FailingJob) -> list[str]:
    """Note that the job is done, unless it has still to fail."""
    failed = job.folder / f"failed-{job.number}"
    count = len(failed.read_text()) if failed.exists() else 0
    if count < job.times:
        failed.write_text("x" * (count + 1))
        fail(job.how)
    (job.folder / f"done-{job.number}").touch()
    return []


def fail(how: str) -> None:
    """Die or raise."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "abort":
        os.kill(os.getpid(), signal.SIGABRT)
    if how == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    if how == "exit":
        os._exit(1)
    if how == "cuda":
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 3 GiB.")
    if how == "memory":
        raise MemoryError
    raise ZeroDivisionError(how)
