"""Files of the user's own that the stages of a draw read: part of what their results depend on."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

from cgankd.config import Config, ConfigError, DataConfig
from cgankd.config.data import MADE_HERE, REST
from cgankd.data.readers.groups import column_of
from cgankd.data.readers.list_columns import Columns
from cgankd.data.readers.list_lines import read_list
from pipelines.files.artifacts import file_digest
from pipelines.files.digests import fingerprint
from pipelines.files.dvc_lock import dep_paths, read_lock
from pipelines.files.layout import STAGES
from pipelines.networks.named_files import named_files, starting

LISTED = "images of data.root"


def own_files(cfg: Config, stage: str) -> dict[str, str]:
    """Setting -> path of each file of the user's own that a stage reads."""
    found: dict[str, str] = {}
    if stage == "prepare" and cfg.data.source not in MADE_HERE:
        found["data.root"] = cfg.data.root
    if stage == "prepare" and cfg.data.unlabelled not in (None, REST):
        found["data.unlabelled"] = cfg.data.unlabelled
    if stage == "cgan" and cfg.cgan.file is not None:
        found["cgan.file"] = cfg.cgan.file
    found |= {name: path for name, path in named_files(cfg).items() if name.startswith(f"{stage}.")}
    return {name: value for name, value in found.items() if Path(value).exists()}


def own_digests(cfg: Config, stage: str) -> dict[str, str]:
    """Setting -> digest of each of them; of a list of images also that of the images, which lie beside it."""
    found = {name: _digest(Path(value)) for name, value in own_files(cfg, stage).items()}
    return found | ({LISTED: _listed(cfg.data)} if stage == "prepare" and cfg.data.source == "csv" else {})


@cache
def _digest(path: Path) -> str:
    """Once for all draws: a folder of images takes a while."""
    return folder_digest(path) if path.is_dir() else file_digest(path)


def folder_digest(folder: Path) -> str:
    """Digest of the names and contents of all files in a folder, those behind links to folders too, as readers follow them.

    A folder met a second time counts by where it was met first, so that a link back into the folder ends.
    """
    found: dict[Path, str] = {}
    seen: dict[str, Path] = {}
    above = Path(os.path.realpath(folder)).parent
    for top, folders, names in os.walk(folder, followlinks=True):
        place, inner = os.path.realpath(top), Path(top).relative_to(folder)
        if place in seen or above.is_relative_to(place):
            found[inner] = f"-> {seen.get(place, Path('..')).as_posix()}"
            folders.clear()
            continue
        seen[place] = inner
        folders.sort()
        found |= {inner / name: file_digest(path) for name in names if (path := Path(top, name)).is_file()}
    lines = [f"{name.as_posix()} {said}" for name, said in sorted(found.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _listed(data: DataConfig) -> str:
    return fingerprint({}, {str(path): file_digest(path) for path in listed_images(data) if path.is_file()})


def listed_images(data: DataConfig) -> list[Path]:
    """The images that a list of the source `csv` names; none where it cannot be read, which `prepare` says."""
    columns = Columns(data.path_column, data.label_column, column_of(data.groups))
    try:
        return sorted({entry.path for entry in read_list(data.root, columns=columns, skip_broken=True).entries})
    except ConfigError:
        return []


def watched_by_dvc(cfg: Config, workdir: Path) -> bool:
    """Whether DVC would notice a change of every such file: it is, or lies in, what dvc.lock lists, or a digest pins it.

    Raises ConfigError where dvc.lock is damaged.
    """
    tops = {(workdir / path).resolve() for path in dep_paths(read_lock(workdir))}
    pinned = {f"{name}.weights" for name, section in starting(cfg).items() if section.weights_digest is not None}
    pinned |= {"teacher.file"} if cfg.teacher.file_digest is not None else set()
    paths = [Path(v) for stage in STAGES for name, v in own_files(cfg, stage).items() if name not in pinned]
    if cfg.data.source == "csv":
        paths += sorted({path.parent for path in listed_images(cfg.data)})
    return all(_below(path, tops, workdir) and not _has_links(workdir / path) for path in paths)


def _has_links(folder: Path) -> bool:
    """Whether a folder holds links to folders, which DVC, other than readers of images, does not follow."""
    return any(os.path.islink(os.path.join(top, name)) for top, folders, _ in os.walk(folder) for name in folders)


def _below(path: Path, tops: set[Path], workdir: Path) -> bool:
    whole = (workdir / path).resolve()
    return whole in tops or any(parent in tops for parent in whole.parents)
