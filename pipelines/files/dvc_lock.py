"""What dvc.lock tells of the files in a work folder: the MD5 that DVC knows each by."""

from __future__ import annotations

import configparser
import subprocess
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from cgankd.config import ConfigError
from cgankd.data.regular import NotPlain, parse_json, read_text
from pipelines.files.params import parse

LOCK, STAGES = "dvc.lock", "dvc.yaml"


def read_lock(workdir: Path) -> str:
    """The text of dvc.lock; empty where there is none. Raises ConfigError, with the cure, where it is no lock of DVC."""
    path = workdir / LOCK
    try:
        text = read_text(path) if path.exists() else ""
        _stages(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{LOCK} is damaged (not UTF-8 text); {lock_cure(workdir)}") from error
    except NotPlain as error:
        raise ConfigError(f"{LOCK} {error.what}; {lock_cure(workdir)}") from error
    except ConfigError as error:
        raise ConfigError(f"{error}; {lock_cure(workdir)}") from error
    except OSError as error:
        raise ConfigError(f"{LOCK} cannot be read ({error.strerror}); {lock_cure(workdir)}") from error
    return text


def lock_cure(workdir: Path) -> str:
    """What brings dvc.lock back: git where its last commit has a whole one, and DVC in any case."""
    anew = f"delete {LOCK} and run `dvc repro`"
    try:
        done = subprocess.run(["git", "show", f":./{LOCK}"], cwd=workdir, capture_output=True, check=False)
        held = done.returncode == 0 and lacks(done.stdout.decode(), whole=True) is None
    except (OSError, UnicodeDecodeError, ConfigError):  # no git, or a damaged one was committed
        held = False
    return f"bring it back with `git checkout -- {LOCK}`, or {anew}" if held else anew


def lacks(text: str, *, whole: bool) -> str | None:
    """Why a text is no lock as DVC writes them; None where it is one. Raises ConfigError where it is not even YAML.

    `whole`: it has the end of its last line, without which it was cut.
    """
    stages = _stages(text)
    if not stages and not text.strip():
        return "it is empty"
    for name, own in stages.items():
        if not isinstance(own, dict) or "cmd" not in own:
            return f"stage {name} has no command"
        for kind in ("deps", "outs"):
            entries = own.get(kind, [])
            if not isinstance(entries, list) or not all(isinstance(one, dict) and "path" in one for one in entries):
                return f"stage {name} has {kind} without a path"
    return "its last line is cut off" if whole and not text.endswith("\n") else None


def made_md5(text: str) -> dict[str, str]:
    """Path -> MD5 of every file or folder that a stage made, from the text of a dvc.lock. Raises ConfigError."""
    return {str(out["path"]): str(out["md5"]) for own in _stages(text).values() for out in _files(own, "outs")}


def read_md5(text: str, stage: str, path: str) -> str | None:
    """MD5 of a file as a stage read it; None where dvc.lock does not tell. Raises ConfigError."""
    return next((str(dep["md5"]) for dep in _files(_stages(text).get(stage), "deps") if dep["path"] == path), None)


def in_cache(workdir: Path, path: str) -> dict[str, Path]:
    """What `dvc checkout` brings back of a file or folder: names below the work folder -> the files in DVC's cache.

    Empty unless dvc.lock names it or its folder, dvc.yaml leaves it to DVC's cache, and all is there.
    """
    root = next((one for one in (workdir.resolve(), *workdir.resolve().parents) if (one / ".dvc").is_dir()), None)
    known = made_md5(read_lock(workdir))
    named = [name for name in (path, *map(str, PurePosixPath(path).parents)) if name in known]
    if root is None or not named:
        return {}
    try:
        stages = (parse(read_text(workdir / STAGES), STAGES) or {})["stages"].values()
        outs = [out for own in stages for kind in ("outs", "metrics", "plots") for out in own.get(kind, ())]
        options = {name: told for out in outs if isinstance(out, dict) for name, told in out.items()}
        if not all((options.get(name) or {}).get("cache", True) for name in named):
            return {}
        found = _cached(_cache_of(root), named[0], known[named[0]])
    except (ConfigError, OSError, ValueError, LookupError, TypeError, AttributeError, configparser.Error):
        return {}  # DVC cannot read it either
    of_path = {name: file for name, file in found.items() if name == path or name.startswith(f"{path}/")}
    return of_path if all(file.is_file() for file in found.values()) else {}


def _cache_of(root: Path) -> Path:
    """The folder of DVC's cache: .dvc/cache, or as the repository's settings say."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read([root / ".dvc/config", root / ".dvc/config.local"], encoding="utf-8")
    return root / ".dvc" / settings.get("cache", "dir", fallback="cache") / "files/md5"


def _cached(cache: Path, name: str, md5: str) -> dict[str, Path]:
    place = cache / md5[:2] / md5[2:]
    if not md5.endswith(".dir"):
        return {name: place}
    listed = parse_json(read_text(place))
    return {f"{name}/{one['relpath']}": cache / one["md5"][:2] / one["md5"][2:] for one in listed}


def _files(own: object, kind: str) -> list[dict[str, Any]]:
    """The entries of a stage that have a path and an MD5."""
    entries = own.get(kind) if isinstance(own, dict) else None
    return [
        entry
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and {"path", "md5"} <= entry.keys()
    ]


@lru_cache(maxsize=8)
def _stages(text: str) -> dict[str, Any]:
    found = parse(text, LOCK) or {}
    stages = (found.get("stages") or {}) if isinstance(found, dict) else None
    if not isinstance(stages, dict):
        raise ConfigError(f"{LOCK} is damaged (it lists no stages)")
    return stages


def dep_paths(text: str) -> list[str]:
    """The paths that a lock lists as what its stages read; none where it is no lock as DVC writes them."""
    if lacks(text, whole=False) is not None:
        return []
    return [str(one["path"]) for own in _stages(text).values() for one in own.get("deps", [])]
