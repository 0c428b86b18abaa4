"""Which bytes a stage left, by which damage is seen where a file is read.

A stage that ends well notes the digests of what it made in artifacts/digests/<stage>.json, the last ones of each file. A
file is trusted if its digest stands there, or if dvc.lock names it, as after `dvc checkout` or `dvc pull`. What neither
tells of, as in a project of an earlier version, is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from cgankd.config import ConfigError
from cgankd.data.regular import NotPlain, check_folders, parse_json, read_text
from pipelines.files.digests import digests_in, file_digest, hashed
from pipelines.files.dvc_lock import LOCK, in_cache, made_md5, read_lock
from pipelines.files.layout import (
    BESIDE_STAGES,
    MAKERS,
    OUTPUTS,
    STAGES,
    WEIGHTS,
    in_its_place,
    inside,
    maker,
    unplaced,
)
from pipelines.files.writing import replacing

FOLDER = "digests"
KEPT = 20
"""Digests of a file that are remembered, newest last: the cache of runs brings earlier ones back."""


def made_by(stage: str) -> list[str]:
    """The files and folders that a stage leaves, below the work folder."""
    names = [f"artifacts/{name}" for name in OUTPUTS.get(stage, ())]
    weights = [name.removesuffix(WEIGHTS[0]) + WEIGHTS[1] for name in names if name.endswith(f".{WEIGHTS[0]}")]
    return [*names, *weights, f"metrics/{stage}.json"]


def note_made(workdir: Path, stage: str, new: Path | None = None) -> None:
    """Note the digests of all that a stage left, beside those of before.

    `new` is a folder with the files that are to take the places of those in the work folder; the record is written there.
    """
    path = _record(new or workdir, stage)
    check_folders(_record(workdir, stage))
    try:
        known = _read(_record(workdir, stage))
    except ConfigError:  # damaged, and made anew by this
        known = {}
    made: dict[str, list[str]] = {}
    for name in made_by(stage):
        for file, digest in _files(new if new and (new / name).exists() else workdir, name).items():
            made[file] = [*(one for one in known.get(file, []) if one != digest), digest][-KEPT:]
    text = json.dumps(made | {"seal": seal(made)}, indent=1, sort_keys=True) + "\n"
    with replacing(path, len(text)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_made(path: Path) -> None:
    """Raise ConfigError, with the command that makes it again, where a file or folder is not as its stage left it."""
    place = _place(path)
    if place is None:
        return
    workdir, name, stage = place
    if unplaced(workdir, stage).is_dir():
        raise ConfigError(
            f"{name} may be older than what belongs to it: `cgankd {stage}` was stopped while its files took their places; run"
            f" `cgankd {stage}` again"
        )
    known, there = _read(_record(workdir, stage)), _files(workdir, name)
    wrong = [file for file, digest in there.items() if file in known and digest not in known[file]]
    if wrong and not _in_lock(workdir, name):
        raise _other(workdir, wrong[0], f"`cgankd {stage}` wrote", stage)
    if there and not wrong and not known.keys() & there.keys() and _denied(workdir, name):
        raise _other(workdir, name, f"{LOCK} names, and no run here made it", stage)


def is_made(workdir: Path, path: Path) -> bool:
    """Whether a file of a work folder is, to the byte, one that a stage there left or that its dvc.lock names."""
    place = _place(path)
    if place is None or place[0] != workdir.resolve():
        return False
    _, name, stage = place
    there, known = _files(workdir, name), _read(_record(workdir, stage))
    return bool(there) and (
        all(digest in known.get(file, []) for file, digest in there.items()) or _in_lock(workdir, name)
    )


def seal(values: Mapping[str, Any]) -> str:
    """Digest of what a record says, by which the record itself is known to be whole."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def unsealed(values: dict[str, Any]) -> bool:
    """Take the seal off a record that carries its own; whether the record is whole, as one without a seal is taken to be."""
    mark = values.pop("seal", None)
    return mark is None or mark == seal(values)


def damaged(path: Path, what: str | Exception) -> ConfigError:
    """The error for an artifact that cannot be read: the stage that makes it, and what brings it back."""
    if isinstance(what, NotPlain):
        return ConfigError(in_its_place(what))
    what = " ".join(str(what).split())[:200]
    again = f"delete it and run `{maker(str(inside(path)))}` again"
    return ConfigError(f"{path} is damaged ({what}); {again}{way_back(path)}")


def way_back(path: Path) -> str:
    """The words with which git or DVC bring a file or folder back as its stage left it; empty where neither does."""
    place = _place(path)
    if place is None:
        return ""
    workdir, file, stage = place
    try:
        tool = "git checkout --" if _in_git(workdir, file, stage) else None
        if tool is None and _in_dvc(workdir, file, stage):
            tool = "dvc checkout --force"  # without it DVC asks first, or refuses where there is nobody to ask
    except ConfigError:  # the records of git's or DVC's files are damaged too
        return ""
    return f", or bring it back with `{tool} {file}`" if tool else ""


