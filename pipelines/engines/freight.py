"""What a job reads and writes, found in the job itself, and the same job in another folder.

A job is a frozen dataclass. Its paths are what it reads, a weights file with its config; `out` is what it writes: a file, with
all beside it whose name is its stem and more after a dot or hyphen. Another kind of job says so by methods `reads` and `writes`,
or by a sentence `stays` that it works only where its folder is seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.files.artifacts import config_path
from pipelines.files.digests import file_digest

NOT_SENT = (".lock", ".resume", ".tmp")
"""Endings of files that mean something on the machine that wrote them alone."""


@dataclass(frozen=True)
class Item:
    """One file: its path on the machine that sends the jobs, its SHA-256 and its bytes."""

    path: Path
    digest: str
    size: int


def item_of(path: Path) -> Item:
    """The file as it is now."""
    path = path.absolute()
    return Item(path, file_digest(path), path.stat().st_size)


def reads(job: Any) -> list[Path]:
    """The files that a job reads."""
    if hasattr(job, "reads"):
        return list(job.reads())
    fields = [getattr(job, field.name) for field in dataclasses.fields(job) if field.name != "out"]
    found: dict[Path, None] = {}
    for path in _paths(fields):
        beside = [config_path(path)] if path.suffix == ".safetensors" else []
        found |= {file.absolute(): None for file in (path, *beside) if file.is_file()}
    return list(found)


def writes(job: Any) -> list[Path]:
    """The files that a finished job has written, its record last: whoever sees that one may trust the others."""
    if hasattr(job, "writes"):
        return list(job.writes())
    out = job.out.absolute()
    own = [path for path in out.parent.iterdir() if path.name.startswith((f"{out.stem}.", f"{out.stem}-"))]
    found = [path for path in own if path.is_file() and path.suffix not in NOT_SENT]
    return sorted(found, key=lambda path: (path == out.with_suffix(".json"), path.name))


def folder_of(job: Any) -> Path:
    """Where a job's results go."""
    found: Path = job.out.absolute().parent
    return found


def mirrored(value: Any, top: Path) -> Any:
    """A job with all its paths below another folder: /a/b becomes top/a/b."""
    if isinstance(value, Path):
        return below(value, top)
    if isinstance(value, tuple | list):
        return type(value)(mirrored(one, top) for one in value)
    if isinstance(value, Mapping):
        return {key: mirrored(one, top) for key, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and next(_paths(value), None) is not None:
        changed = {f.name: mirrored(getattr(value, f.name), top) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **changed)
    return value


def below(path: Path, top: Path) -> Path:
    """A path in the mirror `top` of this machine's folders."""
    whole = path.absolute()
    return top / whole.relative_to(whole.anchor)


def above(path: Path, top: Path) -> Path:
    """The path that `below` made this one of."""
    return Path(path.anchor) / path.relative_to(top)


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _paths(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _paths(one)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _paths(getattr(value, field.name))
