"""Student runs in artifacts/resume/student: what is kept, so that a run whose settings and inputs come again is not repeated.

All files of a run begin with its fingerprint. The student stage keeps its own runs and whatever it or a search used within
the last day. Of all others those used last are kept, up to SPARE_TIMES the bytes of its own runs, or SPARE_BYTES if that is
more; the rest is deleted, longest unused first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

KEY = re.compile(r"\.?([0-9a-f]{32})[-.]")
"""A fingerprint as the beginning of a file's name; that of a file being written has a dot before it."""
SPARE_TIMES = 4
SPARE_BYTES = 10**9
RECENT_S = 86_400.0
"""A search that runs beside the stage has used its runs within this time."""


def prune(folder: Path, own: Collection[str], now_s: float) -> tuple[int, int]:
    """Delete the runs that are not to be kept; how many, and their bytes. `own` are fingerprints of the stage's runs."""
    runs: dict[str, dict[Path, os.stat_result]] = {}
    for path in folder.iterdir():
        if match := KEY.match(path.name):
            with suppress(FileNotFoundError):  # a search renames its files meanwhile
                runs.setdefault(match[1], {})[path] = path.stat()
    size = {key: sum(stat.st_size for stat in files.values()) for key, files in runs.items()}
    used_s = {key: max(stat.st_mtime for stat in files.values()) for key, files in runs.items()}
    room = max(SPARE_BYTES, SPARE_TIMES * sum(size[key] for key in runs.keys() & set(own)))
    gone = []
    for key in sorted(runs.keys() - set(own), key=lambda key: (used_s[key], key), reverse=True):
        room -= size[key]
        if room < 0 and used_s[key] < now_s - RECENT_S:
            gone.append(key)
            # The record goes first: without it what is left counts for no finished run.
            for path in sorted(runs[key], key=lambda path: path.suffixes != [".json"]):
                path.unlink(missing_ok=True)
    return len(gone), sum(size[key] for key in gone)
