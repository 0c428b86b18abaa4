"""What dvc.lock tells of the files in a work folder: the MD5 that DVC knows each by."""

from __future__ import annotations

from typing import Any

from pipelines.files.params import parse

LOCK = "dvc.lock"


def made_md5(text: str) -> dict[str, str]:
    """Path -> MD5 of every file or folder that a stage made, from the text of a dvc.lock."""
    return {
        out["path"]: str(out["md5"])
        for stage in _stages(text).values()
        for out in stage.get("outs", [])
        if "md5" in out
    }


def read_md5(text: str, stage: str, path: str) -> str | None:
    """MD5 of a file as a stage read it; None where dvc.lock does not tell."""
    deps = (_stages(text).get(stage) or {}).get("deps") or []
    return next((str(dep["md5"]) for dep in deps if dep.get("path") == path), None)


def _stages(text: str) -> dict[str, Any]:
    return (parse(text, LOCK) or {}).get("stages") or {}
