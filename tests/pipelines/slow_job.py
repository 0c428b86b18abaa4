"""A job that only notes that it began and then waits for a file, for the worker processes of test_student.py."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class SlowJob:
    folder: Path
    number: int
    arm: Any = SimpleNamespace(uses_pool=False)

    def need_bytes(self) -> float:
        return 1.0

    def finished(self) -> bool:
        return False


def wait_for_release(job: SlowJob) -> list[str]:
    (job.folder / f"began-{job.number}").touch()
    while not (job.folder / "release").exists():
        time.sleep(0.02)
    (job.folder / f"ended-{job.number}").touch()
    return []
