"""`cgankd sync`: runs that MLflow missed are added from the JSON lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.tracking.journal import Event, JsonLines, is_closed, read_roots, state
from pipelines.tracking.mlflow_sink import end, replay
from pipelines.tracking.places import home, log_folder


def running(events: list[Event]) -> bool:
    """The process of a run without an end still holds the lock of its stage."""
    lock = next((e.get("lock") for e in events if e["kind"] == "run"), None)
    if is_closed(events) or not lock or not Path(lock).exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


@dataclass(frozen=True)
class SyncReport:
    """How many runs were added to MLflow, were there before, or are still under way."""

    added: int
    there: int
    running: int


def sync(workdir: Path) -> SyncReport:
    """Add the runs that MLflow missed, from the JSON lines. Raises what MLflow raises when it does not answer."""
    added = there = alive = 0
    for path in sorted(log_folder(home(workdir)).rglob("*.jsonl")):
        lines = JsonLines(path)
        for events in read_roots(path).values():
            begin = next((e for e in events if e["kind"] == "run"), None)
            if begin is None or not begin.get("mlflow"):
                continue
            if state(events) == "complete":
                there += 1
            elif running(events):
                alive += 1
            else:
                end(events, lines)
                replay(events, workdir, lines)
                added += 1
    return SyncReport(added, there, alive)
