"""Writing a file so that it is never seen half written, with an error that names the file the user asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cgankd.config import ConfigError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place on success and vanishes on failure.

    Raises ConfigError where nothing can be written there: the system's own error would name the temporary file.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file in it, such as {path / 'NAME'}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        # Other files may be read while this one is written; their errors keep their own names.
        own = {str(temporary), str(path), *map(str, path.parents)}
        if error.filename is None or str(error.filename) not in own:
            raise
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}); name a file in a folder you may write to"
        ) from error
    finally:
        # Where the folder could not be made there is nothing to remove, and asking fails once more.
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
