"""Programs are code, run with the rights of whoever opens them: which ones this project made itself.

What lies in artifacts/ was made or taken in by a stage of this folder. Of what it gave away, exported files and versions in
a registry on a server, the digests are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError
from cgankd.data.regular import read_json
from pipelines.files.artifacts import file_digest, write_json

RECORD = "own-programs.json"
"""In artifacts/: SHA-256 -> what it is of."""
FLAG = "--trust"


def remember(workdir: Path, digest: str, what: str) -> None:
    """Keep the digest of a program that this project made."""
    write_json(workdir / "artifacts" / RECORD, known(workdir) | {digest: what})


def known(workdir: Path) -> dict[str, str]:
    """Digests of the programs that left this project, and what each is; empty where nothing did."""
    try:
        found = read_json(workdir / "artifacts" / RECORD)
    except (FileNotFoundError, ValueError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def check_own(workdir: Path, path: Path, *, trust: bool) -> None:
    """Raise ConfigError where a program is not this project's own, unless the user says to trust it."""
    if trust or path.resolve().is_relative_to((workdir / "artifacts").resolve()):
        return
    if path.is_file() and file_digest(path) in known(workdir):
        return
    raise ConfigError(
        f"{path} is a program, which runs with your rights, and not one that this project made; if you know who made it,"
        f" add {FLAG}"
    )


def is_program(config: Mapping[str, Any]) -> bool:
    """Whether the config of a net tells of a program, its own or a member's."""
    members = config.get("members")
    inner = members if isinstance(members, list) else []
    return "program" in config or any(isinstance(own, Mapping) and is_program(own) for own in inner)
