"""Programs are code, run with the rights of whoever opens them: which ones this project made itself.

A place tells nothing, as any file can be copied to it: a program is known by its digest. Those of what stages left stand in
artifacts/digests/ and dvc.lock; those of exported files and of versions in a registry on a server in the record here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError
from cgankd.data.regular import read_json
from pipelines.files.artifacts import file_digest, write_sealed_json
from pipelines.files.made import is_made, unsealed

RECORD = "own-programs.json"
"""In artifacts/: SHA-256 -> what it is of."""
FLAG = "--trust"


def remember(workdir: Path, digest: str, what: str) -> None:
    """Keep the digest of a program that this project made."""
    try:
        before = known(workdir)
    except ConfigError:  # damaged, and made anew by this
        before = {}
    write_sealed_json(workdir / "artifacts" / RECORD, dict(sorted((before | {digest: what}).items())))


def known(workdir: Path) -> dict[str, str]:
    """Digests of the programs that left this project, and what each is; empty where nothing did.

    Raises ConfigError where the record is damaged.
    """
    path = workdir / "artifacts" / RECORD
    if not path.exists():
        return {}
    try:
        found = read_json(path)
        whole = isinstance(found, dict) and unsealed(found)
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise ConfigError(
            f"artifacts/{RECORD} is damaged, so that nothing tells which programs this project made; delete it, then run"
            " `cgankd export` and `cgankd ship` again"
        )
    return {str(key): str(value) for key, value in found.items()}


def digests_of(workdir: Path, what: str) -> list[str]:
    """The digests that are kept of one program: several where registries of one folder have versions of one name."""
    return [digest for digest, own in known(workdir).items() if own == what]


def check_own(workdir: Path, path: Path, *, trust: bool) -> None:
    """Raise ConfigError where a program is not this project's own, unless the user says to trust it."""
    if trust:
        return
    if path.is_file() and (file_digest(path) in known(workdir) or is_made(workdir, path)):
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
