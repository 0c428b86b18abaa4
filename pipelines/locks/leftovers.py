"""Files that a kill in the middle of a write left half written, and their removal by the next start."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

PARTS = ("artifacts", "metrics", "plots")
HALF = re.compile(r"\.tmp$")
"""Files under a temporary name: they get their own name when they are whole."""


def sweep(workdir: Path, before_ns: int, *, cache: bool = False) -> list[Path]:
    """Delete half-written files and folders of a work folder that were last written before a time (ns since the epoch, by the
    clock of its files); returns them.

    Call it only where no other process works in the folder. `cache` looks at artifacts/cache too, which may hold many files.
    """
    gone = []
    for path in half_written(workdir, cache):
        try:
            if path.stat().st_mtime_ns < before_ns:
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
            yield from (place / name for name in names if cuts or HALF.search(name))
