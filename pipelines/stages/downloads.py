"""Fetching the official archive of a data set into data.root; the only place that reads images from the network."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from cgankd.config import ConfigError, DataConfig
from cgankd.data.readers.cifar import EDITIONS, is_there


def fetch(cfg: DataConfig, say: Callable[[str], None]) -> None:
    """Download and unpack the archive where `data.download` is true and data.root holds no layout of the source yet.

    The archive's md5 is checked before it is unpacked, and the folder gets its name when it is whole, so that a fetch
    cut short leaves nothing that looks complete. Raises ConfigError naming the address where that fails.
    """
    if not cfg.download or is_there(cfg):
        return
    from torchvision.datasets.utils import download_url

    edition, root = EDITIONS[cfg.source], Path(cfg.root)
    say(f"fetching {edition.url} into {root}")
    try:
        download_url(edition.url, str(root), edition.archive, edition.archive_md5)
        with tempfile.TemporaryDirectory(dir=root, prefix=".unpacking-") as folder:
            with tarfile.open(root / edition.archive) as archive:
                unpack(archive, folder)
            shutil.move(Path(folder) / edition.py_folder, root / edition.py_folder)
    except (OSError, RuntimeError, tarfile.TarError) as problem:
        raise ConfigError(
            f"data.download: {edition.url} could not be fetched into {cfg.root!r} ({problem}); try again, or put"
            f" {edition.py_folder} there yourself"
        ) from None
    (root / edition.archive).unlink()


def unpack(archive: tarfile.TarFile, folder: str) -> None:
    """Files and folders of the archive, none outside `folder`; Python before 3.11.4 has no filter that sees to it."""
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, filter="data")
        return
    whole = [m for m in archive if (m.isfile() or m.isdir()) and not Path(m.name).is_absolute()]
    archive.extractall(folder, [m for m in whole if ".." not in Path(m.name).parts])
