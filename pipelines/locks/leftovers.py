"""Files that a kill in the middle of a write left half written, and their removal by the next start."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

PARTS = ("artifacts", "metrics", "plots")
HALF = re.compile(r"\.tmp$")
"""Files under a temporary name: they get their own name when they are whole."""
MARK, MARK_S = re.compile(r"^\.seen-[0-9a-f]{8}$"), 86_400.0
"""What a command puts into a folder to learn which nodes of a cluster see it, and seconds after which nobody looks for it."""

AHEAD_NS = 60 * 10**9
"""A file so far ahead of the clock is of a time before that was set back; none is being written at such a time."""


def sweep(workdir: Path, before_ns: int, *, cache: bool = False) -> list[Path]:
    """Delete half-written files and folders of a work folder that were last written before a time, that of now (ns since the
    epoch, by the clock of its files), or that are far ahead of it; returns them.

    Call it only where no other process works in the folder. `cache` looks at artifacts/cache too, which may hold many files.
    """
    gone, begin_ns = [], time.monotonic_ns()
    for path in half_written(workdir, cache):
        try:
            written_ns = path.stat().st_mtime_ns
            now_ns = before_ns + time.monotonic_ns() - begin_ns  # who began meanwhile may write already
            if written_ns < before_ns or written_ns > now_ns + AHEAD_NS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                gone.append(path)
        except OSError:  # gone already, or in a folder that is read-only, where whatever writes next says so
            continue
    return gone


def half_written(workdir: Path, cache: bool = False) -> Iterator[Path]:
    """The files and folders under temporary names, and banks that trials of a search were at work on."""
    for part in PARTS:
        for top, folders, names in os.walk(workdir / part):
            place = Path(top)
            if not cache and place == workdir / "artifacts":
                folders[:] = [name for name in folders if name != "cache"]
            if place == workdir / "artifacts" / "resume":
                # Other ranks may still write when the first ends.
                folders[:] = [name for name in folders if name != "ranks"]
            yield from (place / name for name in folders if HALF.search(name))
            folders[:] = [name for name in folders if not HALF.search(name)]
            cuts = place.parts[-2:] == ("search", "cuts")
            yield from (place / name for name in names if cuts or HALF.search(name) or _is_old_mark(place / name))


def _is_old_mark(path: Path) -> bool:
    """Whether a killed command left it; a younger one may be of a command that is at work."""
    if MARK.match(path.name) is None:
        return False
    try:
        return path.stat().st_mtime < time.time() - MARK_S
    except OSError:  # its command has ended meanwhile
        return False
