"""Digests of files, folders, code and settings; a file that did not change is read once a process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgankd.data.regular import open_regular

Stamp = tuple[int, int, int, int, int]
_known: dict[tuple[str, str], tuple[Stamp, str]] = {}
"""(algorithm, path) -> what the system said of the file, and its digest. The time of change cannot be set back."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and digests of all files in a folder."""
    if path.is_dir():
        names = [f"{name} {digest}" for name, digest in digests_in(path).items()]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()
    return hashed(path, "sha256")


def digests_in(folder: Path) -> dict[str, str]:
    """Name below the folder -> SHA-256 of each file in it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashed(p, "sha256") for p in files}


def hashed(path: Path, algorithm: str) -> str:
    """Digest of one file; remembered as long as inode, size and times stay what they are."""
    key = algorithm, str(path)
    with open_regular(path) as file:
        stamp = stamp_of(path)
        known = _known.get(key)
        if known is not None and known[0] == stamp:
            return known[1]
        digest = hashlib.file_digest(file, algorithm).hexdigest()
    if stamp_of(path) == stamp:  # not written to meanwhile
        _known[key] = stamp, digest
    return digest


def stamp_of(path: Path) -> Stamp:
    """What changes with a file: device, inode, size, and the times of writing and change in nanoseconds."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def source_digest(*parts: str) -> str:
    """SHA-256 of the library's source, or of the named files and folders beside it; numbers depend on the code too."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for part in parts or ("cgankd",):
        top = root / part
        for path in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            digest.update(f"{path.relative_to(root).as_posix()} {hashed(path, 'sha256')}\n".encode())
    return digest.hexdigest()


def fingerprint(config: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> str:
    """One digest of settings and of the digests of inputs, in any order of keys."""
    text = json.dumps({"config": config, "inputs": inputs or {}}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
