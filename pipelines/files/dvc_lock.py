"""What dvc.lock tells of the files in a work folder: the MD5 that DVC knows each by."""

from __future__ import annotations

from typing import Any

from pipelines.files.params import parse

LOCK = "dvc.lock"


def made_md5(text: str) -> dict[str, str]:
    """Path -> MD5 of every file or folder that a stage made, from the text of a dvc.lock."""
    return {str(out["path"]): str(out["md5"]) for own in _stages(text).values() for out in _files(own, "outs")}


def read_md5(text: str, stage: str, path: str) -> str | None:
    """MD5 of a file as a stage read it; None where dvc.lock does not tell."""
    return next((str(dep["md5"]) for dep in _files(_stages(text).get(stage), "deps") if dep["path"] == path), None)


def _files(own: object, kind: str) -> list[dict[str, Any]]:
    """The entries of a stage that have a path and an MD5."""
    entries = own.get(kind) if isinstance(own, dict) else None
    return [
        entry
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and {"path", "md5"} <= entry.keys()
    ]


def _stages(text: str) -> dict[str, Any]:
    """Stage -> what stands under its name. Raises ConfigError where the text is no YAML; empty where it is of another shape."""
    found = parse(text, LOCK)
    stages = found.get("stages") if isinstance(found, dict) else None
    return stages if isinstance(stages, dict) else {}
