"""What is kept in artifacts/resume: sealed by the digests of all its files, so that none that is damaged is used again.

Student runs in artifacts/resume/student: what is kept, so that a run whose settings and inputs come again is not repeated.

All files of a run begin with its fingerprint. The student stage keeps its own runs and whatever it or a search used within
the last day. Of all others those used last are kept, up to SPARE_TIMES the bytes of its own runs, or SPARE_BYTES if that is
more; the rest is deleted, longest unused first.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from cgankd.data.regular import read_json
from pipelines.files.artifacts import load_tensors, write_tensors
from pipelines.files.digests import file_digest
from pipelines.files.made import seal
from pipelines.files.writing import DiskError, replacing

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


def write_sealed(record: Path, values: Mapping[str, Any], files: Sequence[Path], *, synced: bool = True) -> None:
    """The record of finished work, written last: its values, and the digests of the files beside it that belong to it."""
    whole = {"values": dict(values), "files": {path.name: file_digest(path) for path in files}}
    text = json.dumps(whole | {"seal": seal(json.loads(json.dumps(whole)))}).encode()
    with replacing(record, len(text), synced=synced) as temporary:
        temporary.write_bytes(text)


def read_sealed(record: Path, keys: Collection[str] = ()) -> dict[str, Any] | None:
    """The values of a record with these keys; None unless it and all its files are as they were written."""
    try:
        whole = read_json(record)
        if not isinstance(whole, dict) or whole.pop("seal", None) != seal(whole):
            return None
        values: dict[str, Any] = whole["values"]
        if any(file_digest(record.with_name(name)) != digest for name, digest in whole["files"].items()):
            return None
    except (OSError, ValueError):
        return None
    return values if set(keys) <= values.keys() else None


def keep_tensors(path: Path, tensors: dict[str, Tensor]) -> DiskError | None:
    """Keep tensors that can be computed again, sealed; what stands in the way where the disk does not take them."""
    try:
        write_tensors(path, tensors)
        write_sealed(path.with_suffix(".json"), {}, [path])
    except DiskError as error:
        return error
    return None


def kept_tensors(path: Path) -> dict[str, Tensor] | None:
    """Tensors that were kept; None unless they are as they were written."""
    if read_sealed(path.with_suffix(".json")) is None:
        return None
    try:
        return load_tensors(path)
    except (SafetensorError, OSError):
        return None
