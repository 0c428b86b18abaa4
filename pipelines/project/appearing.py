"""A folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A place to fill that becomes `folder`, which is new or empty; when anything goes wrong nothing is left of it.

    The place lies beside the folder, or in it where it exists: a shell may stand there.
    """
    there = folder.is_dir()
    made = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=folder if there else folder.parent, prefix=f".{folder.name}-"))
    try:
        place.chmod(0o777 & ~_umask())
        yield place
        if there:
            for path in sorted(place.iterdir()):
                path.rename(folder / path.name)
            place.rmdir()
        else:
            place.rename(folder)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        for parent in made:
            parent.rmdir()
        raise


def _umask() -> int:
    """Rights that new files do not get, read off a file, as asking for it changes it for all threads."""
    with tempfile.TemporaryDirectory() as top:
        probe = Path(top) / "probe"
        probe.mkdir()
        return 0o777 & ~probe.stat().st_mode
