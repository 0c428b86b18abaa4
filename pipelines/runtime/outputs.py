"""What a stage leaves, put in its places all at once: an error or a kill before that leaves the earlier files as they were.

Files are written in a folder of their own, artifacts/resume/made/<stage>.tmp, which mirrors the work folder. When all are whole
it gets the name artifacts/resume/made/<stage>; from then on only renames are left, and whoever opens the stage next, or any
other one, does those that a kill or a failing disk left undone.
"""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from cgankd.data.store.writing import sync
from pipelines.files.layout import BESIDE_STAGES, STAGES, unplaced
from pipelines.files.made import note_made
from pipelines.files.writing import AGAIN, DiskError, replacing

FORMER = "former"
"""Where a folder goes that another takes the place of, until all is done."""
SHARED = "digests"
"""A folder of the work folder that holds files of several stages, so that it is not replaced as a whole."""


class Drawing(Protocol):
    """A picture that can be written to a file (a matplotlib Figure)."""

    def savefig(self, fname: Any, **options: Any) -> None: ...


class Outputs:
    """The new files of one run of a stage, until they take their places."""

    def __init__(self, workdir: Path, stage: str) -> None:
        self.workdir, self.stage = workdir, stage
        self.ready = unplaced(workdir, stage)
        self.folder = self.ready.with_name(f"{stage}.tmp")
        self._begun = False

    def path(self, name: str) -> Path:
        """Where the new file of a name below the work folder is written; its folder exists."""
        if not self._begun:
            shutil.rmtree(self.folder, ignore_errors=True)  # of a killed run
            self._begun = True
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def latest(self, name: str) -> Path:
        """Where a file of this name below the work folder is now: the new one if there is one."""
        new = self.folder / name
        return new if self._begun and new.exists() else self.workdir / name

    def place(self) -> None:
        """Note the digests of all that the stage left and put it in its places. Raises DiskError."""
        self.path("metrics")
        note_made(self.workdir, self.stage, self.folder)
        for folder in sorted(path for path in self.folder.rglob("*") if path.is_dir()):
            sync(folder)
        os.replace(self.folder, self.ready)
        sync(self.ready.parent)
        place_made(self.workdir, self.stage)

    def discard(self) -> None:
        """Forget what was written, where the stage failed."""
        if self._begun:
            shutil.rmtree(self.folder, ignore_errors=True)


def place_made(workdir: Path, stage: str) -> None:
    """Put the files of a stage that wait for it in their places; nothing where none wait. Raises DiskError.

    Call it with the lock of the stage held. It may be stopped anywhere, and the next call goes on.
    """
    ready = unplaced(workdir, stage)
    if not ready.is_dir():
        return
    target, touched = workdir, set[Path]()
    try:
        for new in list(_units(ready)):
            target = workdir / new.relative_to(ready)
            if new.is_dir() and target.is_dir():
                target = target.resolve()  # a folder that the user keeps elsewhere stays there
            target.parent.mkdir(parents=True, exist_ok=True)
            _make_way(target, ready / FORMER, for_folder=new.is_dir())
            _move(new, target)
            touched.add(target.parent)
        for folder in sorted(touched):
            sync(folder)
    except OSError as error:
        why = error.strerror or os.strerror(error.errno or errno.EIO)
        raise DiskError(
            f"{target} cannot be put in its place ({why}), so that the new files of `cgankd {stage}` wait in {ready}; mend that"
            f" {AGAIN}"
        ) from error
    with suppress(OSError):  # emptied; what is left of it is looked at once more by the next call
        shutil.rmtree(ready)


def place_all(workdir: Path) -> None:
    """`place_made` for each stage that no process is at work on."""
    for stage in (*STAGES, *BESIDE_STAGES):
        if unplaced(workdir, stage).is_dir():
            with suppress(Timeout), FileLock(workdir / "artifacts" / "resume" / f"{stage}.lock", timeout=0):
                place_made(workdir, stage)


def _units(ready: Path) -> Iterator[Path]:
    """What is moved as a whole: files, and folders that a stage leaves; the record of the digests, which knows the files of
    before too, comes first."""
    yield from sorted((ready / "artifacts" / SHARED).glob("*"))
    for top in sorted(ready.iterdir()):
        if top.name == "plots":
            yield from sorted(path for path in top.rglob("*") if path.is_file())
        elif top.name != FORMER:
            yield from sorted(path for path in top.iterdir() if path.name != SHARED)


def _make_way(target: Path, former: Path, *, for_folder: bool) -> None:
    """Move a folder away that is in the place of a new file or folder, and delete a file in the place of a folder."""
    if target.is_dir() and not target.is_symlink():
        away = former / target.name
        shutil.rmtree(away, ignore_errors=True)
        former.mkdir(exist_ok=True)
        _move(target, away)
    elif for_folder:
        target.unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    """Rename, by way of a copy beside the target where that is on another disk."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, beside)
        for path in [*beside.rglob("*"), beside]:
            sync(path)
        os.replace(beside, target)
        shutil.rmtree(source) if source.is_dir() else source.unlink()


def draw(path: Path, figure: Drawing) -> None:
    """Write a picture, the same bytes for the same figure."""
    with replacing(path) as temporary, warnings.catch_warnings():
        # Class names may have letters that the font lacks; a box in a picture is no fault of the user's.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(temporary, format="png", metadata={"Software": None})
