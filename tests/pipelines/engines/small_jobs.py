"""Jobs that compute nothing: they read a file, write one, and wait, die or fail as they are told."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.engines import local
from pipelines.engines.local import hand_over, tell
from tests.pipelines.slow_job import fail


@dataclass(frozen=True)
class SmallJob:
    """`note` is a folder that all workers of this machine see, by which a test watches them."""

    number: int
    source: Path
    out: Path
    note: str
    how: str = ""
    times: int = 0


def copy(job: SmallJob) -> list[str]:
    """Write what is read, after failing as often as is asked for; every beginning is noted."""
    note = Path(job.note)
    with (note / f"began-{job.number}").open("a") as file:
        file.write(f"{os.getpid()} {job.out} {local.__file__}\n")
    tell(job.number, 1)
    count = len((note / f"began-{job.number}").read_text().splitlines())
    if count <= job.times:
        if job.how == "wait":
            while not (note / "release").exists():
                time.sleep(0.02)
        else:
            fail(job.how)
    if job.how == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            while True:
                time.sleep(0.1)
        finally:
            (note / f"ended-{job.number}").touch()
    job.out.write_bytes(job.source.read_bytes() + str(job.number).encode())
    return ["copied"]


@dataclass(frozen=True)
class KeepingJob(SmallJob):
    """A job with a record that is worth having before it ends."""

    def keeps(self) -> list[Path]:
        return [self.out.with_suffix(".jsonl")]


def record(job: KeepingJob) -> list[str]:
    """Two lines of a record, of which the first is handed over at once, and no end."""
    path, note = job.keeps()[0], Path(job.note)
    path.write_text("first\n")
    hand_over()
    while not (note / "release").exists():
        time.sleep(0.02)
    with path.open("a") as file:
        file.write("second\n")
    (note / "began-all").touch()
    while True:
        time.sleep(0.1)