def _other(workdir: Path, file: str, who: str, stage: str) -> ConfigError:
    back = way_back(workdir / file)
    return ConfigError(
        f"{file} is damaged or of elsewhere: it is not the file that {who}; run `cgankd {stage}` again{back}"
    )


def _in_git(workdir: Path, file: str, stage: str) -> bool:
    """Whether `git checkout` brings the file back as its stage made it last."""
    words = ["git", "show", f":./{file}"]
    try:
        done = subprocess.run(words, cwd=workdir, capture_output=True, check=False)
    except OSError:  # there is no git
        return False
    noted = _read(_record(workdir, stage)).get(file)
    if noted:
        return done.returncode == 0 and hashlib.sha256(done.stdout).hexdigest() == noted[-1]
    md5 = hashlib.md5(done.stdout, usedforsecurity=False).hexdigest()
    return done.returncode == 0 and md5 == _parsed(read_lock(workdir)).get(file)


def _in_dvc(workdir: Path, file: str, stage: str) -> bool:
    """Whether `dvc checkout` brings the file back as its stage made it last, and not as an earlier run did."""
    noted, found = _read(_record(workdir, stage)), in_cache(workdir, file)
    return bool(found) and all(file_digest(kept) == noted[name][-1] for name, kept in found.items() if name in noted)


def _record(workdir: Path, stage: str) -> Path:
    return workdir / "artifacts" / FOLDER / f"{stage}.json"


def _read(path: Path) -> dict[str, list[str]]:
    """File -> digests known to be good, newest last. Raises ConfigError where the record is damaged."""
    check_folders(path)  # a file there would turn all of this off
    if not path.exists():
        return {}
    where = f"artifacts/{FOLDER}/{path.name}"
    try:
        found = parse_json(read_text(path))
        whole = isinstance(found, dict) and found.pop("seal", None) == seal(found)
    except NotPlain as error:
        raise ConfigError(f"{where} {error.what}; delete it and run `cgankd {path.stem}` again") from error
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise ConfigError(
            f"{where} is damaged, so that nothing tells whether the files of that stage are whole; run"
            f" `cgankd {path.stem}` again"
        )
    return {str(name): list(digests) for name, digests in found.items()}


def _place(path: Path) -> tuple[Path, str, str] | None:
    """Work folder, name below it and stage of a file that a stage leaves; None for any other. Links are followed."""
    real = path.resolve()
    for number in range(len(real.parts) - 2, 0, -1):
        top, first = real.parts[number : number + 2]
        if top == "artifacts":
            stage = MAKERS.get(first.split(".")[0])
        elif top == "metrics" and number == len(real.parts) - 2:
            stage = first.removesuffix(".json")
        else:
            continue
        known = stage in (*STAGES, *BESIDE_STAGES)
        return (Path(*real.parts[:number]), "/".join(real.parts[number:]), stage) if stage and known else None
    return None


def _files(workdir: Path, name: str) -> dict[str, str]:
    """Name below the work folder -> SHA-256: of a file, or of each file in a folder; nothing where it is not there."""
    path = workdir / name
    if path.is_dir():
        return {f"{name}/{inner}": digest for inner, digest in digests_in(path).items()}
    return {name: file_digest(path)} if path.is_file() else {}


@lru_cache(maxsize=8)
def _parsed(lock: str) -> dict[str, str]:
    return made_md5(lock)


def _in_lock(workdir: Path, name: str) -> bool:
    """Whether dvc.lock names the file, or the folder that it lies in, as it is now."""
    known = _parsed(read_lock(workdir))
    if name in known:
        return known[name] == dvc_md5(workdir / name)
    folder = next((of for of in known if name.startswith(f"{of}/")), None)
    return folder is not None and known[folder] == dvc_md5(workdir / folder)


def _denied(workdir: Path, name: str) -> bool:
    """Whether dvc.lock names the file, but as another."""
    return name in _parsed(read_lock(workdir)) and not _in_lock(workdir, name)


def dvc_md5(path: Path) -> str:
    """The digest by which DVC knows a file or a folder."""
    if not path.is_dir():
        return hashed(path, "md5")
    files = sorted(p for p in path.rglob("*") if p.is_file())
    listed = [{"md5": hashed(p, "md5"), "relpath": p.relative_to(path).as_posix()} for p in files]
    listed.sort(key=lambda one: one["relpath"])
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def same_inputs(read: Mapping[Path, str]) -> Iterable[Path]:
    """Those of the files that are no longer as they were read."""
    for path, digest in read.items():
        if not path.exists() or file_digest(path) != digest:
            yield path
