"""What a run left in its folder: the files that must be those of an undisturbed run, and what must not be there."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

CODE = "code"
"""Folder beside the projects with the code that they run, where they have none of their own."""
NOT_COMPARED = {
    "artifacts/logs": "times, run numbers, and the runs that were killed",
    "artifacts/resume": "what is kept for the next run; finished students, GANs and burn-ins in it are compared",
    "artifacts/cache": "images that a reader has rendered: compared as dataset.h5",
}
KEPT = ("resume/student", "resume/gans", "resume/bank/burn-in.safetensors")
"""Results that later runs use again."""


def files_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every artifact, metric, picture and curve, of what is kept for later runs, and of dvc.lock."""
    found = {}
    for part in ("artifacts", "metrics", "plots"):
        for path in sorted((folder / part).rglob("*")):
            name = path.relative_to(folder).as_posix()
            left_out = name.startswith(tuple(NOT_COMPARED)) and not name.startswith(
                tuple(f"artifacts/{k}" for k in KEPT)
            )
            if path.is_file() and not left_out and path.suffix != ".lock":
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    lock = folder / "dvc.lock"
    if lock.exists():
        found["dvc.lock"] = hashlib.sha256(lock.read_bytes()).hexdigest()
    return found


def differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Files that are missing, new or other than they should be."""
    missing = [f"missing: {name}" for name in sorted(wanted.keys() - found.keys())]
    new = [f"not there in the undisturbed run: {name}" for name in sorted(found.keys() - wanted.keys())]
    other = [f"other bytes: {name}" for name in sorted(wanted.keys() & found.keys()) if found[name] != wanted[name]]
    return missing + new + other


def temporary(folder: Path) -> list[str]:
    """Half-written files, and progress of a training that came to its end."""
    names = []
    for part in ("artifacts", "metrics", "plots"):
        for path in (folder / part).rglob("*"):
            blocks = path.parent.name == "blocks"
            if path.is_file() and (
                path.name.endswith((".tmp", ".pt", ".resume")) or blocks or path.parent.name == "cuts"
            ):
                names.append(path.relative_to(folder).as_posix())
    return sorted(names)


def held_locks(folder: Path) -> list[str]:
    """Locks that somebody still has."""
    held = []
    for path in sorted((folder / "artifacts").rglob("*.lock")):
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            held.append(path.relative_to(folder).as_posix())
    return held


def processes(folder: Path) -> list[int]:
    """Living processes at work in a folder; all that a command starts stands where it does."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(place / "cwd") == str(folder) and state_of(int(place.name)) not in "ZX":
                found.append(int(place.name))
        except OSError:
            continue
    return sorted(found)


def state_of(pid: int) -> str:
    """The letter of a process's state; X where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def processor_s(pids: list[int]) -> float:
    """Seconds of a processor that processes took so far."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        except OSError:
            continue
    return ticks / float(os.sysconf("SC_CLK_TCK"))


def words_of(pid: int) -> str:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def ended(folder: Path, patience_s: float) -> list[int]:
    """The processes in a folder that are still there after a while."""
    until_s = time.monotonic() + patience_s
    while (left := processes(folder)) and time.monotonic() < until_s:
        time.sleep(0.1)
    return left


def events(folder: Path) -> Iterator[dict[str, Any]]:
    """Events of all stages in the JSON lines."""
    for path in (folder / "artifacts" / "logs").rglob("*.jsonl"):
        for line in path.read_text(errors="replace").splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # cut short by the kill
                continue


def under_way(folder: Path) -> tuple[str, float] | None:
    """The stage whose run is not ended, and when it began (seconds since the epoch); None between stages."""
    begun: dict[str, tuple[str, float]] = {}
    for event in events(folder):
        if event.get("run") != event.get("root"):
            continue
        if event["kind"] == "run":
            begun[event["run"]] = str(event.get("stage")), event["time_ms"] / 1000
        elif event["kind"] == "close":
            begun.pop(event["run"], None)
    return max(begun.values(), key=lambda one: one[1], default=None)


def last_save_s(folder: Path, part: str = "resume") -> float:
    """When something was last kept for the case of a kill, seconds since the epoch; 0 for never."""
    latest = 0.0
    for path in (folder / "artifacts" / part).rglob("*"):
        if path.suffix in (".lock", ".tmp"):
            continue
        try:
            latest = max(latest, path.stat().st_mtime if path.is_file() else 0.0)
        except OSError:
            continue
    return latest


def lost_s(folder: Path, killed_s: float) -> tuple[str, float]:
    """The stage under way at a kill, and the seconds of its work that no file has; ("", 0) between stages."""
    found = under_way(folder)
    if found is None:
        return "", 0.0
    stage, began_s = found
    return stage, max(0.0, killed_s - max(began_s, last_save_s(folder)))


def environment(folder: Path) -> dict[str, str]:
    """What the commands of a run are started with."""
    import sys

    own = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder if (folder / "cgankd").exists() else folder.parent / CODE),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(folder.parent / "dvc-site-cache"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
        "CGANKD_THREADS": "1",
        "CGANKD_MALLOC": "off",
    }
    return os.environ | own
