"""`cgankd sync`: runs that the MLflow store of now has not, or not whole, are added from the JSON lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from cgankd.config import ConfigError
from cgankd.data.regular import check_folders
from pipelines.tracking.journal import Event, JsonLines, is_closed, read_lines, read_roots
from pipelines.tracking.mlflow_sink import MlflowSink, end, found_again, replay
from pipelines.tracking.places import home, log_folder
from pipelines.tracking.stored import Stored, is_whole, stored_runs


def running(events: list[Event]) -> bool:
    """The process of a run without an end still holds the lock of its stage."""
    lock = next((e.get("lock") for e in reversed(events) if e["kind"] == "run"), None)
    if is_closed(events) or not lock or not Path(lock).exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


@dataclass(frozen=True)
class SyncReport:
    """How many runs were added to MLflow or made whole there, were there before, or are still under way.

    `lost` files of added runs are no longer what they were; `damaged` lines of the records cannot be read.
    """

    added: int
    there: int
    running: int
    lost: int = 0
    damaged: int = 0

    @property
    def text(self) -> str:
        """The same in a sentence."""
        late = f", {self.running} still under way" if self.running else ""
        lost = f"; {self.lost} of their files are gone, later runs wrote over them" if self.lost else ""
        damaged = f"; {self.damaged} lines of artifacts/logs are damaged and were left out" if self.damaged else ""
        return f"{self.added} runs added to MLflow, {self.there} were there{late}{lost}{damaged}"


def replaying(workdir: Path) -> FileLock:
    """The lock under which records are replayed: two at once would each add a run that the other adds."""
    path = home(workdir) / "artifacts" / "resume" / "sync.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def sync(workdir: Path) -> SyncReport:
    """Add the runs that the store has not, from the JSON lines. Raises what MLflow raises when it does not answer.

    Raises ConfigError where another process adds runs at this moment.
    """
    try:
        with replaying(workdir).acquire(timeout=0):
            return add_missing(workdir)
    except Timeout:
        raise ConfigError("another process is adding runs to MLflow at this moment; wait for it") from None


def add_missing(workdir: Path) -> SyncReport:
    """`sync`, its lock held."""
    sinks: dict[str, tuple[MlflowSink, dict[str, list[Stored]]]] = {}
    added = there = alive = damaged = 0
    check_folders(log_folder(home(workdir)) / "any")
    for path in sorted(log_folder(home(workdir)).rglob("*.jsonl")):
        lines = JsonLines(path)
        damaged += sum(event is None for event in read_lines(path))
        for events in read_roots(path).values():
            begin = next((e for e in events if e["kind"] == "run" and e["run"] == e["root"]), None)
            if begin is None or not begin.get("mlflow"):
                continue
            if running(events):
                alive += 1
                continue
            experiment = str(begin["experiment"])
            if experiment not in sinks:
                sink = MlflowSink(workdir, experiment, replay=True)
                sinks[experiment] = sink, stored_runs(sink.client, sink.experiment_id)
            sink, stored = sinks[experiment]
            now = [found_again(event, begin.get("lock"), home(workdir)) for event in events]
            if is_whole(now, stored, sink.client):
                there += 1
                continue
            end(events, lines)
            replay(events, workdir, lines, sink)
            added += 1
    return SyncReport(added, there, alive, sum(sink.lost for sink, _ in sinks.values()), damaged)
